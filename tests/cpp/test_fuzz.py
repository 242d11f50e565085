"""libFuzzer changes manifests, graphs and photographs for a minute: the C++ runtime reads or refuses each."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from drills.corpus import write_corpus
from vcut_c import ROOT

FUZZER = ROOT / "runtime/cpp/build/fuzz/vcut_fuzz"


@pytest.mark.slow
def test_a_minute_of_fuzzing(small_bundle: Path, tmp_path: Path) -> None:
    if not FUZZER.is_file():
        pytest.fail(f"there is no fuzzer at {FUZZER}: run 'make cpp-fuzzer'")
    seeds = write_corpus(small_bundle, tmp_path / "corpus")
    (tmp_path / "grown").mkdir()
    limits = ["-max_total_time=60", "-timeout=30", "-rss_limit_mb=4096"]
    command = [FUZZER, *limits, f"-artifact_prefix={tmp_path}/", tmp_path / "grown", tmp_path / "corpus"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs is not None
    assert int(runs[1]) > seeds > 200
