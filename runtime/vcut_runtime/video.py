"""The result of a run, and writing it to disk."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, overload

import numpy as np
from PIL import Image

from vcut_runtime.errors import UsageError, VcutError
from vcut_runtime.file_object import write_to


@dataclass(frozen=True)
class Video:
    """Frames uint8 [frames, height, width, 3] with their rate, and how they came about."""

    frames: np.ndarray
    fps: int
    seed: int | None = None  # None where latents and noise were both injected
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds by stage, of the GPU's clock on a GPU
    peak_memory: int | None = None  # device memory in bytes; None without a device

    def to_pil(self) -> list[Image.Image]:
        """Return the frames as PIL images."""
        return [Image.fromarray(pixels) for pixels in self.frames]

    @overload
    def save(self, path: str | Path) -> Path: ...
    @overload
    def save(self, path: BinaryIO, format: str) -> None: ...
    def save(self, path: str | Path | BinaryIO, format: str | None = None) -> Path | None:
        """Write the video and return its path: ``.mp4``, ``.gif``, ``.webp``, or a folder of PNGs if it has no suffix.

        The file appears whole or not at all.

        Args:
            path: a path; or a file object open for writing bytes, which need not be seekable and is not closed.
            format: of a file object: ``mp4``, ``gif`` or ``webp``. A path's suffix decides for itself.

        Raises:
            UsageError: the suffix or the format is unknown, or the folder holds something else.
            VcutError: the disk or the file object refused it.
        """
        if not isinstance(path, (str, os.PathLike)):
            return write_to(self.save, path, format, _WRITERS)
        if format is not None:
            raise UsageError("format is for file objects, a path's suffix says the format: leave one of them out")
        path = Path(path)
        writer = check_output(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
                partial = Path(folder) / path.name
                writer(self, partial)
                if path.is_dir():
                    shutil.rmtree(path)
                partial.replace(path)
        except OSError as error:
            raise VcutError(f"cannot write {path} ({error.strerror or error}): choose another place") from None
        except Exception as error:  # PyAV's and Pillow's encoders raise their own kinds
            raise VcutError(f"cannot encode {path} ({' '.join(str(error).split())}): choose another format") from None
        return path


def check_output(path: Path) -> Callable[[Video, Path], None]:
    """Return what writes to ``path``.

    Raises:
        UsageError: the suffix is unknown, the folder to be replaced holds anything but frames, or the place is not
            writable.
    """
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UsageError(f"cannot write {path}: {parent} is not a folder, or is read-only; choose another place")
    if not path.suffix:
        if path.is_dir() and not all(_is_frame(p) for p in path.iterdir()):
            raise UsageError(f"{path} is a folder that holds other files than frames: choose a new folder")
        if path.is_file():
            raise UsageError(f"{path} is a file: give it a suffix ({', '.join(_WRITERS)}) or name a new folder")
        return _save_pngs
    if path.suffix.lower() not in _WRITERS:
        raise UsageError(
            f"unknown output {path.name!r}: end it in {', '.join(_WRITERS)}, or give a folder for PNG frames"
        )
    if path.is_dir():
        raise UsageError(f"{path} is a folder: choose another name")
    return _WRITERS[path.suffix.lower()]


def _save_mp4(video: Video, path: Path) -> None:
    import av

    _, height, width, _ = video.frames.shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=video.fps, options={"crf": "17", "preset": "medium"})
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"  # what every player shows
        pad = ((0, height % 2), (0, width % 2), (0, 0))
        for pixels in video.frames:
            frame = av.VideoFrame.from_ndarray(np.pad(pixels, pad, mode="edge"), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _save_animation(video: Video, path: Path) -> None:
    images = [Image.fromarray(pixels) for pixels in video.frames]
    # GIF counts in hundredths, WebP in thousandths of a second: round the frames' ends, so that errors do not add up.
    unit = 10 if path.suffix.lower() == ".gif" else 1
    ends = [round(1000 * (i + 1) / video.fps / unit) * unit for i in range(len(images))]
    durations = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, quality=90)


def _save_pngs(video: Video, path: Path) -> None:
    path.mkdir()
    for index, pixels in enumerate(video.frames):
        Image.fromarray(pixels).save(path / f"frame-{index:04d}.png")


def _is_frame(path: Path) -> bool:
    return re.fullmatch(r"frame-\d{4,}\.png", path.name) is not None and path.is_file()


_WRITERS: dict[str, Callable[[Video, Path], None]] = {
    ".mp4": _save_mp4,
    ".gif": _save_animation,
    ".webp": _save_animation,
}
