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
from typing import Annotated, Any, TypeVar, get_origin, get_type_hints

import numpy as np
import typer
from rich.markup import escape

from vcut_runtime.errors import UsageError
from vcut_runtime.option_types import check_types as check_types
from vcut_runtime.option_types import words_of

Record = TypeVar("Record")


MOST_SEED = 2**63 - 1
MOST_THREADS = 1024
_LARGEST = float(np.finfo(np.float32).max)


def option(
    default: Any,
    about: str,
    *flags: str,
    least: float | None = None,
    most: float | None = None,
    parse: Callable[[str], Any] | None = None,
    command: bool = True,
    **more: Any,
) -> Any:
    """Declare a field of a record of options.

    Args:
        default: its value if none is given.
        about: what it does; the command line's help.
        flags: of the command line; ``--field-name`` by default.
        least: of a number, see :func:`check_numbers`.
        most: of a number. Every whole number has a least and a most, so that none takes a machine's memory.
        parse: reads its value from the command line's text.
        command: whether commands have it too.
        more: further facts about the field, kept in its metadata.
    """
    facts = {"about": about, "flags": flags, "least": least, "most": most, "parse": parse, "command": command}
    return field(default=default, metadata={**facts, **more})


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


def check_numbers(options: Any) -> None:
    """Check the numbers of a record: graphs compute in float32, so all are finite there, and within their bounds.

    Raises:
        UsageError: one is not.
    """
    for f in fields(options):
        value, least, most = getattr(options, f.name), f.metadata["least"], f.metadata["most"]
        if not isinstance(value, int | float):
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{f.name} is {value}: give a finite number")
        said = f"{value:.15g}" if isinstance(value, float) else value  # 7 and not 7.0
        if least is not None and value < least:
            raise UsageError(f"{f.name} is {said}: give at least {least}")
        if most is not None and value > most:
            raise UsageError(f"{f.name} is {said}: give at most {most}")
        if abs(value) > _LARGEST:
            raise UsageError(f"{f.name} is {said}: give a number that is finite in float32")


def _parameter(f: Field[Any], record: type) -> inspect.Parameter:
    kind = get_type_hints(record)[f.name]
    if f.metadata["parse"] or words_of(kind):
        kind = str | None if f.default is None or f.metadata["parse"] else str
    repeated = get_origin(kind) is tuple
    if repeated:
        kind = list[str]
    flags = f.metadata["flags"] or (f"--{f.name.replace('_', '-')}",)
    shown = typer.Option(*flags, help=escape(f.metadata["about"]), show_default=not (f.metadata["parse"] or repeated))
    default = inspect.Parameter.empty if f.default is MISSING else [] if repeated else f.default
    return inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, shown])
