"""Whether the values of a configuration are of the types that its fields say: files come from anywhere."""

import numbers
import types
import typing
from collections.abc import Collection, Iterable
from dataclasses import fields
from functools import cache
from typing import Any

from ...errors import AdapterError

_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "nothing (null)"}


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def check_types(config: Any, without: Collection[str] = ()) -> None:
    """
    Args:
        config: a dataclass.
        without: fields that may hold anything.

    Raises:
        AdapterError: a field holds a value of another type; the message names field, value and type.
    """
    hints = _hints(type(config))
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in without and not _fits(value, hints[field.name]):
            text = repr(value)
            text = text if len(text) <= 80 else f"{text[:77]}..."
            raise AdapterError(f"{field.name} is {text}; it must be {_description(hints[field.name])}")


def _fits(value: Any, hint: Any) -> bool:
    """Types that are none of JSON's are not asked about."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    if origin is list:
        # any collection will do where a list is meant, as configurations are also made in Python
        is_list = isinstance(value, Iterable) and not isinstance(value, (str, bytes, dict))
        return is_list and all(_fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(k, parts[0]) and _fits(v, parts[1]) for k, v in value.items())
    return True


def _description(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_description, parts)))
    if origin is list:
        return f"a list, each entry {_description(parts[0])}"
    if origin is dict:
        return "an object of names and values"
    return _NAMES.get(hint, getattr(hint, "__name__", str(hint)))
