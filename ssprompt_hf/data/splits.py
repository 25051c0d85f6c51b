"""The usual names of splits, and which of them mean the same."""

SPLIT_ALIASES = (("train", "training"), ("val", "validation", "valid", "dev"), ("test", "testing"))

SPLIT_FLAGS = "Name another as `split` (--train_split, --eval_split)."
"""Ends messages about a split that is not there."""


def split_aliases(split: str) -> tuple[str, ...]:
    """`split` first, then its other spellings: `val` -> `("val", "validation", "valid", "dev")`."""
    group = next((group for group in SPLIT_ALIASES if split in group), ())
    return (split, *(name for name in group if name != split))
