"""What an export costs: time, peak memory and disk of ``vcut-export``, each a cold process of its own.

python -m vcut_bench.export_cost [--json results/...]
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vcut_bench import peak
from vcut_bench.numbers import Numbers
from vcut_bench.provenance import provenance
from vcut_bench.results import deliver

# Each runs twice: the second export finds everything built.
RUNS = (
    "--model svd-xt --random-weights --engines tensorrt-rtx --gpu a10",
    "--model svd-xt --random-weights --engines tensorrt-rtx --gpu a10",
    "--model svd-tiny --engines none",
    "--model svd-tiny --engines none",
)


def run_export(words: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run ``vcut-export`` with ``words`` in ``folder``; return its costs, or ``skipped``: why it failed."""
    script = "from vcut_export.cli import main; main()"
    costs = peak.run([sys.executable, "-c", script, *words, "--json"], folder=folder)
    if "skipped" in costs:
        return costs
    facts = json.loads(costs.pop("stdout"))
    return {
        "command": " ".join(["vcut-export", *words]),
        "rebuilt": facts["rebuilt"],
        "engines_built": facts["engines"]["built"] if facts["engines"] else [],
        **costs,
        "bundle_bytes": facts["bundle_bytes"],
        "unet_weight_bytes": (folder / facts["bundle"] / "onnx" / "unet.weights").stat().st_size,
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
        graphs = f"{(run['bundle_bytes'] - engine_bytes) / 1e9:.3f} GB"
        sizes = [f"{run['peak_bytes'] / 1e9:.1f} GB", graphs, f"{engine_bytes / 1e9:.3f} GB" if built else ""]
        rows.append([label(run), f"{run['seconds']:.1f} s", *sizes])
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
    """Measure what an export costs."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [run_export(words.split(), Path(folder)) for words in RUNS]
    for words, run in zip(RUNS, runs, strict=True):
        if "skipped" in run:
            sys.exit(f"error: vcut-export {words}: {run['skipped']}")
    deliver({"benchmark": "export", **provenance("vcut_bench.export_cost"), "runs": runs}, output, json=True)


if __name__ == "__main__":
    typer.run(main)
