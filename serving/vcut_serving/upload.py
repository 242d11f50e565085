"""Reads a request for a video: a form with a file, or JSON with the photograph in base64. Nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request

from vcut_runtime import UsageError
from vcut_serving.given_photo import from_text

IMAGE = "input_reference"  # the name that other video servers use
_MOST_FIELDS = 64
_FIELD_BYTES = 1 << 16


class TooLarge(Exception):
    """The body has more bytes than the server takes."""


class Upload(NamedTuple):
    """The photograph's file, and the other fields."""

    image: bytes
    fields: dict[str, Any]


async def read_upload(request: Request, most_bytes: int) -> Upload:
    """Read a request's body.

    Raises:
        TooLarge: it has more than ``most_bytes``.
        UsageError: it has no photograph, or is another type than a form or JSON.
        ClientDisconnect: the client went away.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length) > most_bytes:
        raise TooLarge
    if kind == "multipart/form-data":
        return await _from_form(_bounded(request, most_bytes))
    if kind == "application/json":
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > most_bytes:
                raise TooLarge
        return _from_json(bytes(body))
    raise UsageError(f"the content type is {kind[:60]!r}: send a form (multipart/form-data) or application/json")


def _bounded(request: Request, most_bytes: int) -> Request:
    """Return ``request``, whose body may not have more than ``most_bytes``."""
    receive, taken = request.receive, 0

    async def counted() -> Any:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > most_bytes:
            raise TooLarge
        return message

    return Request(request.scope, counted)


async def _from_form(request: Request) -> Upload:
    try:
        form = await request.form(max_files=1, max_fields=_MOST_FIELDS, max_part_size=_FIELD_BYTES)
    except (TooLarge, ClientDisconnect):
        raise
    except Exception as error:  # of the parser, or an HTTPException around it
        reason = getattr(error, "detail", None) or error
        said = " ".join(str(reason).split())[:200]
        raise UsageError(f"the form cannot be read ({said}): send multipart/form-data") from None
    try:
        fields: dict[str, Any] = {}
        for name, value in form.multi_items():
            if name in fields:
                raise UsageError(f"the field {name[:60]!r} comes twice: send it once")
            fields[name] = value
        photo = fields.pop(IMAGE, fields.pop("image", None))
        if isinstance(photo, UploadFile):
            return Upload(await photo.read(), _texts(fields))
        return Upload(from_text(IMAGE, photo), _texts(fields))
    finally:
        await form.close()


def _texts(fields: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in fields.items():
        if not isinstance(value, str):
            raise UsageError(f"the field {name[:60]!r} is a file: send the photograph as {IMAGE}")
    return dict(fields)


def _from_json(body: bytes) -> Upload:
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the body is not JSON ({' '.join(str(error).split())[:200]}): mend it") from None
    if not isinstance(fields, dict) or len(fields) > _MOST_FIELDS:
        raise UsageError(f"the body is no object of up to {_MOST_FIELDS} fields: send one")
    photo = fields.pop(IMAGE, fields.pop("image", None))
    if isinstance(photo, dict):
        photo = photo.get("image_url")
    return Upload(from_text(IMAGE, photo), fields)
