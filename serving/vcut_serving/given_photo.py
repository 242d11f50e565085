"""The photograph of a request: bytes, or base64 in a text."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from vcut_runtime import UsageError

MOST_MEGAPIXELS = 64  # by default


def from_text(name: str, value: Any) -> bytes:
    """Return the bytes of base64, or of a data URL.

    Args:
        name: of the field, for the message.
        value: of the field.

    Raises:
        UsageError: there is no value, or it is something else. Nothing is fetched from an address.
    """
    if not value:
        raise UsageError(f"there is no photograph: send it as {name}")
    if not isinstance(value, str):
        raise UsageError(f"{name} is no text: send the photograph in base64, or as a file of a form")
    if "://" in value[:32]:
        raise UsageError(f"{name} is an address, and this server fetches nothing: send the photograph itself")
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError(f"{name} is not base64: encode the photograph's file") from None
