"""Seams of decoded chunks."""

from __future__ import annotations

import json
import subprocess
import sys

from vcut_bench.results_page import RESULTS


def test_the_kept_seams_hardly_show_with_the_default_overlap() -> None:
    for path in RESULTS.glob("seams-*.json"):
        for settings in json.loads(path.read_text())["temporal"].values():
            errors = {(s["frames"], s["overlap"]): s["at_seams"] for s in settings}
            assert errors[11, 2] < errors[11, 0] / 5


def test_the_script_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vcut_bench.seams", "--help"], capture_output=True, text=True, check=True
    )
    assert "--json" in done.stdout
