"""The C++ runtime is measured beside the Python runtime, and the kept result reaches its bars."""

from __future__ import annotations

import json
import sys

import pytest

from vcut_bench.native import numbers, time_process
from vcut_bench.results_page import newest
from vcut_runtime import VcutError


def test_the_kept_result_reaches_its_bars() -> None:
    result = json.loads(newest("native-cpu").read_text())
    assert result["ratios"]["first_step"]["median"] > 1
    assert result["ratios"]["step_loops"]["median"] >= 0.98  # equal within what turns differ
    memory = result["memory"]
    assert memory["videos"] >= 1000
    assert memory["last"] <= memory["after_tenth"] * 1.02


def test_a_process_is_timed() -> None:
    script = "import time; time.sleep(0.1); print('step', flush=True); print('0.5 1000'); print('0.25 2000')"
    timed = time_process([sys.executable, "-c", script])
    assert timed["first_step"] > 0.1
    assert timed["step_loops"] == [0.5, 0.25]
    assert timed["memory"] == [1000, 2000]


def test_a_failure_says_why() -> None:
    with pytest.raises(VcutError, match="no bundle there"):
        time_process([sys.executable, "-c", "raise SystemExit('no bundle there')"])


def test_the_table_has_both_sides() -> None:
    side = {what: {"median": 0.5} for what in ("first_step", "step_loops")}
    result = {
        "sides": {"C++": side, "Python": side},
        "ratios": {what: {"median": 1.5} for what in side},
        "memory": {"videos": 1000, "after_tenth": 2e8, "last": 2e8},
    }
    (table,) = numbers(result)
    assert table.rows[0] == ["start to first step", "0.500 s", "0.500 s", "1.50 x"]
    assert "1000 videos in C++: 200 MB after a tenth of them, 200 MB at the end." in table.note
