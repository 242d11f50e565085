"""SVD-XT at full size on a CPU: the kept measurement reaches its bars, and its parts work on a small model."""

from __future__ import annotations

import json
from pathlib import Path

from vcut_bench.full_size import measure_ours, numbers
from vcut_bench.results_page import newest
from vcut_runtime.bundle.graph import GRAPHS


def test_the_kept_full_size_steps_reach_their_bars() -> None:
    result = json.loads(newest("full-size-cpu").read_text())
    assert set(result["errors"]) == {name for name, graph in GRAPHS.items() if graph.only_if is None}
    assert max(result["errors"].values()) <= 1e-4
    assert result["speedup"]["median"] >= 1.3
    for step in result["measured"]:
        if "estimate" in step:
            assert 0.5 < step["estimate"] / step["step_seconds"] < 2


def test_the_kept_step_of_a_whole_video_takes_little_memory() -> None:
    steps = json.loads(newest("full-size-cpu").read_text())["measured"]
    (peak,) = [step["peak_bytes"] for step in steps if (step["what"], step["frames"]) == ("vcut, conditional", 25)]
    assert peak <= 18e9


def test_a_step_is_measured(small_bundle: Path) -> None:
    measured = measure_ours(small_bundle, "semantic_binding")
    assert measured["seconds"] > 0
    assert measured["estimate"] == 0


def test_the_tables_show_what_was_skipped() -> None:
    result = {
        "few": 4,
        "errors": {"decode": 0.0},
        "speedup": {"median": 1.5},
        "measured": [
            {"what": "vcut, conditional", "frames": 4, "step_seconds": 60.0, "peak_bytes": 8e9, "estimate": 50.0},
            {"what": "diffusers, conditional", "frames": 4, "step_seconds": 90.0, "peak_bytes": 7e9},
            {"what": "vcut, guided", "frames": 25, "skipped": "it does not fit"},
        ],
    }
    errors, steps = numbers(result)
    assert errors.rows == [["decode", "0.0e+00"]]
    assert steps.rows == [
        ["vcut, conditional", "4", "60 s", "50 s", "8.0 GB"],
        ["diffusers, conditional", "4", "90 s", "", "7.0 GB"],
        ["vcut, guided", "25", "it does not fit", "", ""],
    ]
    assert steps.note
    assert "1.50 times" in steps.note
