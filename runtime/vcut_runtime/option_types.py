"""The types of options: each field of a record of options is checked against its annotation, in this one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vcut_runtime.errors import UsageError

_SHOWN = 60  # characters of a refused value
_NAMES: Mapping[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    Sequence: "a list",
    tuple: "a list",
    Mapping: "a mapping",
}


def check_types(options: Any) -> None:
    """Check that each field of a record has a value of its type, and a word of its choice.

    Numbers of numpy become Python's, and a whole number where any number may stand becomes a float.

    Raises:
        UsageError: a field has a value of another type.
    """
    for name, kind in get_type_hints(type(options)).items():
        object.__setattr__(options, name, _checked(name, getattr(options, name), kind))


def words_of(kind: Any) -> tuple[str, ...]:
    """Return the words of ``Literal["a", "b"]`` and of ``Literal["a", "b"] | None``; none for other types."""
    kinds = [part for part in _parts(kind) if part is not type(None)]
    return get_args(kinds[0]) if len(kinds) == 1 and get_origin(kinds[0]) is Literal else ()


def _checked(name: str, value: Any, kind: Any) -> Any:
    parts = _parts(kind)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a number of numpy, or of a tensor
        value = value.item()
    if value is None and type(None) in parts:
        return None
    if isinstance(value, bool):
        accepted = bool in parts
    elif isinstance(value, Integral) and int in parts:
        return int(value)
    elif isinstance(value, Real) and float in parts:
        try:
            return float(value)
        except OverflowError:
            raise UsageError(f"{name} is too large: give a finite number") from None
    elif isinstance(value, Real):
        accepted = False
    elif isinstance(value, str):
        words = words_of(kind)
        if words and value not in words:
            raise UsageError(f"unknown {name} {value!r}: choose {', '.join(words)}")
        accepted = any(part in (str, Path) or value in _words(part) for part in parts)
    else:
        accepted = any(_is_a(value, get_origin(part) or part) for part in parts)
    if not accepted:
        wanted = " or ".join(dict.fromkeys(_named(part) for part in parts if part is not type(None)))
        shown = repr(value)
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        raise UsageError(f"{name} is {' '.join(shown.split())}: give {wanted}")
    return value


def _parts(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union; a type alone is its own member."""
    if get_origin(kind) in (Union, UnionType):
        return tuple(part for member in get_args(kind) for part in _parts(member))
    return (kind,)


def _words(part: Any) -> tuple[str, ...]:
    return get_args(part) if get_origin(part) is Literal else ()


def _is_a(value: Any, kind: Any) -> bool:
    if kind in (Sequence, tuple):
        return isinstance(value, Sequence) or hasattr(value, "__array__")
    return not isinstance(kind, type) or (kind not in (bool, int, float, str) and isinstance(value, kind))


def _named(part: Any) -> str:
    if words := _words(part):
        return ", ".join(map(repr, words))
    kind = get_origin(part) or part
    return _NAMES.get(kind, getattr(kind, "__name__", str(kind)))
