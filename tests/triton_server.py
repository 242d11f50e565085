"""A real Triton server, which ``make serving-tools`` unpacks."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from vcut_bench.service import free_port

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / ".venv" / "triton"


@dataclass(frozen=True)
class Server:
    """Where a server answers."""

    http: str
    grpc: str
    metrics: str


@contextmanager
def running(repository: Path, log: Path) -> Iterator[Server]:
    """Start a server on a model repository, and yield it once all models are ready."""
    if not (TOOLS / ".installed").exists():
        raise AssertionError("there is no Triton server: run 'make serving-tools'")
    triton, python = TOOLS / "server" / "pytriton" / "tritonserver", TOOLS / "python"
    http, grpc, metrics = free_port(), free_port(), free_port()
    sources = [ROOT / "runtime", ROOT / "serving", python]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sources)), "PYTHONNOUSERSITE": "1"}
    command = [
        str(triton / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={triton / 'backends'}",
        f"--http-port={http}",
        f"--grpc-port={grpc}",
        f"--metrics-port={metrics}",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
        "--allow-gpu-metrics=false",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            assert process.poll() is None, f"Triton ended:\n{log.read_text(errors='replace')[-4000:]}"
            try:
                if httpx.get(f"http://127.0.0.1:{http}/v2/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        else:
            raise AssertionError(f"Triton is not ready after a minute:\n{log.read_text(errors='replace')[-4000:]}")
        yield Server(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", f"127.0.0.1:{metrics}")
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
