"""What makes the videos of a service: one pipeline, one job at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO

import msgspec

from vcut_runtime import BackendOptions, Cancelled, Pipeline, VcutError
from vcut_runtime.errors import first_line
from vcut_serving.fields import run_options
from vcut_serving.store import ENDED, JobStore, NoSuchJob, State

_LOOK_EVERY = 0.2  # seconds between two looks whether a job was cancelled
_TELL_EVERY = 0.5  # seconds between two states that are written


class Worker:
    """A loaded bundle that runs jobs of a store.

    Args:
        bundle: its folder.
        results: where the jobs are, see :class:`~vcut_serving.store.JobStore`.
        backend: as in :meth:`vcut_runtime.Pipeline.load`.
        options: of the backend.

    Raises:
        VcutError: the bundle cannot run here.
    """

    def __init__(self, bundle: str, results: str, backend: str = "auto", options: BackendOptions | None = None) -> None:
        self._store = JobStore(results)
        self._pipeline = Pipeline.load(bundle, backend, options)

    def run(self, job: str) -> None:
        """Make the video of ``job``; whatever comes of it is in its state. A job that has ended is left alone."""
        try:
            state = self._store.state(job)
            if state.status in ENDED:
                return
            state = State("in_progress", started=time.time())
            if self._store.is_cancelled(job):
                raise Cancelled("the video was cancelled before it began")
            self._store.set_state(job, state)
            state = self._make(job, state)
        except NoSuchJob:
            return
        except Cancelled:
            state = State("cancelled", error="the video was cancelled", finished=time.time())
        except VcutError as error:
            state = State("failed", error=str(error), finished=time.time())
        except Exception as error:  # a fault of ours: the service goes on
            state = State("failed", error=f"{type(error).__name__}: {first_line(error)}", finished=time.time())
        self._store.set_state(job, state)

    def _make(self, job: str, state: State) -> State:
        request = self._store.request(job)
        options = run_options(request.options)
        told = [time.monotonic()]

        def progress(stage: str, done: int, total: int) -> None:
            if time.monotonic() - told[0] >= _TELL_EVERY:
                told[0] = time.monotonic()
                self._store.set_state(job, msgspec.structs.replace(state, progress=percent(stage, done, total)))

        with _cancel_event(lambda: self._store.is_cancelled(job)) as cancel:
            video = self._pipeline(self._store.image(job), options, seed=request.seed, progress=progress, cancel=cancel)
        file = BytesIO()
        video.save(file, "mp4", quality=request.quality)
        self._store.set_video(job, file.getvalue())
        seconds = {stage: round(value, 4) for stage, value in video.timings.items()}
        return msgspec.structs.replace(
            state, status="completed", progress=100, finished=time.time(), seconds=seconds, notes=video.notes
        )


# Where each stage begins and ends, in percent of a video's time.
_STAGES = {"condition": (0, 5), "semantic_binding": (5, 60), "quality_improvement": (60, 85), "decode": (85, 99)}


def percent(stage: str, done: int, total: int) -> int:
    """Return how far a video is when ``done`` of ``total`` of a stage are done, roughly."""
    start, end = _STAGES.get(stage, (0, 99))
    return round(start + (end - start) * done / max(total, 1))


@contextmanager
def _cancel_event(is_cancelled: Callable[[], bool]) -> Iterator[threading.Event]:
    """Yield an event that is set once ``is_cancelled`` says so."""
    cancel, over = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_EVERY):
            if is_cancelled():
                cancel.set()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield cancel
    finally:
        over.set()
        watcher.join()
