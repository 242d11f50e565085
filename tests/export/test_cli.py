"""``vcut export`` and ``vcut-export`` as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vcut_export.cli import parse_ranges
from vcut_runtime import UsageError

COMMANDS = {
    "vcut-export": ("from vcut_export.cli import main; main()",),
    "vcut export": ("from vcut_runtime.cli import main; main()", "export"),
}


def run(command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    code, *rest = COMMANDS[command]
    return subprocess.run(
        [sys.executable, "-c", code, *rest, *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", list(COMMANDS))
def test_both_commands_export(command: str, small_checkpoint: Path, bundle_copy: Path) -> None:
    options = [
        "--model",
        small_checkpoint,
        "--precision",
        "fp32",
        "--steps",
        4,
        "--cut-step",
        "none",
        "--engines",
        "none",
    ]
    done = run(command, *options, "--output", bundle_copy, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    facts = json.loads(done.stdout)
    assert (facts["rebuilt"], facts["steps"], facts["cut_step"]) == ([], 4, 5)
    assert facts["peak_memory_bytes"] > 0


def test_progress_time_and_memory_are_shown_or_silenced(small_checkpoint: Path, tmp_path: Path) -> None:
    options = ["--model", small_checkpoint, "--precision", "fp32", "--verify", "--engines", "none"]
    done = run("vcut-export", *options, "-o", tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    for words in ("trace step graphs", "write unet.weights", "verify", "largest error", "peak memory", "GB"):
        assert words in done.stderr
    done = run("vcut-export", *options, "-o", tmp_path / "bundle", "--quiet")
    assert (done.returncode, done.stdout) == (0, "")
    said = done.stderr.splitlines()  # what --verify found, and none of the libraries' own bars
    assert len(said) == 4
    assert all("largest error" in line for line in said)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "Missing option '--model'"),
        (["--model", "svd-tin"], "did you mean svd-tiny"),
        (["--model", "svd-tiny", "--height", "65"], "use 64"),
        (["--model", "svd-tiny", "--cut-step", "27"], "outside 1..26"),
        (["--model", "svd-tiny", "--cut-step", "late"], "is no number"),
        (["--model", "svd-tiny", "--precision", "fp8"], "choose fp16"),
        (["--model", "svd-tiny", "--engines", "none", "--gpu", "a10"], "--engines none"),
        (["--model", "svd-tiny", "--engines", "tensorrt-rtx", "--gpu", "h100"], "compute capability 9.0"),
        (["--model", "svd-tiny", "--precision", "bf16", "--verify"], "needs a GPU"),
        (["--model", "svd-tiny", "--dynamic", "frames"], "write it as frames=8:25"),
        (["--model", "svd-tiny", "--dynamic", "width=64:128"], "leaves out --width 96"),
    ],
)
def test_misuse_is_one_line_and_exit_2(options: list[str], says: str, tmp_path: Path) -> None:
    done = run("vcut-export", *options, *(["-o", tmp_path / "bundle"] if options else []))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_ranges_are_parsed() -> None:
    assert parse_ranges("frames=8:25") == {"frames": (8, 25)}
    assert parse_ranges("height=64:128, width=64:192,frames=2:2") == {
        "height": (64, 128),
        "width": (64, 192),
        "frames": (2, 2),
    }


NO_RANGES = ["", "frames", "frames=", "frames=8", "frames=8-25", "frames=8:", "frames=-1:2", "frames=1:2,", "8:25"]
NO_RANGES += ["frames=1:2,frames=1:3", "frames=1:2 height=8:16", "frames=1.0:2", "frames=1:2:3"]


@pytest.mark.parametrize("text", NO_RANGES)
def test_what_is_no_list_of_ranges_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write it as frames=8:25") as caught:
        parse_ranges(text)
    assert "\n" not in str(caught.value)
