"""The fields of a request for a video: names that other video servers use, and every option of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from vcut_runtime import RunOptions, UsageError
from vcut_runtime.command_options import merge
from vcut_runtime.option_types import words_of

_KINDS = get_type_hints(RunOptions)
_PARSE = {f.name: f.metadata["parse"] for f in fields(RunOptions)}
_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")
_RENAMED = {"guidance_scale": "max_guidance_scale", "steps": "num_inference_steps", "frames": "num_frames"}
# Fields that change nothing here. Clients of other servers send them.
_NOTES = {
    "prompt": "SVD has no text input: prompt was ignored",
    "negative_prompt": "SVD has no text input: negative_prompt was ignored",
}


def read_fields(given: Mapping[str, Any], model: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return options of a run by name, and notes for the client.

    Args:
        given: fields of the request but the photograph, as texts or as values of JSON.
        model: of the bundle.

    Raises:
        UsageError: a field is unknown or impossible.
    """
    options: dict[str, Any] = {}
    notes: list[str] = []
    for name, value in given.items():
        if value is None or value == "":
            continue
        if name in _NOTES:
            notes.append(_NOTES[name])
        elif name == "model":
            if value not in (model, "vcut"):
                raise UsageError(f"model is {value!r}: this server has {model!r}")
        elif name == "size" and value != "auto":
            match = _SIZE.fullmatch(str(value))
            if match is None:
                raise UsageError(f"size is {value!r}: give WIDTHxHEIGHT, such as 1024x576, or auto")
            options |= {"width": int(match[1]), "height": int(match[2])}
        else:
            options[_RENAMED.get(name, name)] = value
    run_options(options)
    return options, tuple(notes)


def run_options(values: Mapping[str, Any]) -> RunOptions:
    """Return options of a run whose values may be texts, as a form sends them.

    Raises:
        UsageError: a name is unknown or a value is impossible.
    """
    read = {name: _value(name, value) if isinstance(value, str) else value for name, value in values.items()}
    return merge(RunOptions, None, read)


def _value(name: str, text: str) -> Any:
    """Return the value of a text; that of an unknown option stays a text."""
    if name not in _KINDS or words_of(_KINDS[name]):
        return text
    return parse(text) if (parse := _PARSE[name]) else _number(text)


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
