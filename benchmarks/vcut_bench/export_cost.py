"""What compiling costs: time, peak memory and disk of ``vcut-export``, each a cold process of its own.

python -m vcut_bench.export_cost [--json results/...]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from vcut_bench.numbers import Numbers
from vcut_bench.provenance import provenance, save

RUNS = (
    "vcut-export --model svd-xt --random-weights --engines tensorrt-rtx --gpu a10",
    "vcut-export --model svd-xt --random-weights --engines tensorrt-rtx --gpu a10",  # again: recognised
    "vcut-export --model svd-tiny --engines none",
    "vcut-export --model svd-tiny --engines none",
)


def measure(command: str, folder: Path) -> dict[str, Any]:
    """Run ``command`` in ``folder`` and return its wall time, the peak memory of its largest process, and its sizes."""
    script = "from vcut_export.cli import main; main()"
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", script, *command.split()[1:], "--json"], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    facts = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{command} failed")
    unet = folder / facts["bundle"] / "onnx" / "unet.weights"
    return {
        "command": command,
        "rebuilt": facts["rebuilt"],
        "engines_built": facts["engines"]["built"] if facts["engines"] else [],
        "seconds": time.perf_counter() - start,
        "peak_memory_bytes": usage.ru_maxrss * 1024,
        "bundle_bytes": facts["bundle_bytes"],
        "unet_weight_bytes": unet.stat().st_size,
        "stages": facts["seconds"],
        "engines": facts["engines"],
    }


def numbers(result: Mapping[str, Any]) -> list[Numbers]:
    """Return each export, and the engines that the first ones built."""
    rows, engines = [], {}
    for run in result["runs"]:
        built = (run["engines"] or {}).get("engines", {})
        engines |= built
        engine_bytes = sum(engine["bytes"] for engine in built.values())
        rows.append(
            [
                label(run),
                f"{run['seconds']:.1f} s",
                f"{run['peak_memory_bytes'] / 1e9:.1f} GB",
                f"{(run['bundle_bytes'] - engine_bytes) / 1e9:.3f} GB",
                f"{engine_bytes / 1e9:.3f} GB" if built else "",
            ]
        )
    sizes = [
        [name, f"{engine['build_seconds']:.0f} s"]
        + [f"{engine[key] / 1e9:.2f} GB" for key in ("bytes", "activation_bytes", "weight_bytes")]
        for name, engine in engines.items()
    ]
    note = "Whole processes, the first of each kind cold. Memory is that of the largest process."
    return [
        Numbers("Exports", ["vcut-export", "time", "peak memory", "graphs", "engines"], rows, note),
        Numbers("Engines", ["", "built in", "size", "activations", "weights"], sizes),
    ]


def label(run: Mapping[str, Any]) -> str:
    """Return the options of a run, and whether it found everything built."""
    again = "" if run["rebuilt"] or run["engines_built"] else ", again"
    return run["command"].removeprefix("vcut-export ") + again


def main(output: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None) -> None:
    """Measure what compiling costs."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [measure(command, Path(folder)) for command in RUNS]
    result = {"benchmark": "export", **provenance("vcut_bench.export_cost"), "runs": runs}
    print(json.dumps(result, indent=2))
    if output is not None:
        save(result, output)


if __name__ == "__main__":
    typer.run(main)
