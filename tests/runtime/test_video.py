"""Saved videos, read back with PyAV and Pillow."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from skimage import data

from vcut_runtime import UsageError, VcutError, Video

OUTPUTS = ["out.mp4", "out.gif", "out.webp", "out"]


def fade(frames: int, height: int = 64, width: int = 96, fps: int = 7) -> Video:
    """A photograph that fades in, so that every frame has another mean colour."""
    photo = data.astronaut()[100 : 100 + height, 100 : 100 + width]
    steps = [photo * ((i + 1) / frames) for i in range(frames)]
    return Video(frames=np.stack(steps).round().astype(np.uint8), fps=fps)


def read_mp4(path: Path) -> tuple[np.ndarray, Fraction | None, str | None]:
    """Frames [frames, height, width, 3], rate and pixel format."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        return frames, stream.average_rate, stream.codec_context.pix_fmt


def read_animation(path: Path) -> tuple[np.ndarray, list[int], int]:
    """Frames [frames, height, width, 3], their durations in ms, and how often it plays (0: forever)."""
    with Image.open(path) as image:
        frames, durations = [], []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
        return np.stack(frames), durations, image.info["loop"]


def read_pngs(folder: Path) -> np.ndarray:
    paths = sorted(folder.iterdir())
    assert [path.name for path in paths] == [f"frame-{index:04d}.png" for index in range(len(paths))]
    frames = []
    for path in paths:
        with Image.open(path) as image:
            frames.append(np.asarray(image))
    return np.stack(frames)


def snapshot(folder: Path) -> dict[Path, bytes | None]:
    """Everything below ``folder``, hidden files too; None for a folder."""
    return {path: None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}


def assert_mean_colours_close(frames: np.ndarray, wanted: np.ndarray) -> None:
    assert len(frames) == len(wanted)
    np.testing.assert_allclose(frames.mean(axis=(1, 2)), wanted.mean(axis=(1, 2)), atol=4)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 2000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("fps", [1, 7, 30])
def test_mp4_has_the_frames_size_rate_and_colours(tmp_path: Path, fps: int) -> None:
    video = fade(5, fps=fps)
    frames, rate, pixel_format = read_mp4(video.save(tmp_path / "out.mp4"))
    assert frames.shape == (5, 64, 96, 3)
    assert rate == fps
    assert pixel_format == "yuv420p"
    assert_mean_colours_close(frames, video.frames)


@pytest.mark.parametrize(("height", "width"), [(63, 96), (64, 95), (63, 95), (1, 1)])
def test_mp4_of_odd_size_gains_a_row_or_column(tmp_path: Path, height: int, width: int) -> None:
    video = fade(3, height, width)
    frames, _, _ = read_mp4(video.save(tmp_path / "out.mp4"))
    assert frames.shape == (3, height + height % 2, width + width % 2, 3)
    assert_mean_colours_close(frames[:, :height, :width], video.frames)


def test_mp4_of_one_frame(tmp_path: Path) -> None:
    frames, rate, _ = read_mp4(fade(1).save(tmp_path / "out.mp4"))
    assert len(frames) == 1
    assert rate == 7


@pytest.mark.parametrize(
    ("name", "fps", "wanted"),
    [
        ("out.gif", 10, [100, 100, 100, 100, 100]),
        ("out.gif", 7, [140, 150, 140, 140, 140]),
        ("out.webp", 10, [100, 100, 100, 100, 100]),
        ("out.webp", 7, [143, 143, 143, 142, 143]),
        ("out.webp", 30, [33, 34, 33, 33, 34]),
    ],
)
def test_animation_has_the_frames_and_their_duration(tmp_path: Path, name: str, fps: int, wanted: list[int]) -> None:
    video = fade(5, fps=fps)
    frames, durations, loop = read_animation(video.save(tmp_path / name))
    assert frames.shape == video.frames.shape
    assert durations == wanted
    assert loop == 0
    assert_mean_colours_close(frames, video.frames)


