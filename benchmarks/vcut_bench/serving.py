"""``vcut serve`` on this machine: what it adds to a video's time, two workers beside one, and a crowd of clients.

    python -m vcut_bench.serving BUNDLE PHOTO [--seconds 120] [--json results/...]

All run on ONNX Runtime's CPU with one thread for each worker. A local run and a request, and one worker and two, take
turns; only one service runs at a time. Of the crowd, four clients for each worker ask again and again, twice as many as
the queue has places for.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer

from vcut_bench.numbers import Numbers
from vcut_bench.provenance import about, provenance
from vcut_bench.results import deliver
from vcut_bench.service import Service, ended, form, open_jobs, serving
from vcut_bench.turns import ratios, statistics_of
from vcut_runtime import Pipeline
from vcut_runtime.errors import VcutError

TURNS, JOBS, WORKERS, CLIENTS = 7, 8, 2, 8
QUEUE = 4  # places for the crowd
_AGAIN = 0.2  # seconds after which a client that was turned away asks again


def overhead(service: Service, pipeline: Pipeline, image: bytes) -> dict[str, Any]:
    """Return the seconds of a local run with its file, and of a request until its video has arrived, in turns."""
    local, served = [], []
    with service.client() as client:
        for turn in range(TURNS + 1):
            start = time.perf_counter()
            pipeline(image, seed=turn).save(BytesIO(), "mp4")
            middle = time.perf_counter()
            answer = client.post("/v1/videos/sync", **form(image, seed=str(turn)))
            end = time.perf_counter()
            if answer.status_code != 200:
                raise VcutError(f"a request failed: {answer.text[:200]}")
            if turn:  # the first one warms up
                local.append(middle - start)
                served.append(end - middle)
    return {"local": statistics_of(local), "served": statistics_of(served), "ratio": ratios(served, local)}


def scaling(bundle: Path, folder: Path, image: bytes) -> dict[str, Any]:
    """Return the seconds of the same jobs on one worker and on several, each a service of its own, in turns."""
    seconds: dict[int, list[float]] = {1: [], WORKERS: []}
    for turn in range(2):
        for workers in list(seconds)[:: -1 if turn % 2 else 1]:
            with serving(bundle, folder / f"{workers}-{turn}", workers=workers) as service:
                _batch(service, image, 2 * workers)  # warms up
                seconds[workers].append(_batch(service, image, JOBS))
    one, several = seconds[1], seconds[WORKERS]
    return {
        "jobs": JOBS,
        "one": statistics_of(one),
        "several": statistics_of(several),
        "ratio": ratios(one, several),
    }


def _batch(service: Service, image: bytes, jobs: int) -> float:
    with service.client() as client:
        start = time.perf_counter()
        asked = [client.post("/v1/videos", **form(image, seed=str(i))).json()["id"] for i in range(jobs)]
        for job in asked:
            with client.stream("GET", f"/v1/videos/{job}/events") as events:
                if "event: completed" not in "".join(events.iter_text()):
                    raise VcutError(f"{job} failed")
        return time.perf_counter() - start


def crowd(service: Service, image: bytes, seconds: float) -> dict[str, Any]:
    """Let clients ask for ``seconds``; return how many videos they got, how long jobs waited, and the memory."""
    end, answers, waits = time.monotonic() + seconds, Counter[str](), list[float]()
    lock = threading.Lock()

    def client_of_crowd(number: int) -> None:
        with service.client() as client:
            while time.monotonic() < end:
                created = client.post("/v1/videos", **form(image, seed=str(number)))
                with lock:
                    answers[str(created.status_code)] += 1
                if created.status_code != 200:
                    time.sleep(_AGAIN)
                    continue
                state = ended(client, created.json()["id"])
                client.get(f"/v1/videos/{state['id']}/content").raise_for_status()
                client.delete(f"/v1/videos/{state['id']}")
                with lock:
                    answers[state["status"]] += 1
                    waits.append(state["waited_seconds"])

    memory, longest = list[int](), 0
    with ThreadPoolExecutor(CLIENTS) as pool, service.client() as client:
        clients = [pool.submit(client_of_crowd, number) for number in range(CLIENTS)]
        while time.monotonic() < end:
            time.sleep(1)
            memory.append(_memory(service))
            longest = max(longest, open_jobs(client))
        for future in clients:
            future.result()
    tenth = max(1, len(memory) // 10)
    return {
        "seconds": seconds,
        "clients": CLIENTS,
        "queue": QUEUE,
        "answers": dict(answers),
        "longest_queue": longest,
        "waited_p95": float(np.percentile(waits, 95)) if waits else None,
        "memory": {"early": max(memory[tenth : 3 * tenth]), "last": max(memory[-2 * tenth :])},
    }


def _memory(service: Service) -> int:
    """Return the bytes that the workers and the front have to themselves."""
    total = 0
    for name in ("workers", "api"):
        for process in service.replicas(name):
            try:
                total += psutil.Process(process).memory_full_info().uss
            except psutil.Error:  # it has just ended
                continue
    return total


def measure(bundle: Path, photo: Path, seconds: float) -> dict[str, Any]:
    """Measure everything with services of one worker and of two."""
    image = photo.read_bytes()
    pipeline = Pipeline.load(bundle, "onnxruntime-cpu", threads=1)
    with tempfile.TemporaryDirectory() as folder:
        with serving(bundle, Path(folder) / "one") as one:
            added = overhead(one, pipeline, image)
        pipeline.close()
        scaled = scaling(bundle, Path(folder), image)
        with serving(bundle, Path(folder) / "busy", "--queue", str(QUEUE), workers=WORKERS) as busy:
            turned_away = crowd(busy, image, seconds)
    return {
        "benchmark": "serving",
        **provenance("vcut_bench.serving"),
        **about(pipeline.manifest),
        "threads": 1,
        "workers": WORKERS,
        "overhead": added,
        "scaling": scaled,
        "crowd": turned_away,
    }


def numbers(result: Mapping[str, Any]) -> list[Numbers]:
    """Return what serving adds, how it scales, and what a crowd meets."""
    added, scaled, busy = result["overhead"], result["scaling"], result["crowd"]
    rows = [
        ["a local run", f"{added['local']['median']:.2f} s", ""],
        ["a request to one worker", f"{added['served']['median']:.2f} s", f"{added['ratio']['median']:.2f} x local"],
        [f"{scaled['jobs']} jobs, one worker", f"{scaled['one']['median']:.2f} s", ""],
        [
            f"{scaled['jobs']} jobs, {result['workers']} workers",
            f"{scaled['several']['median']:.2f} s",
            f"{scaled['ratio']['median']:.2f} x the throughput",
        ],
    ]
    answers, memory = busy["answers"], busy["memory"]
    facts = [
        ["videos", str(answers.get("completed", 0))],
        ["failed", str(answers.get("failed", 0) + answers.get("cancelled", 0))],
        ["answers 429", str(answers.get("429", 0))],
        ["longest queue", f"{busy['longest_queue']} of {busy['queue']}"],
        ["waiting, 95th percentile", f"{busy['waited_p95']:.1f} s"],
        ["memory, early and at the end", f"{memory['early'] / 1e6:.0f} and {memory['last'] / 1e6:.0f} MB"],
    ]
    crowd_of = f"{busy['clients']} clients, {result['workers']} workers, {busy['seconds']:.0f} s"
    return [
        Numbers(
            "A request beside a local run, and two workers", ["", "median", ""], rows, "One thread each, in turns."
        ),
        Numbers(f"A crowd: {crowd_of}", ["", ""], facts, "Clients that were turned away ask again."),
    ]


def main(
    bundle: Annotated[Path, typer.Argument(help="A bundle for the CPU.")],
    photo: Annotated[Path, typer.Argument(help="A photograph.")],
    seconds: Annotated[float, typer.Option(help="How long the crowd asks.")] = 120,
    output: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Measure ``vcut serve`` on this machine."""
    deliver(measure(bundle, photo, seconds), output, json=True)


if __name__ == "__main__":
    typer.run(main)
