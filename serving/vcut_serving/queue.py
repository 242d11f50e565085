"""The queue of a service: which jobs wait or run, how many more may come, and what became of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import Context

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from vcut_runtime.errors import first_line
from vcut_serving.store import ENDED, JobStore, NoSuchJob, State

RunJob = Callable[[str], Awaitable[None]]  # runs a job in a worker; raises if the worker died
_ATTEMPTS = 20  # of a job whose workers die: they may be killed in turn, but no job may take down all for ever
_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 600)


class Full(Exception):
    """The queue has no place."""


class JobQueue:
    """Runs the jobs of a store, each until it has ended.

    Args:
        store: the jobs.
        run_job: runs one.
        most: jobs that may wait or run at a time.
    """

    def __init__(self, store: JobStore, run_job: RunJob, most: int) -> None:
        self.store, self._run_job, self._most = store, run_job, most
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._removing: set[asyncio.Task[None]] = set()
        self._reserved = 0
        self.metrics = CollectorRegistry()
        self._open = Gauge("vcut_jobs_open", "Jobs that wait or run.", registry=self.metrics)
        self._open.set_function(lambda: len(self._tasks))
        self.outcomes = Counter("vcut_jobs", "Jobs that ended, by outcome.", ["outcome"], registry=self.metrics)
        self.refused = Counter("vcut_refused", "Requests that were refused.", ["status"], registry=self.metrics)
        self.retried = Counter("vcut_retries", "Attempts after a worker died.", registry=self.metrics)
        self._wait = Histogram("vcut_wait_seconds", "Seconds a job waited.", buckets=_BUCKETS, registry=self.metrics)
        self._stage = Histogram(
            "vcut_stage_seconds", "Seconds of each stage.", ["stage"], buckets=_BUCKETS, registry=self.metrics
        )

    def reserve(self) -> None:
        """Take a place in the queue before the photograph is read.

        Raises:
            Full: there is none.
        """
        if len(self._tasks) + self._reserved >= self._most:
            raise Full
        self._reserved += 1

    def give_back(self) -> None:
        """Give back a place that was reserved."""
        self._reserved -= 1

    def start(self, job: str) -> None:
        """Run a job of the store in the background.

        The task has an empty context. Else Ray Serve would take the worker's call for a part of the client's request,
        and would cancel it when the client goes away.
        """
        self._tasks[job] = Context().run(asyncio.create_task, self._run(job))

    async def recover(self) -> None:
        """Run the jobs that an earlier process of this service has left unfinished, oldest first."""
        unfinished = []
        for job in await asyncio.to_thread(lambda: list(self.store.jobs())):
            try:
                state = await asyncio.to_thread(self.store.state, job)
                request = await asyncio.to_thread(self.store.request, job)
            except NoSuchJob:
                continue
            if state.status not in ENDED:
                unfinished.append((request.created, job))
        for _, job in sorted(unfinished):
            self.start(job)

    async def wait(self, job: str) -> None:
        """Wait until a job has ended."""
        if task := self._tasks.get(job):
            await asyncio.wait([task])

    async def remove(self, job: str) -> None:
        """Cancel a job if it has not ended, and forget it."""
        await asyncio.to_thread(self.store.cancel, job)
        await asyncio.to_thread(self.store.delete, job)

    def remove_soon(self, job: str) -> None:
        """Do the same in the background, for a handler that is being cancelled itself."""
        task = asyncio.create_task(self.remove(job))
        self._removing.add(task)  # else nobody refers to it
        task.add_done_callback(self._removing.discard)

    async def sweep(self, expiry: float) -> None:
        """Delete jobs that ended more than ``expiry`` seconds ago, and what was never finished."""
        await asyncio.to_thread(self.store.sweep)
        for job in await asyncio.to_thread(lambda: list(self.store.jobs())):
            try:
                state = await asyncio.to_thread(self.store.state, job)
            except NoSuchJob:
                continue
            if state.status in ENDED and time.time() - (state.finished or 0) > expiry:
                await asyncio.to_thread(self.store.delete, job)

    async def _run(self, job: str) -> None:
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    await self._run_job(job)
                    break
                except asyncio.CancelledError:
                    raise
                except Exception as error:  # the worker died, in one of Ray's ways
                    self.retried.inc()
                    if attempt == _ATTEMPTS:
                        message = f"its workers died {attempt} times ({first_line(error)}): look at the server's log"
                        await self._set(job, State("failed", error=message, finished=time.time()))
                    await asyncio.sleep(min(0.1 * 2**attempt, 5))
            await self._count(job)
        finally:
            self._tasks.pop(job, None)

    async def _set(self, job: str, state: State) -> None:
        await asyncio.to_thread(self.store.set_state, job, state)

    async def _count(self, job: str) -> None:
        try:
            state = await asyncio.to_thread(self.store.state, job)
            request = await asyncio.to_thread(self.store.request, job)
        except NoSuchJob:
            self.outcomes.labels("deleted").inc()
            return
        self.outcomes.labels(state.status).inc()
        if state.started is not None:
            self._wait.observe(max(state.started - request.created, 0))
        for stage, seconds in state.seconds.items():
            self._stage.labels(stage).observe(seconds)
