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
from pathlib import Path
from typing import Annotated, Any

import typer

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