def test_pngs_are_lossless(tmp_path: Path) -> None:
    video = fade(5, 63, 95)
    np.testing.assert_array_equal(read_pngs(video.save(tmp_path / "out")), video.frames)


def test_suffix_may_be_upper_case(tmp_path: Path) -> None:
    assert len(read_mp4(fade(3).save(tmp_path / "OUT.MP4"))[0]) == 3


@pytest.mark.parametrize("name", OUTPUTS)
def test_save_returns_the_path_and_creates_its_parents(tmp_path: Path, name: str) -> None:
    path = tmp_path / "some" / "where" / name
    assert fade(2).save(str(path)) == path
    assert [p.name for p in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", OUTPUTS)
def test_saving_again_replaces(tmp_path: Path, name: str) -> None:
    fade(2).save(tmp_path / "fresh" / name)
    fade(5).save(tmp_path / "again" / name)
    fade(2).save(tmp_path / "again" / name)
    again, fresh = (
        {path.relative_to(tmp_path / folder): content for path, content in snapshot(tmp_path / folder).items()}
        for folder in ("again", "fresh")
    )
    assert again == fresh


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert len(read_pngs(fade(2).save(tmp_path / "out"))) == 2


@pytest.mark.parametrize("name", ["out.avi", "out.png", "out.mp4.bak"])
def test_unknown_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=rf"unknown output '{name}': end it in \.mp4, \.gif, \.webp, or .* folder"):
        fade(2).save(tmp_path / "new" / name)
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("foreign", ["notes.txt", "photo.png", "frame-0000.jpg", ".hidden"])
def test_folder_with_foreign_files_is_refused_and_untouched(tmp_path: Path, foreign: str) -> None:
    folder = fade(2).save(tmp_path / "out")
    (folder / foreign).write_bytes(b"precious")
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match="choose a new folder"):
        fade(1).save(folder)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", OUTPUTS[:3])
def test_folder_in_place_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="is a folder: choose another name"):
        fade(1).save(tmp_path / name)
    assert snapshot(tmp_path) == {tmp_path / name: None}


def test_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"precious")
    with pytest.raises(UsageError, match="is a file: give it a suffix"):
        fade(1).save(tmp_path / "out")
    assert snapshot(tmp_path) == {tmp_path / "out": b"precious"}


@pytest.mark.parametrize("name", OUTPUTS)
def test_file_in_place_of_the_parent_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(UsageError, match="choose another place"):
        fade(1).save(tmp_path / "file" / name)
    assert snapshot(tmp_path) == {tmp_path / "file": b"precious"}


@pytest.mark.parametrize("name", OUTPUTS)
def test_failed_write_leaves_nothing(tmp_path: Path, name: str) -> None:
    with full_disk(), pytest.raises(VcutError, match=rf"^cannot write .*{name} \(.+\): choose another place$"):
        fade(20).save(tmp_path / name)
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("name", OUTPUTS)
def test_failed_write_keeps_the_previous_video(tmp_path: Path, name: str) -> None:
    fade(2).save(tmp_path / name)
    before = snapshot(tmp_path)
    with full_disk(), pytest.raises(VcutError, match="cannot write"):
        fade(20).save(tmp_path / name)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("suffix", "unit"), [(".gif", 10), (".webp", 1)])
@pytest.mark.parametrize("fps", [7, 24, 30])
def test_animations_last_as_long_as_the_video(tmp_path: Path, suffix: str, unit: int, fps: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (25, 16, 16, 3), dtype=np.uint8)
    _, durations, _ = read_animation(Video(frames, fps).save(tmp_path / f"out{suffix}"))
    assert abs(sum(durations) - 25_000 / fps) <= unit / 2 + 0.5


def test_pictures_that_are_no_frames_are_not_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "frame-holiday.png").write_text("mine")
    with pytest.raises(UsageError, match="other files than frames"):
        Video(np.zeros((1, 8, 8, 3), np.uint8), 7).save(folder)
    assert (folder / "frame-holiday.png").read_text() == "mine"
