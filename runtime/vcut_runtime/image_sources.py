"""What an image can come from: a file, its bytes, a file object, a PIL image, an array or a tensor."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
from PIL import Image

from vcut_runtime.arrays import SupportsDLPack, as_array
from vcut_runtime.errors import UsageError

ImageSource: TypeAlias = "str | Path | bytes | BinaryIO | Image.Image | np.ndarray | SupportsDLPack"
_BYTES = (bytes, bytearray, memoryview)
_CHANNELS = (1, 3, 4)  # grey, RGB, with transparency
_URL = re.compile(r"(data:|[a-z][a-z0-9+.-]+:/)", re.IGNORECASE)  # Path makes one slash of two; C:\ is no URL


def open_source(image: ImageSource) -> Path | BinaryIO | Image.Image | np.ndarray:
    """Return ``image`` as one of four kinds: a path, a file object, a PIL image, or an array [H, W, channels].

    An array or a tensor is [H, W, 3] or [3, H, W], or either with a leading axis of 1. Where both the first and the
    last axis could be the channels, they are the last one of an array and the first one of a tensor.

    Raises:
        UsageError: it is a URL, several images, or nothing that could be an image.
    """
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, (str, os.PathLike)):
        refuse_url(image)
        return Path(image)
    if isinstance(image, _BYTES):
        return io.BytesIO(bytes(image))
    if hasattr(image, "read"):
        file = cast("BinaryIO", image)
        can_seek = hasattr(file, "seekable") and file.seekable()
        return file if can_seek else io.BytesIO(file.read())
    array = as_array(image)
    if array is None:
        raise UsageError(
            f"an image cannot be of type {type(image).__name__}: give a path, bytes, a file object, a PIL image, "
            "an array or a tensor"
        )
    return _channels_last(array, of_tensor=not isinstance(image, np.ndarray))


def refuse_url(path: Any) -> None:
    """Refuse an address in the place of a path.

    Raises:
        UsageError: it is one.
    """
    if match := _URL.match(str(path)):
        raise UsageError(
            f"the image is a URL ({match[0]}...) and vcut opens no connection: download it, then give the file or its "
            "bytes"
        )


def _channels_last(array: np.ndarray, *, of_tensor: bool) -> np.ndarray:
    if array.ndim == 4:
        if len(array) != 1:
            raise UsageError(f"the array holds {len(array)} images: give them as a list, one array each")
        array = array[0]
    if array.ndim == 3 and array.shape[0] in _CHANNELS and (of_tensor or array.shape[2] not in _CHANNELS):
        return array.transpose(1, 2, 0)
    return array
