"""One command for a fresh GPU machine with nothing but Python and a folder of wheels: install, compile, test, measure.

    python benchmarks/gpu_visit.py --wheels WHEELS --json benchmarks/results/GPU-DATE.json [--minutes 25] [--dry-run]

WHEELS holds this project's wheel and those it needs (``pip wheel '.[export,tensorrt-rtx,dev]' -w WHEELS``); a wheel
may come in parts named ``NAME.whl.00``, ``NAME.whl.01`` ... What is installed on the machine already, such as torch, is
used as it is and its wheel may be left out. Only the standard library is needed to start.

The questions, in order: does each TensorRT run on this GPU at all; do its engines agree with ONNX Runtime on the CPU
(``pytest -m gpu``); how long does a video take beside its peers. A step that fails or does not fit into the time is
noted with its reason, and the next one goes on. The result is written after every step.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    *("accelerate", "diffusers", "huggingface_hub", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "safetensors"),
    *("torch", "transformers", "av", "msgspec", "numpy", "PIL", "platformdirs", "rich", "typer", "cuda.bindings"),
    *("pytest", "hypothesis", "skimage", "vcut_runtime", "vcut_export", "vcut_engines", "vcut_bench"),
)


@dataclass
class Step:
    """One command of the visit; its last line of standard output, if it is JSON, is its result."""

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
            text = (error.stderr or b"").decode(errors="replace") if isinstance(error.stderr, bytes) else ""
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
    python = sys.executable
    tiny, real = work / "svd-tiny", work / "svd-xt"
    install = "from gpu_visit import install; import sys; install(sys.argv[1], sys.argv[2])"

    def latency(bundle: Path, *options: str) -> list[str]:
        return [python, "-m", "vcut_runtime", "bench", "latency", str(bundle), "--json", *options]

    def build(bundle: Path, library: str) -> list[str]:
        return [python, "-m", "vcut_runtime", "build", str(bundle), "--engines", library, "--gpu", "this", "--json"]

    def export(model: str, bundle: Path) -> list[str]:
        words = ["--model", model, "--random-weights", "--deep-cache", "--output", str(bundle), "--engines", "none"]
        return [python, "-m", "vcut_runtime", "export", *words, "--json"]

    smoke = "from gpu_visit import smoke; import sys; smoke(sys.argv[1])"
    here = ROOT / "benchmarks"
    steps = [
        Step("install", "do the wheels install", [python, "-c", install, str(wheels), str(site)], 4, folder=here),
        Step("export svd-tiny", "does it compile here", export("svd-tiny", tiny), 3, "install"),
    ]
    for library in ("tensorrt-rtx", "tensorrt"):
        steps += [
            Step(
                f"{library} runs",
                f"does {library} run on this GPU at all",
                [python, "-c", smoke, library],
                2,
                "install",
                here,
            ),
            Step(
                f"{library} build svd-tiny", "do svd-tiny's engines build", build(tiny, library), 3, f"{library} runs"
            ),
        ]
    tests = [python, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu/test_engines.py"]
    steps.append(Step("gpu tests", "do engines and pipeline agree with ONNX Runtime on the CPU", tests, 6, "install"))
    steps.append(Step("latency svd-tiny", "how fast at small size", latency(tiny), 6, "export svd-tiny"))
    if full:
        steps.append(Step("export svd-xt", "does the real size compile", export("svd-xt", real), 4, "install"))
        for library in ("tensorrt-rtx", "tensorrt"):
            built = f"{library} build svd-xt"
            steps.append(Step(built, "do SVD-XT's engines build", build(real, library), 8, f"{library} runs"))
        # A video of diffusers' takes a minute and a half on an A10: only those peers that an engine is compared with.
        peers = "diffusers,diffusers-compiled,tensorrt-unfolded"
        options = ("--repeats", "2", "--cut-steps", "17", "--cache-intervals", "3", "--peers", peers)
        command = latency(real, *options)
        steps.append(Step("latency svd-xt", "how fast at 25 frames of 576x1024", command, 10, "export svd-xt"))
    return steps


def install(wheels: str, site: str) -> None:
    """Join wheels that came in parts, and install all that the machine lacks, and this project, without a network."""
    folder = Path(wheels)
    for first in sorted(folder.glob("*.whl.00")):
        whole = first.with_suffix("")
        with whole.open("wb") as file:
            for part in sorted(folder.glob(f"{whole.name}.[0-9][0-9]")):
                file.write(part.read_bytes())
    found = sorted(str(path) for path in folder.glob("*.whl") if not _is_there(path.name))
    if found:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--upgrade", "--target", site, *found], check=True)
    missing = [name for name in PACKAGES if not _imports(name)]
    print(json.dumps({"installed": [Path(name).name for name in found], "missing": missing}))
    if missing:
        sys.exit(f"these packages are neither here nor among the wheels: {', '.join(missing)}")


def smoke(library: str) -> None:
    """Build a graph of a few nodes for this GPU, run it, and print what came of it."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    from vcut_engines import choose_target
    from vcut_engines.compile import Job, Recipe, compile_graph
    from vcut_runtime.cuda import Cuda
    from vcut_runtime.tensorrt_library import load_library

    target = choose_target(library, "this")
    assert not isinstance(target, str), target
    cuda, loaded = Cuda(), load_library(target.library)
    with contextlib.ExitStack() as stack:
        import tempfile

        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        spec = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 64]) for name in ("x", "y")]
        nodes = [helper.make_node("MatMul", ["x", "x"], ["z"]), helper.make_node("Add", ["z", "x"], ["y"])]
        graph = helper.make_graph(nodes, "smoke", spec[:1], spec[1:])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]), folder / "smoke.onnx")
        recipe = Recipe(target.library, target.version, target.compute_capability, {}, tf32=False)
        names = {key: str(folder / f"smoke.{key}") for key in ("onnx", "engine", "log")}
        compile_graph(Job(recipe, "smoke", names["onnx"], names["engine"], names["log"], None), lambda *_: None)
        errors: list[str] = []
        runtime = loaded.module.Runtime(loaded.logger(lambda severity, text: errors.append(f"{severity} {text}")))
        engine = runtime.deserialize_cuda_engine((folder / "smoke.engine").read_bytes())
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
    """Return what the machine is, as far as it tells without anything installed."""
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
    """Visit, or say what a visit would do."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wheels", type=Path, required=True, help="folder of wheels, whole or in parts")
    parser.add_argument("--json", type=Path, required=True, dest="output", help="where the result goes")
    parser.add_argument("--work", type=Path, default=Path("gpu-visit"), help="folder for bundles and packages")
    parser.add_argument("--minutes", type=float, default=25, help="time for everything")
    parser.add_argument("--small", action="store_true", help="svd-tiny only")
    parser.add_argument("--dry-run", action="store_true", help="check the wheels and print the plan; run nothing")
    given = parser.parse_args(arguments)
    if not given.wheels.is_dir():
        print(f"error: no folder of wheels at {given.wheels}: make one with pip download", file=sys.stderr)
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
    """Tell whether a wheel's distribution is installed already, torch for instance; this project's own never counts."""
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
    """Return the JSON that output ends with, over one line or many."""
    start = max(text.rfind("\n{"), text.rfind("\n[")) + 1
    return json.loads(text[start:] if start else text)


if __name__ == "__main__":
    sys.exit(main())
