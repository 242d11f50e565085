"""``vcut build`` as a user calls it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from building import GRAPHS, PORTABLE
from commands import run_here
from vcut_runtime import cli, open_bundle

# The builder's part is played by one that is done at once: what a user sees is the same.
QUICK = """
import sys
from pathlib import Path
import vcut_engines
from vcut_engines.compile import CompiledEngine
from vcut_runtime.cli import main
def compiled(job, *, verbose, progress):
    progress(job.graph, "start", 0, 0)
    progress(job.graph, "Building [engine]", 1, 3)
    if verbose:
        print("[INFO] the log", file=sys.stderr)
    Path(job.output).write_bytes(b"engine")
    progress(job.graph, "done", 1, 1)
    return CompiledEngine(2_000_000_000, 1, 1, ("values [overflow]",) if job.graph == "decode" else ())
sys.modules["vcut_engines.build"].compile_in_process = compiled
main()
"""


def vcut(*arguments: object, code: str = "from vcut_runtime.cli import main; main()") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def quick(*arguments: object) -> subprocess.CompletedProcess[str]:
    done = vcut("build", *arguments, "--engines", "tensorrt-rtx", code=QUICK)
    assert done.returncode == 0, done.stderr
    return done


def error(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line of a failed command."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.rstrip("\n")


def test_a_build_by_the_real_library_as_json(bundle_copy: Path, tmp_path: Path) -> None:
    """Decode alone: the other three are there already, as far as the manifest can tell."""
    quick(bundle_copy, "--quiet")
    done = vcut("build", bundle_copy, "--engines", "tensorrt-rtx", "--decode-chunk", 2, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert (facts["target"], facts["built"], facts["reason"]) == (PORTABLE, ["decode"], "")
    assert facts["bundle"] == str(bundle_copy)
    assert tuple(facts["engines"]) == GRAPHS
    entry = open_bundle(bundle_copy).manifest.engines[PORTABLE].engines["decode"]
    decode = facts["engines"]["decode"]
    assert decode["file"] == entry.file
    assert decode["bytes"] == entry.bytes > 10_000
    assert decode["activation_bytes"] == entry.activation_bytes > 0
    assert set(facts["seconds"]) == {"check", "decode"}
    assert facts["peak_memory_bytes"] > 0
    assert list((tmp_path / "cache/log").iterdir()) == []


def test_json_is_all_there_is_on_standard_output(bundle_copy: Path) -> None:
    done = quick(bundle_copy, "--json")
    assert json.loads(done.stdout)["warnings"] == {"decode": ["values [overflow]"]}
    assert done.stderr == ""
    assert json.loads(quick(bundle_copy, "--json").stdout)["built"] == []


def test_what_is_shown_goes_to_standard_error(bundle_copy: Path) -> None:
    done = quick(bundle_copy)
    assert done.stdout == ""
    assert f"engines {PORTABLE}: " in done.stderr
    assert "activations 2.00 GB" in done.stderr
    assert f"built {', '.join(GRAPHS)}" in done.stderr
    assert "warning: decode: values [overflow]\n" in done.stderr  # brackets are no markup
    assert all(f"engine {graph}" in done.stderr for graph in GRAPHS)
    done = quick(bundle_copy)
    assert done.stdout == ""
    assert "already up to date, no engine rebuilt" in done.stderr
    assert "built condition" in quick(bundle_copy, "--force").stderr


def test_quiet_is_quiet(bundle_copy: Path) -> None:
    done = quick(bundle_copy, "--quiet")
    assert (done.stdout, done.stderr) == ("", "")


def test_verbose_shows_the_log_and_no_progress(bundle_copy: Path) -> None:
    done = quick(bundle_copy, "--verbose")
    assert done.stderr.count("[INFO] the log\n") == 4
    assert "engine condition" not in done.stderr
    assert done.stdout == ""


def test_nothing_to_build_with_is_said(bundle_copy: Path) -> None:
    done = vcut("build", bundle_copy, "--engines", "none")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "no engines were asked for\n"
    facts = json.loads(vcut("build", bundle_copy, "--engines", "none", "--json").stdout)
    assert (facts["target"], facts["built"]) == (None, [])
    assert facts["reason"] == "no engines were asked for"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--gpu", "a11"], r"unknown GPU 'a11', did you mean"),
        (["--engines", "tensorrt-rtx", "--gpu", "h100"], r"cannot build for compute capability 9\.0 \(h100\)"),
        (["--engines", "openvino"], r"unknown engines 'openvino': choose auto, tensorrt-rtx, tensorrt, none"),
        (["--engines", "none", "--gpu", "a10"], r"--engines none builds nothing"),
        (["--engines", "tensorrt-rtx", "--decode-chunk", 0], r"outside 1\.\.3"),
        (["--engines", "tensorrt-rtx", "--decode-chunk", 4], r"outside 1\.\.3"),
        (["--decode-chunk", "many"], r"Invalid value"),
        (["--engine", "auto"], r"No such option"),
    ],
)
def test_misuse_is_one_line_and_exit_2(bundle_copy: Path, options: list[object], says: str) -> None:
    assert re.search(says, error(run_here(cli.main, "build", bundle_copy, *options), 2))
    assert not (bundle_copy / "engines").exists()


def test_a_library_that_is_not_installed_is_misuse(bundle_copy: Path) -> None:
    code = (
        "import vcut_runtime.backends.tensorrt_library as library\nfrom vcut_runtime.cli import main\n"
        "library.MODULES['tensorrt'] = 'no_such_tensorrt'\nmain()"
    )
    said = error(vcut("build", bundle_copy, "--engines", "tensorrt", code=code), 2)
    assert "TensorRT is not installed: pip install 'vcut[tensorrt]'" in said


def test_a_missing_argument_is_misuse() -> None:
    assert "Missing argument" in error(vcut("build"), 2)


def test_a_missing_or_damaged_bundle_is_a_failure(bundle_copy: Path, tmp_path: Path) -> None:
    assert "no bundle at" in error(vcut("build", tmp_path / "none", "--engines", "tensorrt-rtx"), 1)
    (bundle_copy / "onnx/decode.weights").unlink()
    assert "is missing" in error(vcut("build", bundle_copy, "--engines", "tensorrt-rtx"), 1)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_bundle_that_cannot_be_written_is_a_failure(bundle_copy: Path) -> None:
    bundle_copy.chmod(0o555)
    try:
        assert "cannot write into" in error(vcut("build", bundle_copy, "--engines", "tensorrt-rtx", "-q"), 1)
    finally:
        bundle_copy.chmod(0o755)


def test_a_bundle_whose_engines_folder_is_a_file_is_a_failure(bundle_copy: Path) -> None:
    (bundle_copy / "engines").write_text("mine")
    done = vcut("build", bundle_copy, "--engines", "tensorrt-rtx", "-q", code=QUICK)
    assert "writing the bundle failed" in error(done, 1)
    assert (bundle_copy / "engines").read_text() == "mine"


def test_help() -> None:
    helped = vcut("build", "--help").stdout
    assert all(option in helped for option in ("--engines", "--gpu", "--decode-chunk", "--force", "--json"))
    assert "build" in vcut("--help").stdout
