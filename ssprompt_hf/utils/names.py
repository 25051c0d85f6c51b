"""Class names as text encoders should read them."""

_NAME_SUFFIXES = ("-other", "-merged", "-stuff")


def clean_class_name(name: str) -> str:
    """Remove the suffixes with which COCO marks merged and stuff classes, as the official ensemble of SEEM does."""
    for suffix in _NAME_SUFFIXES:
        name = name.replace(suffix, "")
    return name
