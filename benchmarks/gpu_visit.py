"""One command for a fresh GPU machine with nothing but Python and a folder of wheels: install, compile, test, measure.

    python benchmarks/gpu_visit.py --wheels WHEELS --json benchmarks/results/GPU-DATE.json [--minutes 25] [--dry-run]

WHEELS holds this project's wheel and the wheels that it needs (``pip wheel '.[export,tensorrt-rtx,dev]' -w WHEELS``). A
wheel may come in parts named ``NAME.whl.00``, ``NAME.whl.01`` ... Packages that the machine already has, such as torch,
are used as they are, and their wheels may be left out. Starting needs only the standard library.

The questions, in order: does each TensorRT build engines for this GPU; do they agree with ONNX Runtime on the CPU
(``pytest -m gpu``); how long does a video take beside its peers. If a step fails or does not fit into the time, the
record says why, and the next step runs. The record is written after every step.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Step:
    """One command of the visit. If its output ends with JSON, that is its result."""

    name: str
    question: str
    command: list[str]
    minutes: float  # at most
    needs: str | None = None  # the step without whose success this one is pointless
    folder: Path = ROOT


def visit(steps: Sequence[Step], output: Path, record: dict[str, Any], deadline: float, site: Path) -> None:
    """Run steps one after another and note how each went in ``record``, which is written after every step."""
    record["steps"] = done = {}
    for step in steps:
        left = deadline - time.monotonic()
        if step.needs and done.get(step.needs, {}).get("status") != "passed":
            entry: dict[str, Any] = {"status": "skipped", "reason": f"{step.needs} did not pass"}
        elif left < 20:
            entry = {"status": "skipped", "reason": "no time left"}
        else:
            print(f"{step.name}: {' '.join(step.command)}", file=sys.stderr, flush=True)
            entry = run(step, min(step.minutes * 60, left), site)
        done[step.name] = {"question": step.question, "command": " ".join(step.command), **entry}
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = output.with_suffix(".partial")
        partial.write_text(json.dumps(record, indent=2) + "\n")
        partial.replace(output)
        print(f"  {entry['status']} {entry.get('reason', '')}", file=sys.stderr, flush=True)


def run(step: Step, seconds: float, site: Path) -> dict[str, Any]:
    """Run a step with the packages in ``site`` and return how it went."""
    start = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONUNBUFFERED": "1"}
    try:
        done = subprocess.run(
            step.command, capture_output=True, text=True, cwd=step.folder, env=environment, timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        text = (error.stderr or b"").decode(errors="replace")  # bytes, even of a text stream
        return {"status": "failed", "reason": f"not done after {seconds:.0f} s", "stderr": text[-2000:]}
    except OSError as error:
        return {"status": "failed", "reason": str(error)}
    entry: dict[str, Any] = {"status": "passed", "seconds": round(time.monotonic() - start, 1)}
    with contextlib.suppress(ValueError):
        entry["result"] = _last_json(done.stdout)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).strip().splitlines() if line.strip()]
        reason = lines[-1][:500] if lines else f"exit code {done.returncode}"
        entry |= {"status": "failed", "reason": reason, "stdout": done.stdout[-4000:], "stderr": done.stderr[-4000:]}
    return entry


def plan(work: Path, site: Path, wheels: Path, *, full: bool) -> list[Step]:
    """Return the steps of a visit that works in ``work`` and installs into ``site``."""
    tiny, real = work / "svd-tiny", work / "svd-xt"
    libraries = ("tensorrt-rtx", "tensorrt")

    def vcut(*words: str) -> list[str]:
        return [sys.executable, "-m", "vcut_runtime", *words, "--json"]

    def export(bundle: Path, minutes: float) -> Step:
        options = ("--random-weights", "--deep-cache", "--engines", "none")
        command = vcut("export", "--model", bundle.name, "--output", str(bundle), *options)
        return Step(f"export {bundle.name}", "does it compile here", command, minutes, "install")

    def build(bundle: Path, library: str, minutes: float) -> Step:
        command = vcut("build", str(bundle), "--engines", library, "--gpu", "this")
        name, question = f"{library} build {bundle.name}", f"do {bundle.name}'s engines build"
        return Step(name, question, command, minutes, f"export {bundle.name}")

    code = "from gpu_visit import install; import sys; install(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(wheels), str(site)]
    steps = [Step("install", "do the wheels install", command, 4, folder=ROOT / "benchmarks"), export(tiny, 3)]
    steps += [build(tiny, library, 3) for library in libraries]
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu/test_engines.py"]
    steps.append(Step("gpu tests", "do engines and pipeline agree with ONNX Runtime on the CPU", tests, 6, "install"))
    command = vcut("bench", "latency", str(tiny))
    steps.append(Step("latency svd-tiny", "how fast at small size", command, 6, "export svd-tiny"))
    if full:
        steps += [export(real, 4), *(build(real, library, 8) for library in libraries)]
        # A video takes diffusers a minute and a half on an A10, so only the peers that engines are compared with run.
        options = ("--repeats", "2", "--cut-steps", "17", "--cache-intervals", "3")
        peers = ("--peers", "diffusers,diffusers-compiled,tensorrt-unfolded")
        command = vcut("bench", "latency", str(real), *options, *peers)
        steps.append(Step("latency svd-xt", "how fast at 25 frames of 576x1024", command, 10, "export svd-xt"))
    return steps


def install(wheels: str, site: str) -> None:
    """Join wheels that came in parts. Install what the machine lacks, and this project, without a network."""
    folder = Path(wheels)
    for first in sorted(folder.glob("*.whl.00")):
        whole = first.with_suffix("")
        with whole.open("wb") as file:
            for part in sorted(folder.glob(f"{whole.name}.[0-9][0-9]")):
                file.write(part.read_bytes())
    needed = sorted(str(path) for path in folder.glob("*.whl") if not _is_there(path.name))
    if needed:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--upgrade", "--target", site, *needed], check=True)
    print(json.dumps({"installed": [Path(name).name for name in needed]}))


def machine() -> dict[str, Any]:
    """Return what the machine says about itself when nothing is installed."""
    facts: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),  # noqa: UP017
        "python": platform.python_version(),
        "cpu": f"{platform.machine()}, {os.cpu_count()} cores",
        "gpu": None,
    }
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        facts["gpu"] = done.stdout.strip() or done.stderr.strip()
    return facts


def main(arguments: list[str] | None = None) -> int:
    """Make the visit, or print its plan."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wheels", type=Path, required=True, help="folder of wheels, whole or in parts")
    parser.add_argument("--json", type=Path, required=True, dest="output", help="where the result goes")
    parser.add_argument("--work", type=Path, default=Path("gpu-visit"), help="folder for bundles and packages")
    parser.add_argument("--minutes", type=float, default=25, help="time for everything")
    parser.add_argument("--small", action="store_true", help="svd-tiny only")
    parser.add_argument("--dry-run", action="store_true", help="check the wheels and print the plan; run nothing")
    given = parser.parse_args(arguments)
    if not given.wheels.is_dir():
        print(f"error: no folder of wheels at {given.wheels}: make one with pip wheel", file=sys.stderr)
        return 2
    work = given.work.resolve()
    site = work / "site"
    steps = plan(work, site, given.wheels.resolve(), full=not given.small)
    if given.dry_run:
        wheels = sorted(path.name for path in given.wheels.iterdir())
        words = [{"name": step.name, "command": step.command, "minutes": step.minutes} for step in steps]
        print(json.dumps({"machine": machine(), "wheels": wheels, "steps": words}, indent=2))
        return 0
    work.mkdir(parents=True, exist_ok=True)
    record = {"benchmark": "gpu_visit", "command": " ".join(["python", *sys.argv]), **machine()}
    visit(steps, given.output.resolve(), record, time.monotonic() + given.minutes * 60, site)
    return 0 if all(step["status"] == "passed" for step in record["steps"].values()) else 1


def _is_there(wheel: str) -> bool:
    """Tell whether the distribution of a wheel is installed, such as torch. This project is always installed anew."""
    from importlib.metadata import PackageNotFoundError, version

    name = re.split(r"-\d", wheel)[0]
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return name != "vcut"


def _last_json(text: str) -> Any:
    """Return the JSON that ``text`` ends with, on one line or on many."""
    start = max(text.rfind("\n{"), text.rfind("\n[")) + 1
    return json.loads(text[start:] if start else text)


if __name__ == "__main__":
    sys.exit(main())
