"""Input images: anything a user has, to float32 [1, 3, H, W] in [0, 1]."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vcut_runtime.errors import UsageError
from vcut_runtime.image_sources import ImageLike, open_source

Fit = Literal["stretch", "crop"]


def load_image(image: ImageLike, height: int, width: int, fit: Fit = "stretch") -> np.ndarray:
    """Return ``image`` as float32 [1, 3, height, width] in [0, 1].

    Args:
        image: see :func:`~vcut_runtime.image_sources.open_source`; arrays are uint8, or float in [0, 1].
        height: target height in pixels.
        width: target width in pixels.
        fit: ``stretch`` resizes to the target whatever the aspect ratio, as diffusers does; ``crop`` keeps the aspect
            ratio and cuts what hangs over, centred.

    Raises:
        UsageError: the file is missing or no image, or the array has another shape or range.
    """
    if fit not in get_args(Fit):
        raise UsageError(f"unknown fit {fit!r}: choose stretch or crop")
    source = open_source(image)
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    elif not isinstance(source, Image.Image):
        source = _open(source)
    image = _rgb(source)
    if fit == "crop":
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    elif image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    pixels = np.asarray(image, dtype=np.float32) / 255.0
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


@lru_cache(maxsize=16)
def resize_matrix(pixels: int, size: int) -> np.ndarray:
    """Return one axis of diffusers' antialiased resize, from ``pixels`` to ``size``, as a matrix [size, pixels].

    A Gaussian blur that reflects at the edges, then bicubic interpolation (a = -0.75) with aligned corners: both are
    linear and separable, so the whole resize is ``rows @ image @ columns``.
    """
    sigma = max((pixels / size - 1.0) / 2.0, 0.001)
    taps = int(max(4.0 * sigma, 3.0)) | 1
    offsets = np.arange(taps) - taps // 2
    kernel = np.exp(-(offsets**2) / (2.0 * sigma**2))
    reflected = np.abs(np.arange(pixels)[:, None] + offsets)
    reflected = pixels - 1 - np.abs(pixels - 1 - reflected)
    blur = np.zeros((pixels, pixels))
    np.add.at(blur, (np.arange(pixels)[:, None], reflected), kernel / kernel.sum())

    step = np.float32((pixels - 1) / (size - 1) if size > 1 else 0.0)
    position = np.arange(size, dtype=np.float32) * step  # in float32, as torch computes it
    first = np.floor(position).astype(int)[:, None] + np.arange(-1, 3)
    x = np.abs(position[:, None] - first)
    near = (1.25 * x - 2.25) * x**2 + 1.0
    far = ((-0.75 * x + 3.75) * x - 6.0) * x + 3.0
    bicubic = np.zeros((size, pixels))
    np.add.at(bicubic, (np.arange(size)[:, None], first.clip(0, pixels - 1)), np.where(x <= 1.0, near, far))
    result = (bicubic @ blur).astype(np.float32)
    result.flags.writeable = False  # it is shared
    return result


def _open(source: Path | BinaryIO) -> Image.Image:
    path = source if isinstance(source, Path) else "the image's data"
    try:
        if isinstance(source, Path) and not source.is_file():
            raise UsageError(f"no image at {source}: check the path")
        with Image.open(source) as opened:
            opened.load()
            return ImageOps.exif_transpose(opened)
    except UsageError:
        raise
    except UnidentifiedImageError:
        raise UsageError(f"{path} is not an image that Pillow knows: give a JPEG, PNG or WebP file") from None
    except Exception as error:  # Pillow's decoders raise many kinds for damaged files
        raise UsageError(f"cannot read {path} ({_reason(error)}): give an undamaged JPEG, PNG or WebP file") from None


def _rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit RGB; 16-bit grey is scaled, where Pillow would clip it to white."""
    try:
        if image.mode.startswith("I"):
            grey = np.clip(np.asarray(image, dtype=np.float64), 0, 65535) / 257.0
            return Image.fromarray(np.round(grey).astype(np.uint8)).convert("RGB")
        return image.convert("RGB")
    except Exception as error:  # an image opened lazily is decoded only now
        raise UsageError(f"cannot decode the image ({_reason(error)}): give an undamaged one") from None


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise UsageError(f"an image array must be [height, width, 3], this one is {list(array.shape)}")
    if array.dtype == np.uint8:
        return Image.fromarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise UsageError(f"an image array must be uint8, or float between 0 and 1; this one is {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0.0 and high <= 1.0):  # also catches NaN
        raise UsageError(f"a float image array must lie between 0 and 1; this one goes from {low:g} to {high:g}")
    return Image.fromarray(np.round(array * 255.0).astype(np.uint8))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
