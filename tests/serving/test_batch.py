"""``vcut batch``: in this process, and on a real Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from commands import run_here
from vcut_bench.service import processes_of
from vcut_runtime import Pipeline
from vcut_runtime.bundle.claims import locked
from vcut_runtime.cli import main
from vcut_serving.photos import list_photos, photo_seed
from videos import is_same_video


@pytest.fixture
def photos(photo: Image.Image, tmp_path: Path) -> Path:
    """Five photographs in a folder and one below it, and a damaged one."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "b.png", "c.png", "d.png", "more/a.jpg"):
        photo.resize((64, 48)).save(folder / name)
    (folder / "bad.jpg").write_bytes((folder / "more" / "a.jpg").read_bytes()[:300])
    (folder / "notes.txt").write_text("no photograph")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def batch(bundle: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return run_here(main, "batch", bundle, *words, "--backend", "onnxruntime-cpu", "--threads", 1, "--json")


def local(bundle: Path, photo: Path, seed: int) -> bytes:
    file = BytesIO()
    Pipeline.load(bundle, "onnxruntime-cpu", threads=1)(photo, seed=seed).save(file, "gif")
    return file.getvalue()


def check_videos(done: subprocess.CompletedProcess[str], bundle: Path, photos: Path, videos: Path) -> None:
    """Check the first call of a batch of :func:`photos`."""
    assert done.returncode == 1, done.stderr  # one photograph is damaged
    assert done.stderr == "error: 1 of 6 photographs failed: mend them and run the command again\n"
    facts = json.loads(done.stdout)
    assert (facts["made"], facts["kept"], facts["failed"]) == (5, 0, 1)
    assert list(facts["causes"].values()) == [1]
    names = sorted(path.relative_to(videos).as_posix() for path in videos.rglob("*.*") if path.name[0] != ".")
    assert names == ["a.gif", "b.gif", "c.gif", "d.gif", "more/a.gif", "vcut-batch.json"]
    seeds = {result["output"]: result["seed"] for result in facts["results"]}
    assert len(set(seeds.values())) == 6
    for name in ("b", "more/a"):
        (photo,) = photos.glob(f"{name}.*")
        made = videos / f"{name}.gif"  # Pillow writes the same frames as the same file
        assert made.read_bytes() == local(bundle, photo, seeds[str(made)])


def test_a_batch_in_this_process(small_bundle: Path, photos: Path, tmp_path: Path) -> None:
    check_videos(
        batch(small_bundle, photos, "-o", tmp_path / "gif", "--format", "gif"), small_bundle, photos, tmp_path / "gif"
    )
    videos = tmp_path / "videos"
    assert batch(small_bundle, photos, "-o", videos).returncode == 1
    whole = (videos / "a.mp4").read_bytes()
    (videos / "a.mp4").write_bytes(whole[: len(whole) // 2])  # a copy that was broken off
    (videos / "b.mp4").unlink()
    (photos / "bad.jpg").unlink()
    again = batch(small_bundle, photos, "-o", videos)
    assert again.returncode == 0, again.stderr
    facts = json.loads(again.stdout)
    assert (facts["made"], facts["kept"], facts["failed"]) == (2, 3, 0)
    assert is_same_video((videos / "a.mp4").read_bytes(), whole)


def test_what_a_batch_refuses(small_bundle: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    made = tmp_path / "made"
    assert batch(small_bundle, photos / "a.png", "-o", made).returncode == 0
    for words, says in (
        ([tmp_path / "none.png", "-o", tmp_path / "v"], "none.png"),
        ([tmp_path / "empty", "-o", tmp_path / "v"], "no photograph"),
        ([photos / "a.png", photos / "more" / "a.jpg", "-o", tmp_path / "v"], "would both become"),
        ([photos, "-o", made, "--steps", "3"], "holds videos of another option"),
        ([photos, "-o", made, "--seed", "3"], "holds videos of another seed"),
        ([photos, "-o", tmp_path / "v", "--format", "avi"], "unknown output"),
        ([photos, "-o", tmp_path / "v", "--workers", "0"], "workers is 0"),
        ([photos, "-o", tmp_path / "v", "--height", "640"], "this bundle makes"),
        (["https://example.org/a.png", "-o", tmp_path / "v"], "is a URL"),
    ):
        done = batch(small_bundle, *words)
        assert (done.returncode, says in done.stderr, done.stderr.count("\n")) == (2, True, 1), done.stderr
    assert not (tmp_path / "v").exists()


def test_two_batches_do_not_share_a_folder(small_bundle: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "v" / ".vcut-left").mkdir(parents=True)  # of a killed batch
    with locked(tmp_path / "v"):
        done = batch(small_bundle, photos / "a.png", "-o", tmp_path / "v")
    assert (done.returncode, "another batch writes to" in done.stderr) == (2, True)
    assert batch(small_bundle, photos / "a.png", "-o", tmp_path / "v").returncode == 0
    assert sorted(path.name for path in (tmp_path / "v").iterdir()) == ["a.mp4", "vcut-batch.json"]


def test_a_seed_follows_from_the_name(photos: Path, tmp_path: Path) -> None:
    few = list_photos([photos / "b.png"], tmp_path, ".mp4", 0)
    many = {photo.path.name: photo.seed for photo in list_photos([photos], tmp_path, ".mp4", 0)}
    assert few[0].seed == many["b.png"] == photo_seed(0, "b.png")
    assert photo_seed(1, "b.png") != photo_seed(0, "b.png")


@pytest.mark.slow
def test_a_batch_on_ray(small_bundle: Path, photos: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    done = batch(small_bundle, photos, "-o", videos, "--workers", 2, "--format", "gif")
    check_videos(done, small_bundle, photos, videos)


@pytest.mark.slow
def test_killed_actors_and_a_killed_batch_lose_nothing(small_bundle: Path, photos: Path, tmp_path: Path) -> None:
    """Actors are killed, then the command itself; the next call makes what is missing."""
    (photos / "bad.jpg").unlink()
    for number in range(8):
        (photos / f"more-{number}.png").write_bytes((photos / "a.png").read_bytes())
    videos = tmp_path / "videos"
    words = ["batch", small_bundle, photos, "-o", videos, "--workers", 2, "--steps", 12, "--json", "-q"]
    words += ["--backend", "onnxruntime-cpu", "--threads", 1]
    command = [sys.executable, "-m", "vcut_runtime", *map(str, words)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(2):
            os.kill(actors_of(process)[0], signal.SIGKILL)
            time.sleep(0.5)
        wait_for(lambda: len(list(videos.glob("*.mp4"))) >= 4, process)
        process.kill()
        process.wait()
    whole = {path: path.read_bytes() for path in videos.rglob("*.mp4")}
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["made"] + facts["kept"], facts["failed"]) == (13, 0)
    assert facts["kept"] == len(whole)
    assert all(path.read_bytes() == content for path, content in whole.items())
    assert [path for path in videos.rglob("*") if path.name.startswith(".")] == []


def actors_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the processes of Ray Data's actors once there are any."""
    actors: list[int] = []

    def look() -> bool:
        actors[:] = processes_of(process.pid, "ray::MapWorker")
        return bool(actors)

    wait_for(look, process)
    return actors


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, "the batch ended"
        time.sleep(0.05)
    raise AssertionError("it does not come")
