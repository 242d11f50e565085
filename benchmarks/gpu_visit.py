"""One command for a fresh GPU machine with nothing but Python and a folder of wheels: install, compile, test, measure.

    python benchmarks/gpu_visit.py --wheels WHEELS --json benchmarks/results/GPU-DATE.json [--minutes 25] [--dry-run]

WHEELS holds this project's wheel and the wheels that it needs (``pip wheel '.[export,tensorrt-rtx,dev]' -w WHEELS``). A
wheel may come in parts named ``NAME.whl.00``, ``NAME.whl.01`` ... Packages that the machine already has, such as torch,
are used as they are, and their wheels may be left out. Starting needs only the standard library.

The questions, in order: does each TensorRT run on this GPU at all; do its engines agree with ONNX Runtime on the CPU
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
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vcut_engines.options import Engines

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    *("accelerate", "diffusers", "huggingface_hub", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "safetensors"),
    *("torch", "transformers", "av", "msgspec", "numpy", "PIL", "platformdirs", "rich", "typer", "cuda.bindings"),
    *("pytest", "hypothesis", "skimage", "vcut_runtime", "vcut_export", "vcut_engines", "vcut_bench"),
)


@dataclass
class Step:
    """One command of the visit. If its output ends with JSON, that is its result."""

    name: str
    question: str
    command: list[str]
    minutes: float  # at most
    needs: str | None = None  # the step without whose success this one is pointless
    folder: Path = ROOT


@dataclass
class Visit:
    """Runs steps one after another and keeps the record."""

    output: Path
    deadline: float
    environment: dict[str, str]
    record: dict[str, Any] = field(default_factory=dict)

    def run(self, step: Step) -> None:
        """Run a step, note how it went, and write the record."""
        steps = self.record.setdefault("steps", {})
        left = self.deadline - time.monotonic()
        if step.needs and steps.get(step.needs, {}).get("status") != "passed":
            entry: dict[str, Any] = {"status": "skipped", "reason": f"{step.needs} did not pass"}
        elif left < 20:
            entry = {"status": "skipped", "reason": "no time left"}
        else:
            print(f"{step.name}: {' '.join(step.command)}", file=sys.stderr, flush=True)
            entry = self._run(step, min(step.minutes * 60, left))
        steps[step.name] = {"question": step.question, "command": " ".join(step.command), **entry}
        self.write()
        print(f"  {entry['status']} {entry.get('reason', '')}", file=sys.stderr, flush=True)

    def _run(self, step: Step, seconds: float) -> dict[str, Any]:
        start = time.monotonic()
        try:
            done = subprocess.run(
                step.command, capture_output=True, text=True, cwd=step.folder, env=self.environment, timeout=seconds
            )
        except subprocess.TimeoutExpired as error:
            printed: Any = error.stderr or b""  # bytes, even of a text stream
            text = printed if isinstance(printed, str) else printed.decode(errors="replace")
            return {"status": "failed", "reason": f"not done after {seconds:.0f} s", "stderr": text[-2000:]}
        except OSError as error:
            return {"status": "failed", "reason": str(error)}
        entry: dict[str, Any] = {"status": "passed" if done.returncode == 0 else "failed"}
        entry["seconds"] = round(time.monotonic() - start, 1)
        with contextlib.suppress(ValueError, IndexError):
            entry["result"] = _last_json(done.stdout)
        if done.returncode:
            lines = [line for line in (done.stderr + done.stdout).strip().splitlines() if line.strip()]
            entry["reason"] = lines[-1][:500] if lines else f"exit code {done.returncode}"
            entry["stdout"], entry["stderr"] = done.stdout[-4000:], done.stderr[-4000:]
        return entry

    def write(self) -> None:
        """Write the record whole, so that a visit cut short leaves what it has."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        partial = self.output.with_suffix(".partial")
        partial.write_text(json.dumps(self.record, indent=2) + "\n")
        partial.replace(self.output)


