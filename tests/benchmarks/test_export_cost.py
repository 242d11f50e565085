"""The cost of an export is that of a whole process, and the kept one reaches its bars."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from vcut_bench.export_cost import run_export
from vcut_bench.results_page import RESULTS
from vcut_runtime.bundle.graph import GRAPHS


def test_the_kept_full_size_export_reaches_its_bars() -> None:
    for path in RESULTS.glob("export-*.json"):
        full, full_again, cold, again = json.loads(path.read_text())["runs"]
        assert "--model svd-xt --random-weights --engines tensorrt-rtx --gpu a10" in full["command"]
        assert full["engines_built"] == [name for name, graph in GRAPHS.items() if graph.only_if is None]
        assert full["seconds"] <= 600
        assert full["peak_bytes"] <= 16e9
        assert sum(s for stage, s in full["stages"].items() if not stage.startswith("engine ")) <= 240
        engines = full["engines"]["engines"]
        assert engines["semantic_binding"]["activation_bytes"] <= 5.7e9
        assert engines["decode"]["activation_bytes"] <= engines["semantic_binding"]["activation_bytes"]
        assert cold["seconds"] <= 90
        for run in (full_again, again):
            assert run["rebuilt"] == run["engines_built"] == []
        assert again["seconds"] <= 2


def test_an_export_that_fails_says_why(tmp_path: Path) -> None:
    assert "did you mean svd-xt" in run_export(["--model=svd-xtt"], tmp_path)["skipped"]


def test_the_script_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vcut_bench.export_cost", "--help"], capture_output=True, text=True, check=True
    )
    assert "--json" in done.stdout
