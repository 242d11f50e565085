"""A folder that keeps what long measurements have found, so that a second run goes on where the first was stopped."""

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
from vcut_runtime.images import Fit, load_image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_IDENTITY = "work.json"


@dataclass(frozen=True)
class InputImage:
    """An image of the measurement; files of the work folder are named by its ``sha256``, never by its name."""

    name: str
    pixels: np.ndarray  # uint8 [H, W, 3], of the bundle's size
    sha256: str  # of the pixels

    @property
    def key(self) -> str:
        """Its part of a file name."""
        return self.sha256[:16]


def find_images(folder: str | Path) -> list[Path]:
    """Return the images in ``folder``, by name.

    Raises:
        UsageError: there is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"no folder of images at {folder}: check --images")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    if not found:
        raise UsageError(f"no image ({', '.join(IMAGE_SUFFIXES)}) in {folder}: check --images")
    return found


def load_input(path: Path, height: int, width: int, fit: Fit) -> InputImage:
    """Load an image at the size that both pipelines get.

    Raises:
        UsageError: it is no image.
    """
    pixels = np.round(load_image(path, height, width, fit)[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    return InputImage(path.name, pixels, hashlib.sha256(pixels.tobytes()).hexdigest())


def check_distinct(images: Sequence[InputImage]) -> None:
    """Raise UsageError where two images are the same: they would count twice."""
    seen: dict[str, str] = {}
    for image in images:
        if image.key in seen:
            raise UsageError(f"{seen[image.key]} and {image.name} are the same image: leave one out")
        seen[image.key] = image.name


@contextmanager
def work_folder(folder: str | Path | None, identity: Mapping[str, Any]) -> Iterator[Path]:
    """Yield ``folder``, made if need be, or a temporary one if it is None.

    Raises:
        UsageError: it holds something else, or what another measurement found.
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
        write_json(path, identity)
    elif (found := read_json(path)) != json.loads(json.dumps(identity)):
        changed = [key for key, value in identity.items() if not isinstance(found, dict) or found.get(key) != value]
        raise UsageError(
            f"{folder} keeps a measurement of other {changed[0].replace('_', ' ') if changed else 'kind'}: "
            "name a new folder as --work"
        )
    yield folder


def read_json(path: Path) -> Any:
    """Return a kept result, None if there is none or it is damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def write_json(path: Path, value: Any) -> None:
    """Keep a result: the file is whole or not there."""
    with _whole(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n", "utf-8")


def read_frames(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return kept frames, None if there are none of this shape."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == shape and found.dtype == np.uint8 else None


def write_frames(path: Path, frames: np.ndarray) -> None:
    """Keep frames: the file is whole or not there."""
    with _whole(path) as partial, partial.open("wb") as file:
        np.save(file, frames, allow_pickle=False)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise VcutError(f"cannot write {path} ({error.strerror or error}): choose another --work") from None
    finally:
        partial.unlink(missing_ok=True)
