"""Whether what JSON holds is of the types that dataclasses declare: the type hints are the schema."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

_WORDS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    str: "a text",
    bool: "true or false",
    type(None): "null",
    dict: "an object",
}


def check(where: str, values: Any, hints: Mapping[str, Any]) -> None:
    """Raise unless every entry that is there is of the type of its hint; dataclasses in it are looked into.

    Args:
        where: what the sentence of an error calls the object, such as "model_config"; "" for the outermost.
        values: what JSON has returned, an object.
        hints: of the entries; those of other names are left to the caller.

    Raises:
        TypeError: an entry is of another type.
    """
    if not isinstance(values, dict):
        raise TypeError(f"{where} must be an object, got {_short(values)}; write one.")
    for name, hint in hints.items():
        if name not in values:
            continue
        value, full = values[name], f"{where}.{name}" if where else name
        part = next((part for part in _options(hint) if _is_object_of(value, part)), None)
        if part is not None:
            check(full, value, fields_of(part))
        elif not _fits(value, hint):
            raise TypeError(f"{full} must be {described(hint)}, got {_short(value)}; correct it.")


def fields_of(part: type[Any]) -> Mapping[str, Any]:
    """Return the hints of the fields of a dataclass by their names."""
    hints = typing.get_type_hints(part)
    return {field.name: hints[field.name] for field in dataclasses.fields(part)}


def _options(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _is_object_of(value: Any, part: Any) -> bool:
    """Return whether it is an object that says that it is of this dataclass."""
    return dataclasses.is_dataclass(part) and isinstance(value, dict) and value.get("type") == part.__name__  # type: ignore[union-attr]


def _fits(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        if not isinstance(value, (list, tuple)):
            return False
        if kinds[-1] is Ellipsis:
            return all(_fits(entry, kinds[0]) for entry in value)
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    options = _options(hint)
    if len(options) > 1:
        return any(_fits(value, option) for option in options)
    if isinstance(value, bool):  # which is an int to Python
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float))
    return hint in _WORDS and isinstance(value, hint)


def described(hint: Any) -> str:
    """Return a type in words."""
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        length = "" if kinds[-1] is Ellipsis else f" of {len(kinds)}"
        return f"a list{length}, each {described(kinds[0])}"
    options = _options(hint)
    if len(options) > 1:
        return " or ".join(map(described, options))
    if dataclasses.is_dataclass(hint):
        return f"an object of type {hint.__name__}"  # type: ignore[union-attr]
    return _WORDS[hint]


def _short(value: Any) -> str:
    """Return a value for a sentence; of long ones the beginning, of objects and lists no more than that."""
    if isinstance(value, (dict, list, tuple)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = repr(value) if not isinstance(value, int) or abs(value) < 1 << 64 else "a longer integer"
    return text if len(text) <= 60 else f"{text[:60]}..."
