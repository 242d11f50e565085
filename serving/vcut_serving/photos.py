"""The photographs of a batch: which files, where each video goes, and the seed of each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vcut_runtime.errors import UsageError, path_errors
from vcut_runtime.image_files import check_file
from vcut_runtime.image_sources import refuse_url

SUFFIXES = (".avif", ".bmp", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class Photo(NamedTuple):
    """One photograph of a batch.

    Attributes:
        path: of the file.
        output: of the video.
        seed: of the video. It depends on the photograph's name and on the batch's seed alone, so a later run with more
            or fewer photographs makes the same video.
    """

    path: Path
    output: Path
    seed: int


def list_photos(paths: Sequence[Path], output: Path, suffix: str, seed: int) -> list[Photo]:
    """Return the photographs of files and folders; a folder is searched with all that lies in it.

    Args:
        paths: files and folders.
        output: folder of the videos. Below it, they have the names of the photographs in their folders.
        suffix: of the videos, such as ``.mp4``.
        seed: of the batch.

    Raises:
        UsageError: a path does not exist, a folder has no photograph, or two videos would have one name.
    """
    photos: dict[Path, Photo] = {}
    for given in paths:
        refuse_url(given)
        for path, name in _files(given):
            target = output / name.with_suffix(suffix)
            if target in photos:
                raise UsageError(f"{photos[target].path} and {path} would both become {target}: rename one of them")
            photos[target] = Photo(path, target, photo_seed(seed, name.as_posix()))
    return list(photos.values())


def photo_seed(seed: int, name: str) -> int:
    """Return the seed of the photograph ``name`` in a batch with ``seed``: 0 to 2^31 - 1."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _files(given: Path) -> list[tuple[Path, Path]]:
    """Return each photograph and its name below the folder that was given."""
    with path_errors(given, "the photograph"):
        if not given.is_dir():
            check_file(given)
            return [(given, Path(given.name))]
        files = sorted(path for path in given.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    visible = [(path, path.relative_to(given)) for path in files]
    visible = [(path, name) for path, name in visible if not any(part.startswith(".") for part in name.parts)]
    if not visible:
        raise UsageError(f"no photograph ({', '.join(SUFFIXES)}) in {given}: check the path")
    return visible
