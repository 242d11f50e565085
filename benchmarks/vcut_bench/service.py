"""``vcut serve`` in a process of its own, on a real Ray: for the measurements and for the tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from vcut_runtime.errors import VcutError
from vcut_serving.store import ENDED

_PATIENCE = 120.0  # seconds that it may take to start


@dataclass(frozen=True)
class Service:
    """A running service.

    Attributes:
        url: where it answers.
        process: of the command.
        results: folder of its jobs.
    """

    url: str
    process: subprocess.Popen[bytes]
    results: Path

    def client(self) -> httpx.Client:
        """Return a client; close it."""
        return httpx.Client(base_url=self.url, timeout=120)

    def is_ready(self) -> bool:
        """Tell whether it answers."""
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def replicas(self, name: str) -> list[int]:
        """Return the processes of Ray Serve's deployment ``name``, such as ``workers`` or ``api``."""
        return processes_of(self.process.pid, f"ray::ServeReplica:vcut:{name}")

    def stop(self) -> int:
        """Stop the service as a supervisor does, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


@contextmanager
def serving(bundle: Path, folder: Path, *words: str, workers: int = 1) -> Iterator[Service]:
    """Serve ``bundle`` and yield the service once it answers.

    Args:
        bundle: its folder.
        folder: of the jobs and the log.
        words: options of ``vcut serve``.
        workers: with one thread each.

    Raises:
        VcutError: it does not start.
    """
    port, log = free_port(), folder / "log"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "vcut_runtime", "serve", str(bundle), "--port", str(port), "--threads", "1"]
    command += ["--backend", "onnxruntime-cpu", "--workers", str(workers), "--results", str(folder / "jobs"), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, preexec_fn=_take_all_cores)
    service = Service(f"http://127.0.0.1:{port}", process, folder / "jobs")
    try:
        end = time.monotonic() + _PATIENCE
        while not service.is_ready():
            if process.poll() is not None or time.monotonic() > end:
                raise VcutError(f"vcut serve does not start: {log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.1)
        yield service
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        if process.poll() is None:
            service.stop()
        for child in children:
            if child.is_running():
                child.kill()


def processes_of(parent: int, title: str) -> list[int]:
    """Return the processes below ``parent`` whose command begins with ``title``."""
    processes = []
    for process in psutil.Process(parent).children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(title):
                processes.append(process.pid)
        except psutil.Error:  # it has just ended
            continue
    return processes


def form(image: bytes, **fields: Any) -> dict[str, Any]:
    """Return the arguments of a client's POST."""
    return {"files": {"input_reference": ("p.png", image, "image/png")}, "data": fields}


def ended(client: httpx.Client, job: str, seconds: float = 120) -> dict[str, Any]:
    """Wait until a job has ended, and return it.

    Raises:
        VcutError: it has not ended after ``seconds``.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = client.get(f"/v1/videos/{job}").json()
            if state["status"] in ENDED:
                return state
        except (httpx.TransportError, ValueError):  # the front was killed, and starts again
            pass
        time.sleep(0.1)
    raise VcutError(f"{job} does not end")


def open_jobs(client: httpx.Client) -> int:
    """Return how many jobs wait or run.

    Raises:
        VcutError: the service does not tell.
    """
    for line in client.get("/metrics").text.splitlines():
        if line.startswith("vcut_jobs_open "):
            return int(float(line.split()[1]))
    raise VcutError("/metrics has no vcut_jobs_open")


def _take_all_cores() -> None:
    """Let a new process use all cores, also where its parent is kept to one."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
