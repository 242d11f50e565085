"""SVD-XT at full size on a CPU: is it right, how long does a step take, and what fits into memory?

    python -m vcut_bench.full_size WORK [--json results/...] [--guided]

The bundles in the folder WORK are exported if they are not there: fp32, random weights, operators for the CPU. Of a few
frames, every graph is compared with diffusers' unmodified modules (``vcut-export --verify``). Then a conditional step
and diffusers' UNet take turns, each a process of its own. Last comes a step of a whole video, and with ``--guided`` a
guided one too, which takes twice as long.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from vcut_bench import peak
from vcut_bench.numbers import Numbers
from vcut_bench.provenance import provenance
from vcut_bench.results import deliver
from vcut_bench.turns import ratios
from vcut_runtime import open_bundle
from vcut_runtime.backends import open_backend
from vcut_runtime.comparison import inputs_of, sample_inputs
from vcut_runtime.errors import VcutError

MODEL, FEW, TURNS = "svd-xt", 4, 2


def measure_ours(bundle: Path, graph: str) -> dict[str, float]:
    """Return the seconds of one step, and those of the estimate that ``vcut run`` gives beforehand."""
    opened = open_bundle(bundle, hashes=False)
    backend, manifest = open_backend(opened, "onnxruntime-cpu"), opened.manifest
    backend.check_run(manifest.sizes, [graph])
    estimate = backend.step_seconds(graph, manifest.sizes)
    backend.load(graph)
    inputs = inputs_of(graph, sample_inputs(manifest, manifest.sizes), manifest)
    uploaded = {name: backend.upload(value) for name, value in inputs.items()}
    start = time.perf_counter()
    backend.run(graph, uploaded)
    return {"seconds": time.perf_counter() - start, "estimate": estimate}


def measure_theirs(frames: int, height: int, width: int) -> dict[str, float]:
    """Return the seconds of diffusers' unmodified UNet on one row; the latents are ``height`` x ``width``."""
    import torch

    from vcut_export import resolve
    from vcut_export.checkpoint.weights import load_unet

    checkpoint = resolve(MODEL, random_weights=True)
    unet = load_unet(checkpoint, "fp32", torch.float32)
    sample, ids = torch.randn(1, frames, 8, height, width), torch.tensor([[6.0, 127.0, 0.02]])
    hidden = torch.randn(1, 1, checkpoint.configs["unet"]["cross_attention_dim"])
    with torch.inference_mode():
        start = time.perf_counter()
        unet(sample, torch.tensor(0.25 * math.log(2.5)), hidden, added_time_ids=ids, return_dict=False)
        return {"seconds": time.perf_counter() - start}


def numbers(result: Mapping[str, Any]) -> list[Numbers]:
    """Return the errors of the graphs, and each step's time and memory."""
    errors = [[name, f"{error:.1e}"] for name, error in result["errors"].items()]
    rows = []
    for step in result["measured"]:
        if "skipped" in step:
            rows.append([step["what"], str(step["frames"]), step["skipped"], "", ""])
            continue
        estimate = f"{step['estimate']:.0f} s" if "estimate" in step else ""
        measured = (f"{step['step_seconds']:.0f} s", estimate, f"{step['peak_bytes'] / 1e9:.1f} GB")
        rows.append([step["what"], str(step["frames"]), *measured])
    speed = result["speedup"]
    note = f"diffusers takes {speed['median']:.2f} times as long as the conditional step of {result['few']} frames."
    return [
        Numbers(
            "Largest error against diffusers' modules",
            ["graph", "of the largest magnitude"],
            errors,
            f"{result['few']} frames. Of `decode`, an error of one 8-bit level is not counted.",
        ),
        Numbers("Steps", ["", "frames", "step", "estimate beforehand", "peak memory"], rows, note),
    ]


def _export(work: Path, frames: int, *, verify: bool) -> dict[str, Any]:
    script = "from vcut_export.cli import main; main()"
    words = ["--model", MODEL, "--random-weights", "--precision", "fp32", "--operators", "cpu", "--engines", "none"]
    output = work / f"{MODEL}-{frames}"
    more = ["--frames", str(frames), "--output", str(output), "--json", *(["--verify"] if verify else [])]
    done = peak.run([sys.executable, "-c", script, *words, *more])
    if "skipped" in done:
        raise VcutError(f"vcut-export failed: {done['skipped']}")
    return json.loads(done["stdout"])


def _step(what: str, frames: int, *words: str) -> dict[str, Any]:
    """Measure one step in a process of its own."""
    done = peak.run([sys.executable, "-m", "vcut_bench.full_size", *words])
    if "skipped" in done:
        return {"what": what, "frames": frames, "skipped": done["skipped"]}
    facts = json.loads(done["stdout"])
    return {
        "what": what,
        "frames": frames,
        "step_seconds": facts.pop("seconds"),
        "peak_bytes": done["peak_bytes"],
        **facts,
    }


def measure(work: Path, *, guided: bool = False) -> dict[str, Any]:
    """Measure everything; with ``guided`` also a guided step of a whole video."""
    many = _export(work, 25, verify=False)["frames"]
    exported = _export(work, FEW, verify=True)
    few, whole = work / f"{MODEL}-{FEW}", work / f"{MODEL}-{many}"
    _, height, width = open_bundle(few, hashes=False).manifest.geometry.latent_shape()
    steps = []
    for _ in range(TURNS):
        steps.append(_step("vcut, conditional", FEW, "ours", str(few), "quality_improvement"))
        steps.append(_step("diffusers, conditional", FEW, "theirs", str(FEW), str(height), str(width)))
    steps.append(_step("vcut, guided", FEW, "ours", str(few), "semantic_binding"))
    steps.append(_step("vcut, conditional", many, "ours", str(whole), "quality_improvement"))
    if guided:
        steps.append(_step("vcut, guided", many, "ours", str(whole), "semantic_binding"))
    ours, theirs = (
        [step["step_seconds"] for step in steps[: 2 * TURNS] if step["what"].startswith(name)]
        for name in ("vcut", "diffusers")
    )
    return {
        "benchmark": "full-size",
        **provenance("vcut_bench.full_size"),
        "model": MODEL,
        "precision": "fp32",
        "shape": {"frames": many, "height": exported["height"], "width": exported["width"]},
        "few": FEW,
        "errors": exported["errors"],
        "measured": steps,
        "speedup": ratios(theirs, ours),
    }


def main(
    words: Annotated[list[str], typer.Argument(metavar="WORK", help="Folder of the bundles.")],
    output: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
    guided: Annotated[bool, typer.Option("--guided", help="Run a guided step of a whole video too.")] = False,
) -> None:
    """Measure SVD-XT at full size on this CPU."""
    if words[0] == "ours":
        print(json.dumps(measure_ours(Path(words[1]), words[2])))
    elif words[0] == "theirs":
        print(json.dumps(measure_theirs(*map(int, words[1:]))))
    else:
        deliver(measure(Path(words[0]), guided=guided), output, json=True)


if __name__ == "__main__":
    typer.run(main)
