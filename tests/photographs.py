"""Photographs as files."""

from __future__ import annotations

from io import BytesIO

from PIL import Image


def png(photo: Image.Image, size: tuple[int, int] = (64, 48)) -> bytes:
    """Return ``photo``, scaled to width and height, as a PNG file."""
    file = BytesIO()
    photo.resize(size).save(file, "PNG")
    return file.getvalue()
