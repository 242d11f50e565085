"""Saved videos, read back with PyAV and Pillow."""

from __future__ import annotations

import os
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
from vcut_runtime.video import check_output

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


def colour_bars(height: int, width: int) -> np.ndarray:
    """The eight bars at full and three quarters of the level, and a ramp of greys below."""
    bars = np.array(list(np.ndindex(2, 2, 2)), np.uint8)[np.arange(width) * 8 // width]
    frame = np.repeat(bars[None] * np.uint8(255), height, axis=0)
    frame[height // 2 :] = bars * np.uint8(191)
    frame[height * 3 // 4 :] = np.linspace(0, 255, width).astype(np.uint8)[:, None]
    return frame


@pytest.mark.parametrize(("height", "width"), [(576, 1024), (1024, 576)])
@pytest.mark.parametrize(("quality", "levels"), [(90, 6), (100, 3)])
def test_colour_bars_survive_a_round_trip(tmp_path: Path, height: int, width: int, quality: int, levels: int) -> None:
    """FFmpeg decodes by the tags. By those of BT.601, which players assume without tags, colours are wrong."""
    bars = colour_bars(height, width)
    path = Video(np.stack([bars] * 3), fps=7).save(tmp_path / "out.mp4", quality=quality)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        tags = (context.color_range, context.color_primaries, context.color_trc, context.colorspace)
        assert tags == (1, 1, 1, 1)  # limited range, BT.709
        frames = list(container.decode(video=0))
        for frame in frames:
            decoded = frame.to_ndarray(format="rgb24").astype(int)
            assert np.abs(decoded - bars).max() <= levels
        wrong = frames[0].reformat(format="rgb24", src_colorspace="ITU601").to_ndarray().astype(int)
        assert np.abs(wrong - bars).max() > 20


@pytest.mark.parametrize("name", ["out.mp4", "out.webp"])
def test_quality_trades_size_for_error(tmp_path: Path, name: str) -> None:
    video = Video(np.stack([data.astronaut()[:256, :256]] * 2), fps=7)
    sizes, errors = [], []
    for quality in (1, 50, 90, 100):
        path = video.save(tmp_path / name, quality=quality)
        frames = read_mp4(path)[0] if name == "out.mp4" else read_animation(path)[0]
        sizes.append(path.stat().st_size)
        errors.append(float(np.abs(frames.astype(int) - video.frames).mean()))
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert sizes[-1] > 4 * sizes[0]


@pytest.mark.parametrize("quality", [0, 101])
def test_an_impossible_quality_is_refused(tmp_path: Path, quality: int) -> None:
    with pytest.raises(UsageError, match=f"quality is {quality}: give 1 to 100"):
        fade(2).save(tmp_path / "out.mp4", quality=quality)
    assert snapshot(tmp_path) == {}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be kept to a core here")
def test_an_mp4_does_not_depend_on_the_number_of_cores(tmp_path: Path) -> None:
    """Left alone, x264 takes threads for all cores, and other threads make another file."""
    frames = np.stack([np.roll(data.chelsea()[:288, :448], 3 * i, axis=1) for i in range(6)])
    before, files = os.sched_getaffinity(0), set()
    try:
        for cores in ({0}, range(os.cpu_count() or 1)):
            os.sched_setaffinity(0, cores)
            files.add(Video(frames, 7).save(tmp_path / "out.mp4").read_bytes())
    finally:
        os.sched_setaffinity(0, before)
    assert len(files) == 1


def test_an_mp4_begins_with_its_index(tmp_path: Path) -> None:
    content = fade(5).save(tmp_path / "out.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize(("fps", "rate"), [(7.5, Fraction(15, 2)), (24000 / 1001, Fraction(24000, 1001))])
def test_a_rate_need_not_be_whole(tmp_path: Path, fps: float, rate: Fraction) -> None:
    video = Video(fade(6).frames, fps)
    assert read_mp4(video.save(tmp_path / "out.mp4"))[1] == rate
    assert abs(sum(read_animation(video.save(tmp_path / "out.webp"))[1]) - 6000 / fps) <= 1


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


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path: Path, name: str, exists: bool) -> None:
    target, link = tmp_path / "elsewhere" / name, tmp_path / name
    if exists:
        fade(1).save(target)
    link.symlink_to(target)
    assert fade(3).save(link) == link
    assert link.readlink() == target
    assert [path.name for path in target.parent.iterdir()] == [name]
    fresh = fade(3).save(tmp_path / "fresh" / name)
    for path in fresh.iterdir() if fresh.is_dir() else [fresh]:
        assert path.read_bytes() == (target / path.name if fresh.is_dir() else target).read_bytes()


def test_places_that_cannot_be_written_are_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "link.mp4").symlink_to("folder")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    refused = {
        "/dev/null": "is a device or a pipe: name a file",
        tmp_path / "pipe.mp4": "is a device or a pipe: name a file",
        tmp_path / "link": "is a folder that holds other files than frames",
        tmp_path / "link.mp4": "is a folder: choose another name",
        tmp_path / "loop.mp4": "choose another",
        tmp_path / ".mp4": "has a suffix and no name: name it as out.mp4",
        tmp_path / ".WEBP": "has a suffix and no name",
        tmp_path / ("x" * 252 + ".mp4"): "is longer than 255 bytes; choose a shorter one",
        tmp_path / ("é" * 126 + ".mp4"): "is longer than 255 bytes; choose a shorter one",
        tmp_path / ("x" * 256) / "out.mp4": "is longer than 255 bytes; choose a shorter one",
        tmp_path / ("y" * 250 + "/") / ("x/" * 2000) / "out.mp4": "choose another place",
    }
    before = set(tmp_path.rglob("*"))
    for path, says in refused.items():
        with pytest.raises(UsageError, match=says) as caught:
            check_output(Path(path))
        assert len(str(caught.value).splitlines()) == 1
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["x" * 245 + ".mp4", "x" * 251 + ".gif", "x" * 255, "é" * 125 + ".mp4"])
def test_the_longest_names_are_written(tmp_path: Path, name: str) -> None:
    path = fade(2).save(tmp_path / name)
    assert path.exists()
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_closed_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path, **_: object) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", closed)
    with pytest.raises(UsageError, match=r"cannot write .*out.mp4 \(Permission denied\): choose another place"):
        check_output(tmp_path / "closed/out.mp4")
