"""``vcut bench`` parses, refuses in one line, and stays light."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def vcut(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vcut_runtime", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_lists_every_command() -> None:
    done = vcut("bench", "--help")
    assert done.returncode == 0
    for command in ("macs", "latency", "memory", "fidelity", "report"):
        assert f" {command} " in done.stdout


def test_help_imports_nothing_heavy() -> None:
    script = """
import sys
from vcut_runtime.cli import main
sys.argv = ["vcut", "bench", "--help"]
try:
    main()
except SystemExit:
    pass
heavy = {"torch", "diffusers", "transformers", "onnx", "onnxruntime", "skimage", "matplotlib"} & set(sys.modules)
print(sorted(heavy), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["macs", "--tca", "colour"], "choose remove, fold"),
        (["macs", "--model", "svd-xtt"], "did you mean svd-xt"),
        (["macs", "--cut-steps", "soon"], "is not a number"),
        (["memory", "/nowhere"], "no bundle"),
        (["report", "/nowhere.json", "-o", "report.html"], "no result"),
    ],
)
def test_misuse_is_one_line(words: list[str], reason: str) -> None:
    done = vcut("bench", *words)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert reason in done.stderr


def test_json_is_alone_on_standard_output_and_kept_in_a_file(tmp_path: Path) -> None:
    output = tmp_path / "new" / "macs.json"
    done = vcut("bench", "macs", "--model", "svd-tiny", "--cut-steps", "17", "--json", "-o", str(output))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result == json.loads(output.read_text())
    assert result["command"] == f"vcut bench macs --model svd-tiny --cut-steps 17 --json -o {output}"
    assert result["cut_steps"] == ["17"]
