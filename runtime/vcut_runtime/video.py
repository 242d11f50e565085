"""The result of a run, and writing it to disk."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
from PIL import Image

from vcut_runtime.errors import UsageError, VcutError
from vcut_runtime.file_object import write_to

QUALITY = 90
PARTIAL = ".vcut-"  # how the name of a folder begins that holds a video in the making
_LONGEST_NAME = 255  # bytes, of common file systems


@dataclass(frozen=True)
class Video:
    """Frames uint8 [frames, height, width, 3] with their rate, and how they came about."""

    frames: np.ndarray
    fps: float  # at which it plays
    seed: int | None = None  # None where latents and noise were both injected
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds by stage, of the GPU's clock on a GPU
    peak_memory: int | None = None  # device memory in bytes; None without a device
    notes: tuple[str, ...] = ()  # what a user should know, such as that the image was stretched

    def to_pil(self) -> list[Image.Image]:
        """Return the frames as PIL images."""
        return [Image.fromarray(pixels) for pixels in self.frames]

    @overload
    def save(self, path: str | Path, *, quality: int = QUALITY) -> Path: ...
    @overload
    def save(self, path: BinaryIO, format: str, *, quality: int = QUALITY) -> None: ...
    def save(self, path: str | Path | BinaryIO, format: str | None = None, *, quality: int = QUALITY) -> Path | None:
        """Write the video and return its path: ``.mp4``, ``.gif``, ``.webp``, or a folder of PNGs if it has no suffix.

        The file appears whole or not at all. A link stays, and what it leads to is written.

        Args:
            path: a path; or a file object open for writing bytes, which need not be seekable and is not closed.
            format: of a file object: ``mp4``, ``gif`` or ``webp``. A path's suffix decides for itself.
            quality: of an MP4 or WebP, 1 to 100; GIFs and PNGs ignore it.

        Raises:
            UsageError: the suffix or the format is unknown, the folder holds something else, or the quality is
                impossible.
            VcutError: the disk or the file object refused it.
        """
        if not isinstance(path, (str, os.PathLike)):
            return write_to(partial(self.save, quality=quality), path, format, _WRITERS)
        if format is not None:
            raise UsageError("format is for file objects, a path's suffix says the format: leave one of them out")
        path = Path(path)
        writer = check_output(path)
        check_quality(quality)
        try:
            target = path.resolve()
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=PARTIAL) as folder:
                made = Path(folder) / "video"
                writer(self, made, quality)
                if target.is_dir():
                    shutil.rmtree(target)
                made.replace(target)
        except OSError as error:
            raise VcutError(f"cannot write {path} ({error.strerror or error}): choose another place") from None
        except Exception as error:  # PyAV's and Pillow's encoders raise their own kinds
            raise VcutError(f"cannot encode {path} ({' '.join(str(error).split())}): choose another format") from None
        return path


Writer = Callable[[Video, Path, int], None]  # writes to a path that is free, with a quality


def check_quality(quality: int) -> None:
    """Raise a UsageError if ``quality`` is not in 1..100."""
    if not 1 <= quality <= 100:
        raise UsageError(f"quality is {quality}: give 1 to 100")


def check_output(path: Path) -> Writer:
    """Return what writes to ``path``.

    Raises:
        UsageError: the suffix is unknown, the folder to be replaced holds anything but frames, or the place is not
            writable.
    """
    suffix = path.suffix.lower()
    if not suffix and path.name.lower().startswith(tuple(_WRITERS)):
        raise UsageError(f"{path} has a suffix and no name: name it as out{path.name}")
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in path.parts):
        raise UsageError(
            f"cannot write {path}: a name in it is longer than {_LONGEST_NAME} bytes; choose a shorter one"
        )
    try:
        _check_place(path, path.resolve(), is_folder=not suffix)
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a loop of links, a folder that is closed
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UsageError(f"cannot write {path} ({reason}): choose another place") from None
    if suffix and suffix not in _WRITERS:
        raise UsageError(
            f"unknown output {path.name!r}: end it in {', '.join(_WRITERS)}, or give a folder for PNG frames"
        )
    return _WRITERS[suffix] if suffix else _save_pngs


def _check_place(path: Path, target: Path, *, is_folder: bool) -> None:
    """Check that a file or a folder of frames can be written to ``target``, which ``path`` may be a link to."""
    if target.is_symlink():  # although it is resolved
        raise UsageError(f"cannot write {path}: its link leads to itself; choose another name")
    parent = target.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write {path}: {parent} is not a folder, or is read-only; choose another place")
    if not target.exists():
        return
    if target.is_dir():
        if not is_folder:
            raise UsageError(f"{path} is a folder: choose another name")
        if not all(_is_frame(p) for p in target.iterdir()):
            raise UsageError(f"{path} is a folder that holds other files than frames: choose a new folder")
    elif not target.is_file():
        raise UsageError(f"{path} is a device or a pipe: name a file")
    elif is_folder:
        raise UsageError(f"{path} is a file: give it a suffix ({', '.join(_WRITERS)}) or name a new folder")


def _save_mp4(video: Video, path: Path, quality: int) -> None:
    import av

    _, height, width, _ = video.frames.shape
    pad = ((0, height % 2), (0, width % 2), (0, 0))
    # The index comes first, so that a browser plays while it loads. Quality 90 is a rate factor of 17, 100 is 4.
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        options = {"crf": str(round(4 + 41 * (1 - quality / 100) ** 0.5)), "preset": "medium"}
        # A chroma sample is the mean of four pixels. x264's file depends on its number of threads, which would be that
        # of the machine's cores.
        options["x264-params"] = "chromaloc=1:threads=4"
        rate = Fraction(video.fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"  # what every player shows
        context: Any = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = 1  # BT.709
        context.color_range = 1  # limited
        for index, pixels in enumerate(video.frames):
            planes = _bt709(np.pad(pixels, pad, mode="edge"))
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _bt709(rgb: np.ndarray) -> np.ndarray:
    """Return RGB [H, W, 3], H and W even, as limited-range BT.709 planes [3/2 H, W]: Y', then Cb and Cr of 4:2:0.

    FFmpeg's own conversion blurs chroma beyond an edge; the mean of four pixels keeps it within.
    """
    red, green, blue = np.moveaxis(rgb.astype(np.float32) / 255, -1, 0)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    chroma = np.stack([(blue - luma) / 1.8556, (red - luma) / 1.5748])
    height, width = luma.shape
    chroma = chroma.reshape(2, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
    planes = np.concatenate([(16 + 219 * luma).ravel(), (128 + 224 * chroma).ravel()])
    return planes.round().astype(np.uint8).reshape(height * 3 // 2, width)


def _save_gif(video: Video, path: Path, quality: int) -> None:
    _save_animation(video, path, "GIF", unit=10)  # a GIF counts in hundredths of a second


def _save_webp(video: Video, path: Path, quality: int) -> None:
    _save_animation(video, path, "WEBP", unit=1, quality=quality)


def _save_animation(video: Video, path: Path, kind: str, unit: int, **options: Any) -> None:
    images = [Image.fromarray(pixels) for pixels in video.frames]
    # Durations are whole units of so many milliseconds. The frames' ends are rounded, so that errors do not add up.
    ends = [round(1000 * (i + 1) / video.fps / unit) * unit for i in range(len(images))]
    durations = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    images[0].save(path, kind, save_all=True, append_images=images[1:], duration=durations, loop=0, **options)


def _save_pngs(video: Video, path: Path, quality: int) -> None:
    path.mkdir()
    for index, pixels in enumerate(video.frames):
        Image.fromarray(pixels).save(path / f"frame-{index:04d}.png")


def _is_frame(path: Path) -> bool:
    return re.fullmatch(r"frame-\d{4,}\.png", path.name) is not None and path.is_file()


_WRITERS: dict[str, Writer] = {".mp4": _save_mp4, ".gif": _save_gif, ".webp": _save_webp}
