"""The tokenizer of a base model."""

from typing import Any

from transformers import AutoTokenizer

from ...errors import AdapterError, UnknownNameError
from ...models.registry import check_name, find_source


def load_tokenizer(name: str, **access: Any) -> Any:
    """
    The tokenizer of a base model.

    Args:
        name: a folder, Hub id or base-model name.
        access: `cache_dir`, `token`, `local_files_only`, as for transformers' models.

    Raises:
        AdapterError: there is none.
    """
    remedy = (
        "set tokenizer_name to a folder or Hub id, or fill in the tokens by "
        "config.tokenize(class_names, tokenizer) before the adapter is made"
    )
    if not name:
        raise AdapterError(f"the base model does not say where its tokenizer is: {remedy}")
    try:
        check_name(name)
        try:
            source = find_source(name, **access)
        except (OSError, UnknownNameError):  # a tokenizer alone
            return AutoTokenizer.from_pretrained(name, **access)
        return source.family.load_tokenizer(source.path, **source.access)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AdapterError(f"no tokenizer was found at {name!r} ({reason}): {remedy}") from error
