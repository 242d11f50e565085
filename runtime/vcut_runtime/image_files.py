"""Opening image files: which formats, how large, and what a refusal says."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vcut_runtime.errors import UsageError, path_errors

MOST_PIXELS = 256_000_000  # a phone's 200 megapixels, 0.8 GB as RGB
# What Pillow decodes itself. It hands EPS to Ghostscript, which runs programs.
_FORMATS = ["AVIF", "BMP", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "PSD", "TGA", "TIFF", "WEBP"]
_ANIMATIONS = ("AVIF", "GIF", "PNG", "WEBP")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_PILLOWS_LIMIT = Image.MAX_IMAGE_PIXELS
_one_at_a_time = threading.Lock()  # Pillow's limit and Python's warning filters belong to the whole process


class TooManyPixels(UsageError):
    """An image is larger than what may be decoded."""


def open_file(source: Path | BinaryIO, most_pixels: int | None = None) -> tuple[Image.Image, list[str]]:
    """Open an image file, or read the image from an open file; see :func:`read_image`.

    Raises:
        UsageError: there is no such file, or it cannot be read.
    """
    if not isinstance(source, Path):
        return read_image(source, "the image's data", most_pixels)
    check_file(source)
    try:
        file = source.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {source} ({reason(error)}): check the path") from None
    with file:
        return read_image(file, str(source), most_pixels)


def read_image(file: BinaryIO, name: str, most_pixels: int | None = None) -> tuple[Image.Image, list[str]]:
    """Decode the first picture of a file and turn it upright by its EXIF orientation; also return notes about it.

    Args:
        file: seekable; it is read from its first byte.
        name: of the file, for errors.
        most_pixels: that are decoded; None for ``MOST_PIXELS``.

    Raises:
        TooManyPixels: it has more than ``most_pixels``; nothing was decoded.
        UsageError: it is no image, or it is damaged.
    """
    try:
        file.seek(0)
        start = file.read(12)
        file.seek(0)
        if start[4:8] == b"ftyp" and start[8:] in _HEIF_BRANDS:
            _learn_heif(name)
        with patient_pillow(name, most_pixels):
            Image.init()
            with Image.open(file, formats=[kind for kind in _FORMATS if kind in Image.OPEN]) as opened:
                notes = []
                if opened.format in _ANIMATIONS and getattr(opened, "is_animated", False):
                    notes.append("only the first picture of the animation is used")
                opened.load()
                if "icc_profile" not in opened.info and _is_adobe_rgb(opened):
                    notes.append("the image is Adobe RGB without a colour profile: its colours come out paler")
                upright = ImageOps.exif_transpose(opened)
    except UsageError:
        raise
    except UnidentifiedImageError:
        raise UsageError(f"{name} is not an image that vcut reads: give a JPEG, PNG or WebP file") from None
    except Exception as error:  # Pillow's decoders raise many kinds for damaged files
        raise UsageError(f"cannot read {name} ({reason(error)}): give an undamaged JPEG, PNG or WebP file") from None
    return upright, notes


def check_file(path: Path) -> None:
    """Raise a UsageError if there is no file at ``path``."""
    with path_errors(path, "the image"):
        if not path.is_file():
            raise UsageError(f"no image at {path}: check the path")


@contextmanager
def patient_pillow(name: str, most_pixels: int | None = None) -> Iterator[None]:
    """Let Pillow decode up to ``most_pixels`` without a warning. A limit that the program itself set stays.

    Raises:
        TooManyPixels: the image ``name`` has more.
    """
    with _one_at_a_time, warnings.catch_warnings():
        own, most_pixels = Image.MAX_IMAGE_PIXELS == _PILLOWS_LIMIT, most_pixels or MOST_PIXELS
        warnings.simplefilter("ignore")  # they are about metadata; damaged pixels are errors
        if own:
            Image.MAX_IMAGE_PIXELS = most_pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            most = most_pixels if own else 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise TooManyPixels(f"{name} has more than {most / 1e6:g} megapixels: make it smaller first") from None
        finally:
            if own:
                Image.MAX_IMAGE_PIXELS = _PILLOWS_LIMIT


def reason(error: Exception) -> str:
    """Return an error's text on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Tell whether EXIF says so, as cameras do that write no profile."""
    try:
        return image.getexif().get_ifd(ExifTags.IFD.Interop).get(1) == "R03"
    except KeyError:  # what some releases of Pillow raise if there is nothing
        return False


def _learn_heif(name: str) -> None:
    """Make Pillow read HEIC and HEIF, if ``pillow-heif`` is installed."""
    if find_spec("pillow_heif") is None:
        raise UsageError(
            f"{name} is a HEIC image: install its reader with pip install 'vcut[heif]', or give a JPEG file"
        )
    import pillow_heif

    pillow_heif.register_heif_opener()
