"""Options as records: each is documented once, checked in one place, and turned into a command line by Typer.

A record is a frozen dataclass whose fields are made by :func:`option`. Commands take it as a parameter and are
decorated with :func:`takes_options`; functions take a record, or its fields as keywords, see :func:`merge`. An option
of type ``tuple[str, ...]`` may be given several times.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass, replace
from functools import wraps
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import typer
from rich.markup import escape

from vcut_runtime.errors import UsageError

Record = TypeVar("Record")


def option(
    default: Any, about: str, *flags: str, parse: Callable[[str], Any] | None = None, command: bool = True, **more: Any
) -> Any:
    """Declare a field of a record of options.

    Args:
        default: its value if none is given.
        about: what it does; the command line's help.
        flags: of the command line; ``--field-name`` by default.
        parse: reads its value from the command line's text.
        command: whether commands have it too.
        more: further facts about the field, kept in its metadata.
    """
    return field(default=default, metadata={"about": about, "flags": flags, "parse": parse, "command": command, **more})


def merge(kind: type[Record], options: Record | None, keywords: Mapping[str, Any]) -> Record:
    """Return ``options``, or the defaults, with the fields in ``keywords`` changed.

    Raises:
        UsageError: a keyword is no field of ``kind``, or its value is impossible.
    """
    names = [f.name for f in fields(kind)]  # pyright: ignore[reportArgumentType]
    for name in keywords:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(names)}"
            raise UsageError(f"unknown option {name!r}: {hint}")
    return kind(**keywords) if options is None else replace(options, **keywords)  # pyright: ignore


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a Typer command one parameter for each field of the records that it takes."""
    signature, hints = inspect.signature(command), get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    records: dict[str, type] = {}
    for parameter in signature.parameters.values():
        kind: Any = hints[parameter.name]
        if isinstance(kind, type) and is_dataclass(kind):
            records[parameter.name] = kind
            parameters += [_parameter(f, kind) for f in fields(kind) if f.metadata["command"]]
        else:
            parameters.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def wrapper(**given: Any) -> None:
        for name, kind in records.items():
            values = {}
            for f in fields(kind):
                if f.name in given:
                    value, parse = given.pop(f.name), f.metadata["parse"]
                    value = tuple(value) if isinstance(value, list) else value
                    values[f.name] = parse(value) if parse and isinstance(value, str) else value
            given[name] = kind(**values)
        command(**given)

    wrapper.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del wrapper.__wrapped__  # pyright: ignore[reportAttributeAccessIssue]  # Typer would read its signature
    return wrapper


def check_numbers(options: Any, **least: float) -> None:
    """Check the numbers of a record: all are finite, and those named are at least as large as given.

    Raises:
        UsageError: one is not.
    """
    for f in fields(options):
        value = getattr(options, f.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{f.name} is {value}: give a finite number")
        if f.name in least and value is not None and value < least[f.name]:
            raise UsageError(f"{f.name} is {value}: give at least {least[f.name]}")


def check_choices(options: Any) -> None:
    """Check that each field whose type is a choice of words has one of these words.

    Raises:
        UsageError: one has not.
    """
    for name, kind in get_type_hints(type(options)).items():
        value, words = getattr(options, name), _words(kind)
        if words and isinstance(value, str) and value not in words:
            raise UsageError(f"unknown {name} {value!r}: choose {', '.join(words)}")


def _parameter(f: Field[Any], record: type) -> inspect.Parameter:
    kind = get_type_hints(record)[f.name]
    if f.metadata["parse"] or _words(kind):
        kind = str | None if f.default is None or f.metadata["parse"] else str
    repeated = get_origin(kind) is tuple
    if repeated:
        kind = list[str]
    flags = f.metadata["flags"] or (f"--{f.name.replace('_', '-')}",)
    shown = typer.Option(*flags, help=escape(f.metadata["about"]), show_default=not (f.metadata["parse"] or repeated))
    default = inspect.Parameter.empty if f.default is MISSING else [] if repeated else f.default
    return inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, shown])


def _words(kind: Any) -> tuple[str, ...]:
    """Return the words of ``Literal["a", "b"]`` and of ``Literal["a", "b"] | None``; none for other types."""
    if get_origin(kind) in (Union, UnionType):
        kinds = [part for part in get_args(kind) if part is not type(None)]
        return _words(kinds[0]) if len(kinds) == 1 else ()
    return get_args(kind) if get_origin(kind) is Literal else ()
