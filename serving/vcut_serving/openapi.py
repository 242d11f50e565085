"""What the service's description says about a request: every option of a run, from the one place that defines it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args, get_type_hints

from vcut_runtime import RunOptions
from vcut_runtime.option_types import words_of
from vcut_serving.upload import IMAGE


def _field(kind: Any, about: str, default: Any) -> dict[str, Any]:
    words = words_of(kind)
    kinds = {int: "integer", float: "number"}
    names = [kinds[part] for part in (kind, *get_args(kind)) if part in kinds]
    shown: dict[str, Any] = {
        "type": names[0] if names and str not in get_args(kind) else "string",
        "description": about,
    }
    if words:
        shown |= {"type": "string", "enum": list(words)}
    return shown if default is None else {**shown, "default": default}


def video_fields() -> dict[str, dict[str, Any]]:
    """Return the fields of a request but the photograph, each as a JSON schema."""
    hints = get_type_hints(RunOptions)
    shown = {f.name: _field(hints[f.name], f.metadata["about"], f.default) for f in fields(RunOptions)}
    shown["size"] = {
        "type": "string",
        "description": "WIDTHxHEIGHT, or auto: the size nearest to the photograph's shape.",
    }
    shown["guidance_scale"] = {"type": "number", "description": "The same as max_guidance_scale."}
    shown["model"] = {"type": "string", "description": "The server's model, or vcut."}
    shown["prompt"] = {"type": "string", "description": "Ignored: SVD has no text input."}
    return shown


def _body(photo: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "required": [IMAGE], "properties": {IMAGE: photo, **video_fields()}}}


VIDEO_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": _body({"type": "string", "format": "binary", "description": "The photograph."}),
            "application/json": _body({"type": "string", "description": "The photograph in base64, or a data URL."}),
        },
    }
}
