"""A video saved into a file object."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from vcut_runtime import UsageError, VcutError, Video


@pytest.fixture
def video() -> Video:
    ramp = np.linspace(0, 255, 48, dtype=np.uint8)
    return Video(np.stack([np.tile(np.roll(ramp, i)[:, None, None], (1, 32, 3)) for i in range(3)]), fps=7)


class Pipe(io.RawIOBase):
    """A file object that only takes bytes, such as a response."""

    def __init__(self, refuses: bool = False) -> None:
        self.got, self.refuses = b"", refuses

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.refuses:
            raise OSError("connection reset by peer")
        self.got += bytes(data)
        return len(data)


@pytest.mark.parametrize("form", ["gif", "webp", ".GIF"])
def test_an_animation_is_what_the_path_gets(video: Video, form: str, tmp_path: Path) -> None:
    file = Pipe()
    assert video.save(file, format=form) is None  # pyright: ignore[reportArgumentType]
    path = video.save(tmp_path / f"out.{form.lower().removeprefix('.')}")
    assert file.got == path.read_bytes()


def test_an_mp4_can_be_played(video: Video) -> None:
    file = io.BytesIO(b"")
    video.save(file, format="mp4")
    assert not file.closed
    file.seek(0)
    with av.open(file, "r") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.abs(np.stack(frames).astype(int) - video.frames).mean() < 4


def test_pil_images(video: Video) -> None:
    images = video.to_pil()
    assert all(isinstance(image, Image.Image) and image.mode == "RGB" for image in images)
    assert np.array_equal(np.stack([np.asarray(image) for image in images]), video.frames)


@pytest.mark.parametrize(
    ("file", "form", "error", "says"),
    [
        (io.BytesIO(), None, UsageError, "a video in a file object needs a format: choose mp4, gif, webp"),
        (io.BytesIO(), "avi", UsageError, "a video in a file object cannot have the format 'avi': choose mp4"),
        (io.BytesIO(), "png", UsageError, "cannot have the format 'png'"),
        (io.BytesIO(), 4, UsageError, "cannot have the format 4"),
        (io.StringIO(), "gif", UsageError, r"the file object takes no bytes \(.*\): open it with 'wb'"),
        (7, "gif", UsageError, "cannot save a video to an object of type int: give a path or a file"),
        (None, "gif", UsageError, "cannot save a video to an object of type NoneType"),
        (Pipe(refuses=True), "gif", VcutError, r"cannot write into the file object \(connection reset by peer\)"),
    ],
)
def test_what_cannot_be_is_refused_on_one_line(video: Video, file: Any, form: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        video.save(file, format=form)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


def test_a_closed_file_object_and_a_format_with_a_path(video: Video, tmp_path: Path) -> None:
    file = io.BytesIO()
    file.close()
    with pytest.raises(VcutError, match="cannot write into the file object"):
        video.save(file, format="gif")
    with pytest.raises(UsageError, match="format is for file objects, a path's suffix says the format"):
        video.save(tmp_path / "out.gif", format="gif")  # pyright: ignore[reportCallIssue, reportArgumentType]
