"""The service in this process, without Ray: jobs run in a thread, one at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from vcut_bench.service import free_port
from vcut_runtime import open_bundle
from vcut_serving.app import build_app
from vcut_serving.queue import RunJob
from vcut_serving.settings import Settings
from vcut_serving.worker import Worker


def in_thread(worker: Worker) -> RunJob:
    """Run jobs in a thread, one at a time."""
    turn = asyncio.Lock()

    async def run(job: str) -> None:
        async with turn:
            await asyncio.to_thread(worker.run, job)

    return run


@contextmanager
def listening(bundle: Path, results: Path, **settings: Any) -> Iterator[str]:
    """Serve over real HTTP and yield the address."""
    run_job = in_thread(Worker(str(bundle), str(results), "onnxruntime-cpu"))
    app = build_app(open_bundle(bundle).manifest, Settings(str(results), **settings), run_job)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server ended"
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)
