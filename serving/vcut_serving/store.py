"""Jobs of a service, in a folder or at any URL of fsspec. Whoever reads the folder knows all that there is to know.

    ROOT/video_<id>/request.json    what was asked for; written last, so a job exists once it is there
    ROOT/video_<id>/image           the photograph, as it was sent
    ROOT/video_<id>/state.json      how far it is; written by the worker that runs it
    ROOT/video_<id>/cancel          a request to stop it; the worker looks for this file
    ROOT/video_<id>/video.mp4       whole, or not there

    ROOT/.partial                   files that are being written

Every file appears whole. A job that is run twice gives the same video, because its seed is in the request.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from vcut_runtime import UsageError
from vcut_runtime.errors import first_line
from vcut_runtime.video import QUALITY

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
ENDED: tuple[Status, ...] = ("completed", "failed", "cancelled")
_ID = re.compile(r"video_[0-9a-f]{32}")
_PARTIAL = ".partial"  # folder of files that are being written
_BEGUN = 3600  # seconds after which nobody goes on writing
_REQUEST, _IMAGE, _STATE, _CANCEL, _VIDEO = "request.json", "image", "state.json", "cancel", "video.mp4"


class Request(msgspec.Struct, frozen=True):
    """What a client asked for.

    Attributes:
        id: of the job.
        created: seconds since 1970.
        seed: of the video, also if the client gave none.
        options: fields of :class:`~vcut_runtime.RunOptions` without the seed, as texts or numbers.
        quality: of the file, 1 to 100.
        notes: what the client should know about its request.
    """

    id: str
    created: float
    seed: int
    options: dict[str, Any] = {}
    quality: int = QUALITY
    notes: tuple[str, ...] = ()


class State(msgspec.Struct, frozen=True):
    """How far a job is.

    Attributes:
        status: see ``Status``.
        progress: 0 to 100.
        error: why it failed, on one line.
        started: seconds since 1970, of the latest attempt.
        finished: likewise.
        seconds: by stage.
        notes: of the video.
    """

    status: Status = "queued"
    progress: int = 0
    error: str | None = None
    started: float | None = None
    finished: float | None = None
    seconds: dict[str, float] = {}
    notes: tuple[str, ...] = ()


class NoSuchJob(Exception):
    """There is no such job, or no longer."""


class JobStore:
    """Reads and writes jobs below ``url``.

    Raises:
        UsageError: the place does not exist and cannot be made.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            # Other processes write too, so nothing is remembered of what lies there.
            self._files, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
            self._files.makedirs(f"{self._root}/{_PARTIAL}", exist_ok=True)
        except Exception as error:  # each file system has its own kinds
            raise UsageError(f"cannot keep videos at {url} ({first_line(error)}): give another --results") from None
        self._is_local = "file" in self._files.protocol

    def create(self, request: Request, image: bytes) -> None:
        """Keep a new job."""
        self._files.makedirs(self._path(request.id), exist_ok=True)
        self._write(request.id, _IMAGE, image)
        self._write(request.id, _REQUEST, msgspec.json.encode(request))

    def request(self, job: str) -> Request:
        """Return what was asked for.

        Raises:
            NoSuchJob: there is none of this name.
        """
        return msgspec.json.decode(self._read(job, _REQUEST), type=Request)

    def image(self, job: str) -> bytes:
        """Return the photograph's file."""
        return self._read(job, _IMAGE)

    def state(self, job: str) -> State:
        """Return how far the job is; a job that nobody has begun is queued."""
        try:
            return msgspec.json.decode(self._read(job, _STATE), type=State)
        except NoSuchJob:
            self._read(job, _REQUEST)
            return State()

    def set_state(self, job: str, state: State) -> None:
        """Say how far the job is. A deleted job stays deleted."""
        if self._has(job, _REQUEST):
            self._write(job, _STATE, msgspec.json.encode(state))

    def cancel(self, job: str) -> None:
        """Ask whoever runs the job to stop."""
        self._write(job, _CANCEL, b"")

    def is_cancelled(self, job: str) -> bool:
        """Tell whether somebody has asked to stop, or has deleted the job."""
        return self._has(job, _CANCEL) or not self._has(job, _REQUEST)

    def set_video(self, job: str, video: bytes) -> None:
        """Keep the video's file."""
        self._write(job, _VIDEO, video)

    def video(self, job: str) -> bytes:
        """Return the video's file."""
        return self._read(job, _VIDEO)

    def delete(self, job: str) -> None:
        """Forget a job and its files; the request goes first, so that nobody takes the rest for a job."""
        for name in (_REQUEST, None):
            path = self._path(job, name)
            if self._files.exists(path):
                self._files.rm(path, recursive=name is None)

    def sweep(self) -> None:
        """Remove what killed processes had begun an hour ago: folders without a request, and parts of files."""
        for path in (*self._list(self._root), *self._list(f"{self._root}/{_PARTIAL}")):
            name = path.rstrip("/").rsplit("/", 1)[-1]
            is_begun = path.startswith(f"{self._root}/{_PARTIAL}/") or (
                _ID.fullmatch(name) is not None and not self._has(name, _REQUEST)
            )
            if is_begun and self._is_old(path):
                self._files.rm(path, recursive=True)

    def jobs(self) -> Iterator[str]:
        """Yield all jobs, in no order."""
        for path in self._list(self._root):
            name = path.rstrip("/").rsplit("/", 1)[-1]
            if _ID.fullmatch(name) and self._has(name, _REQUEST):
                yield name

    def _list(self, folder: str) -> list[str]:
        return self._files.ls(folder, detail=False) if self._files.exists(folder) else []

    def _is_old(self, path: str) -> bool:
        info = self._files.info(path)
        changed = info.get("mtime") or info.get("LastModified") or info.get("created")
        seconds = changed.timestamp() if hasattr(changed, "timestamp") else changed
        return isinstance(seconds, int | float) and time.time() - seconds > _BEGUN

    def _path(self, job: str, name: str | None = None) -> str:
        if not _ID.fullmatch(job):  # so no name leaves the folder
            raise NoSuchJob(job)
        return f"{self._root}/{job}" if name is None else f"{self._root}/{job}/{name}"

    def _has(self, job: str, name: str) -> bool:
        return self._files.exists(self._path(job, name))

    def _read(self, job: str, name: str) -> bytes:
        try:
            return self._files.cat_file(self._path(job, name))
        except FileNotFoundError:
            raise NoSuchJob(job) from None

    def _write(self, job: str, name: str, content: bytes) -> None:
        path = self._path(job, name)
        if not self._is_local:  # an object appears whole
            self._files.pipe_file(path, content)
            return
        partial = f"{self._root}/{_PARTIAL}/{secrets.token_hex(8)}"
        try:
            with open(partial, "wb") as file:  # noqa: PTH123  # a path of fsspec
                file.write(content)
            os.replace(partial, path)  # noqa: PTH105
        except FileNotFoundError:
            raise NoSuchJob(job) from None


def new_id() -> str:
    """Return an id that nobody can guess."""
    return f"video_{secrets.token_hex(16)}"
