"""The tokenizer of a base model."""

from typing import Any

from torch import nn
from transformers import AutoTokenizer

from ...errors import AdapterError, UnknownNameError
from ...models.registry import check_name, find_source

OF_AN_ADAPTER = (
    "set tokenizer_name to a folder or Hub id, or fill in the tokens by "
    "config.tokenize(class_names, tokenizer) before the adapter is made"
)
OF_A_BASE_MODEL = (
    "load the base model by its name, folder or Hub id, or set its name_or_path to a folder or Hub id that has its "
    "tokenizer"
)


def base_tokenizer(model: nn.Module, **access: Any) -> Any:
    """The tokenizer of the text encoder of `model`, a [`PromptableModel`]; `access` and errors as of
    [`load_tokenizer`]. `revision` is that of the model, and not of a text encoder that it borrows."""
    if model.borrowed_text_encoder is None:
        return load_tokenizer(model.tokenizer_name, OF_A_BASE_MODEL, **access)
    return load_tokenizer(model.tokenizer_name, **{key: value for key, value in access.items() if key != "revision"})


def load_tokenizer(name: str, remedy: str = OF_AN_ADAPTER, **access: Any) -> Any:
    """
    The tokenizer of a base model.

    Args:
        name: a folder, Hub id or base-model name.
        remedy: what errors tell the user to do.
        access: `cache_dir`, `token`, `local_files_only`, `revision`, as for transformers' models.

    Raises:
        AdapterError: there is none.
    """
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
