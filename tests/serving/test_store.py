"""The store of jobs, on the local file system and on another one of fsspec."""

from __future__ import annotations

import os
import time
from pathlib import Path

import fsspec
import pytest

from vcut_runtime import UsageError
from vcut_serving.store import JobStore, NoSuchJob, Request, State, new_id


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "jobs") if request.param == "file" else f"memory://{tmp_path.name}"


def test_a_job_is_kept_and_forgotten(url: str) -> None:
    store, job = JobStore(url), Request(new_id(), 1.5, seed=7, options={"steps": "3"}, notes=("a note",))
    store.create(job, b"photo")
    other = JobStore(url)  # of another process
    assert other.request(job.id) == job
    assert other.image(job.id) == b"photo"
    assert other.state(job.id) == State()
    state = State("in_progress", 40, started=2.0)
    store.set_state(job.id, state)
    assert other.state(job.id) == state
    assert not other.is_cancelled(job.id)
    with pytest.raises(NoSuchJob):
        other.video(job.id)
    store.set_video(job.id, b"video")
    assert other.video(job.id) == b"video"
    store.cancel(job.id)
    assert other.is_cancelled(job.id)
    assert list(other.jobs()) == [job.id]
    store.delete(job.id)
    assert list(other.jobs()) == []
    assert other.is_cancelled(job.id)
    other.set_state(job.id, state)  # a worker goes on for a while
    assert list(store.jobs()) == []
    with pytest.raises(NoSuchJob):
        store.state(job.id)


@pytest.mark.parametrize("name", ["", "..", "../x", "video_x", "video_" + "0" * 31, "video_" + "A" * 32, "/etc/passwd"])
def test_no_name_leaves_the_folder(url: str, name: str) -> None:
    store = JobStore(url)
    for ask in (store.request, store.image, store.state, store.video, store.cancel, store.delete, store.is_cancelled):
        with pytest.raises(NoSuchJob):
            ask(name)
    with pytest.raises(NoSuchJob):
        store.set_video(name, b"")


def test_what_was_begun_long_ago_is_removed(tmp_path: Path) -> None:
    store, job = JobStore(str(tmp_path)), Request(new_id(), 0.0, seed=1)
    store.create(job, b"photo")
    begun = [tmp_path / new_id(), tmp_path / new_id()]
    for folder in begun:
        folder.mkdir()
        (folder / "image").write_bytes(b"photo")
    parts = [tmp_path / ".partial" / name for name in ("old", "new")]
    for part in parts:
        part.write_bytes(b"")
    (tmp_path / "other").mkdir()
    hours_ago = time.time() - 7200
    for path in (begun[0], parts[0], tmp_path / job.id, tmp_path / "other"):
        os.utime(path, (hours_ago, hours_ago))
    store.sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".partial", "other", job.id, begun[1].name])
    assert [path.name for path in (tmp_path / ".partial").iterdir()] == ["new"]


def test_a_place_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="cannot keep videos at nowhere://x"):
        JobStore("nowhere://x")
    assert "memory" in fsspec.available_protocols()
