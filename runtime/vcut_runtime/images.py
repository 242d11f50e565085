"""Input images: anything a user has, to float32 [1, 3, H, W] in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias, cast, get_args

import numpy as np
from PIL import Image, ImageFile, ImageFilter, ImageOps

from vcut_runtime.errors import UsageError
from vcut_runtime.image_colours import to_srgb
from vcut_runtime.image_files import open_file, patient_pillow, reason
from vcut_runtime.image_sources import ImageSource, open_source

Fit = Literal["stretch", "crop", "pad", "blur"]
SAME_SHAPE = 1.02  # a stretch by less is not worth a word


@dataclass(frozen=True)
class Photo:
    """An opened image: upright, 8-bit sRGB (mode RGB), and notes about what had to be assumed to read it."""

    image: Image.Image
    notes: tuple[str, ...] = ()


ImageLike: TypeAlias = "ImageSource | Photo"


def list_images(image: ImageLike | Sequence[ImageLike]) -> tuple[list[ImageLike], bool]:
    """Return the images of a call, and whether it gave a list of them."""
    if isinstance(image, Sequence) and not isinstance(image, (str, bytes, bytearray, memoryview)):
        return list(cast("Sequence[ImageLike]", image)), True
    return [cast("ImageLike", image)], False


def load_image(image: ImageLike, height: int, width: int, fit: Fit = "stretch") -> np.ndarray:
    """Return ``image`` as float32 [1, 3, height, width] in [0, 1]; see :func:`open_image` and :func:`fit_image`."""
    return fit_image(open_image(image), height, width, fit)


def open_image(image: ImageLike, most_pixels: int | None = None) -> Photo:
    """Open a file, or take an image as it is: upright, in sRGB, on white where it is transparent.

    Args:
        image: see :func:`~vcut_runtime.image_sources.open_source`; arrays are uint8, or float in [0, 1].
        most_pixels: of a file; None for 256 million.

    Raises:
        TooManyPixels: the file has more; nothing was decoded.
        UsageError: the file is missing, damaged, too large or no image, or the array has another shape or range.
    """
    if isinstance(image, Photo):
        return image
    source = open_source(image)
    if isinstance(source, np.ndarray):
        return Photo(_from_array(source))
    notes: list[str] = []
    if not isinstance(source, Image.Image):
        source, notes = open_file(source, most_pixels)
    try:
        with patient_pillow("the image"):
            if isinstance(source, ImageFile.ImageFile):  # nobody has turned it yet
                source = ImageOps.exif_transpose(source)
            upright, more = to_srgb(source)
    except UsageError:
        raise
    except Exception as error:  # an image opened lazily is decoded only now
        raise UsageError(f"cannot decode the image ({reason(error)}): give an undamaged one") from None
    return Photo(upright, (*notes, *more))


def fit_image(photo: Photo, height: int, width: int, fit: Fit = "stretch") -> np.ndarray:
    """Return a photograph as float32 [1, 3, height, width] in [0, 1].

    Args:
        photo: the opened image.
        height: target height in pixels.
        width: target width in pixels.
        fit: what happens if the shapes differ. ``stretch`` resizes to the target, as diffusers does. ``crop`` cuts what
            hangs over, centred. ``pad`` adds black borders. ``blur`` fills the borders with the image, enlarged and
            blurred.

    Raises:
        UsageError: ``fit`` is unknown.
    """
    if fit not in get_args(Fit):
        raise UsageError(f"unknown fit {fit!r}: choose {', '.join(get_args(Fit))}")
    image, size = photo.image, (width, height)
    if fit == "crop":
        image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    elif fit in ("pad", "blur"):
        image = _bordered(image, size, blurred=fit == "blur")
    elif image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    pixels = np.asarray(image, dtype=np.float32) / 255.0
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def fit_notes(photo: Photo, height: int, width: int, fit: Fit) -> tuple[str, ...]:
    """Return what a user should know about ``photo`` in a video of this size, each on one line."""
    old_width, old_height = photo.image.size
    wider = (width / old_width) / (height / old_height)
    factor = max(wider, 1 / wider)
    if fit != "stretch" or factor <= SAME_SHAPE:
        return photo.notes
    side = "width" if wider > 1 else "height"
    stretched = f"the image of {old_width}x{old_height} is stretched {factor:.2f} x in {side} to {width}x{height}"
    return (*photo.notes, f"{stretched}: --fit crop, pad or blur keeps its shape")


def _bordered(image: Image.Image, size: tuple[int, int], *, blurred: bool) -> Image.Image:
    """Return ``image`` as large as fits into ``size``, centred on black or on a blurred copy that fills it."""
    scale = min(size[0] / image.width, size[1] / image.height)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if blurred:
        radius = max(size) / 40  # no detail of the border survives
        whole = ImageOps.fit(image, size, Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(radius))
    else:
        whole = Image.new("RGB", size)
    place = ((size[0] - width) // 2, (size[1] - height) // 2)
    whole.paste(image.resize((width, height), Image.Resampling.LANCZOS), place)
    return whole


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