def plan(work: Path, site: Path, wheels: Path, *, full: bool) -> list[Step]:
    """Return the steps of a visit that works in ``work`` and installs into ``site``."""
    here = ROOT / "benchmarks"
    tiny, real = work / "svd-tiny", work / "svd-xt"
    libraries = ("tensorrt-rtx", "tensorrt")

    def python(function: str, *arguments: str) -> list[str]:
        code = f"from gpu_visit import {function}; import sys; {function}(*sys.argv[1:])"
        return [sys.executable, "-c", code, *arguments]

    def vcut(*words: str) -> list[str]:
        return [sys.executable, "-m", "vcut_runtime", *words, "--json"]

    def export(bundle: Path) -> list[str]:
        options = ("--random-weights", "--deep-cache", "--engines", "none")
        return vcut("export", "--model", bundle.name, "--output", str(bundle), *options)

    def build(bundle: Path, library: str, minutes: float) -> Step:
        name, question = f"{library} build {bundle.name}", f"do {bundle.name}'s engines build"
        command = vcut("build", str(bundle), "--engines", library, "--gpu", "this")
        return Step(name, question, command, minutes, f"{library} runs")

    steps = [
        Step("install", "do the wheels install", python("install", str(wheels), str(site)), 4, folder=here),
        Step("export svd-tiny", "does it compile here", export(tiny), 3, "install"),
    ]
    for library in libraries:
        question = f"does {library} run on this GPU at all"
        steps.append(Step(f"{library} runs", question, python("smoke", library), 2, "install", here))
        steps.append(build(tiny, library, 3))
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu/test_engines.py"]
    steps.append(Step("gpu tests", "do engines and pipeline agree with ONNX Runtime on the CPU", tests, 6, "install"))
    command = vcut("bench", "latency", str(tiny))
    steps.append(Step("latency svd-tiny", "how fast at small size", command, 6, "export svd-tiny"))
    if full:
        steps.append(Step("export svd-xt", "does the real size compile", export(real), 4, "install"))
        steps += [build(real, library, 8) for library in libraries]
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
    missing = [name for name in PACKAGES if not _imports(name)]
    print(json.dumps({"installed": [Path(name).name for name in needed], "missing": missing}))
    if missing:
        sys.exit(f"these packages are neither here nor among the wheels: {', '.join(missing)}")


def smoke(library: Engines) -> None:
    """Build a graph of two nodes for this GPU, run it, and print how far the result is off."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    from vcut_engines import choose_target
    from vcut_engines.compile import EngineJob, compile_graph
    from vcut_engines.recipe import Recipe
    from vcut_runtime.backends.cuda import Cuda
    from vcut_runtime.backends.tensorrt_library import load_library

    target = choose_target(library, "this", "fp32")
    assert not isinstance(target, str), target
    cuda, loaded = Cuda(), load_library(target.library)
    with tempfile.TemporaryDirectory() as folder:
        path, engine_path, log = (f"{folder}/smoke.{suffix}" for suffix in ("onnx", "engine", "log"))
        x_info, y_info = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 64]) for name in ("x", "y"))
        nodes = [helper.make_node("MatMul", ["x", "x"], ["z"]), helper.make_node("Add", ["z", "x"], ["y"])]
        graph = helper.make_graph(nodes, "smoke", [x_info], [y_info])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]), path)
        recipe = Recipe(target.library, target.version, target.compute_capability, "fp32")
        compile_graph(EngineJob(recipe, "smoke", path, engine_path, log), lambda *_: None)
        serialized = Path(engine_path).read_bytes()
    errors: list[str] = []
    runtime = loaded.module.Runtime(loaded.logger(lambda severity, text: errors.append(f"{severity} {text}")))
    engine = runtime.deserialize_cuda_engine(serialized)
    if engine is None:
        sys.exit(" ".join(errors[-1:]) or "the engine does not load")
    context = engine.create_execution_context()
    x = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    y = np.empty_like(x)
    memory = {name: cuda.allocate(x.nbytes, name) for name in ("x", "y")}
    cuda.copy_in(memory["x"].address, x)
    for name, block in memory.items():
        context.set_tensor_address(name, block.address)
    if not context.execute_async_v3(cuda.stream):
        sys.exit(" ".join(errors[-1:]) or "the engine does not run")
    cuda.copy_out(y, memory["y"].address)
    error = float(np.abs(y - (x @ x + x)).max())
    print(json.dumps({"library": loaded.title, "target": target.name, "gpu": cuda.name, "largest_error": error}))
    sys.exit(None if error < 1e-2 else f"the result is off by {error}")


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
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONUNBUFFERED": "1"}
    visit = Visit(given.output.resolve(), time.monotonic() + given.minutes * 60, environment)
    visit.record |= {"benchmark": "gpu_visit", "command": " ".join(["python", *sys.argv]), **machine()}
    for step in steps:
        visit.run(step)
    return 0 if all(s["status"] == "passed" for s in visit.record["steps"].values()) else 1


def _is_there(wheel: str) -> bool:
    """Tell whether the distribution of a wheel is installed, such as torch. This project is always installed anew."""
    from importlib.metadata import PackageNotFoundError, version

    name = re.split(r"-\d", wheel)[0]
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return name != "vcut"


def _imports(name: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(name) is not None
    except ImportError:
        return False


def _last_json(text: str) -> Any:
    """Return the JSON that ``text`` ends with, on one line or on many."""
    start = max(text.rfind("\n{"), text.rfind("\n[")) + 1
    return json.loads(text[start:] if start else text)


if __name__ == "__main__":
    sys.exit(main())
