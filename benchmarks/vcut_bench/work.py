"""A folder that keeps the results of long measurements, so that a second run continues where the first stopped."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vcut_runtime.errors import UsageError, VcutError
from vcut_runtime.images import Fit, ImageLike, load_image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MOST_VIDEOS = 10_000  # of an image, and repeats of a measurement
_IDENTITY = "work.json"


@dataclass(frozen=True)
class InputImage:
    """An image of the measurement. Its hash names files in the work folder, because names of images may repeat."""

    name: str
    pixels: np.ndarray  # uint8 [H, W, 3], of the bundle's size
    sha256: str  # of the pixels

    @property
    def key(self) -> str:
        """The part of a file name that stands for this image."""
        return self.sha256[:16]


def find_images(folder: str | Path) -> list[Path]:
    """Return the images in ``folder``, by name.

    Raises:
        UsageError: there is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"no folder of images at {folder}: check --images")
    images = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    if not images:
        raise UsageError(f"no image ({', '.join(IMAGE_SUFFIXES)}) in {folder}: check --images")
    return images


def load_pixels(image: ImageLike, height: int, width: int, fit: Fit = "crop") -> np.ndarray:
    """Return an image as uint8 [H, W, 3] in the size that both pipelines get.

    Raises:
        UsageError: it is not an image.
    """
    return np.round(load_image(image, height, width, fit)[0].transpose(1, 2, 0) * 255).astype(np.uint8)


def load_input(path: Path, height: int, width: int, fit: Fit) -> InputImage:
    """Load an image of the measurement, see :func:`load_pixels`."""
    pixels = load_pixels(path, height, width, fit)
    return InputImage(path.name, pixels, hashlib.sha256(pixels.tobytes()).hexdigest())


def check_distinct(images: Sequence[InputImage]) -> None:
    """Raise a UsageError if two images are the same, because they would count twice."""
    seen: dict[str, str] = {}
    for image in images:
        if image.key in seen:
            raise UsageError(f"{seen[image.key]} and {image.name} are the same image: leave one out")
        seen[image.key] = image.name


@contextmanager
def work_folder(folder: str | Path | None, identity: Mapping[str, Any]) -> Iterator[Path]:
    """Yield ``folder``, which is made if it does not exist; a temporary folder if it is None.

    Raises:
        UsageError: it holds other files, or results of a measurement with another ``identity``.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="vcut-bench-") as temporary:
            yield Path(temporary)
        return
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: name a folder as --work")
    path = folder / _IDENTITY
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder} holds other files than a measurement's: name a new folder as --work")
        keep(path, identity)
    elif (kept := read_kept(path)) != json.loads(json.dumps(identity)):
        changed = [key for key, value in identity.items() if not isinstance(kept, dict) or kept.get(key) != value]
        raise UsageError(
            f"{folder} keeps a measurement of other {changed[0].replace('_', ' ') if changed else 'kind'}: "
            "name a new folder as --work"
        )
    yield folder


def read_kept(path: Path) -> Any:
    """Return a kept value: an array from an .npy file, else JSON. None if there is no file or it is damaged."""
    try:
        return np.load(path, allow_pickle=False) if path.suffix == ".npy" else json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, EOFError):
        return None


def keep(path: Path, value: Any) -> None:
    """Write an array to an .npy file, or JSON to another one. The file is whole or not there."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            if path.suffix == ".npy":
                np.save(file, value, allow_pickle=False)
            else:
                file.write(json.dumps(value, indent=1).encode() + b"\n")
        partial.replace(path)
    except OSError as error:
        raise VcutError(f"cannot write {path} ({error.strerror or error}): choose another --work") from None
    finally:
        partial.unlink(missing_ok=True)
