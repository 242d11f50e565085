"""``vcut export`` and ``vcut-export`` as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import vcut_export.cli as cli
from building import GRAPHS, PORTABLE, build_at_once
from commands import run_here
from exporting import changed, state
from vcut_engines import BuildResult
from vcut_runtime import UsageError, VcutError, open_bundle

FP32 = ("--precision", "fp32", "--operators", "cpu")
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
    options = ["--model", small_checkpoint, *FP32, "--steps", 4, "--cut-step", "none", "--engines", "none"]
    done = run(command, *options, "--output", bundle_copy, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    facts = json.loads(done.stdout)
    assert (facts["rebuilt"], facts["steps"], facts["cut_step"]) == ([], 4, 5)
    assert facts["bundle"] == str(bundle_copy)
    assert facts["peak_memory_bytes"] > 0
    assert facts["engines"] is None


def test_progress_can_be_silenced(small_checkpoint: Path, bundle_copy: Path) -> None:
    """``test_a_hub_id_loads_from_the_hub_cache`` sees it shown."""
    options = ["--model", small_checkpoint, *FP32, "--verify", "--engines", "none"]
    done = run("vcut-export", *options, "-o", bundle_copy, "--quiet")
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.splitlines()  # the errors that --verify measured, and none of the libraries' own bars
    assert len(lines) == 4
    assert all("largest error" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "Missing option '--model'"),
        (["--model", "svd-tin"], "did you mean svd-tiny"),
        (["--model", "svd-tiny", "--height", "65"], "use 64"),
        (["--model", "svd-tiny", "--cut-step", "27"], "outside 1..26"),
        (["--model", "svd-tiny", "--cut-step", "late"], "is not a number"),
        (["--model", "svd-tiny", "--precision", "fp8"], "choose fp16"),
        (["--model", "svd-tiny", "--engines", "none", "--gpu", "a10"], "--engines none"),
        (["--model", "svd-tiny", "--engines", "tensorrt-rtx", "--gpu", "h100"], "compute capability 9.0"),
        (["--model", "svd-tiny", "--engines", "openvino"], "unknown engines 'openvino': choose auto"),
        (["--model", "svd-tiny", "--precision", "bf16", "--verify"], "needs a GPU"),
        (["--model", "svd-tiny", "--precision", "fp16", "--operators", "cpu"], "needs --precision fp32"),
        (["--model", "svd-tiny", "--dynamic", "frames"], "write it as frames=8:25"),
        (["--model", "svd-tiny", "--dynamic", "width=128:192"], "leaves out --width 96"),
    ],
)
def test_misuse_is_one_line_and_exit_2(options: list[str], says: str, tmp_path: Path) -> None:
    done = run_here(cli.main, *options, *(["-o", tmp_path / "bundle"] if options else []))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Engines take no time to build. Returns the graphs whose engines were built so far."""
    return build_at_once(monkeypatch)


def here(checkpoint: Path, bundle: Path, *options: object) -> None:
    """Run the command in this process, with the options of ``small_bundle``."""
    app = typer.Typer()
    app.command()(cli.export_command)
    steps = [] if "--steps" in options else ["--steps", 4, "--cut-step", 3]
    arguments = ["--model", checkpoint, "--output", bundle, *FP32, *steps, *options]
    typer.main.get_command(app).main([str(argument) for argument in arguments], "vcut-export", standalone_mode=False)


def test_engines_are_built_once_the_graphs_are_in_place(
    small_checkpoint: Path, bundle_copy: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    here(small_checkpoint, bundle_copy, "--engines", "tensorrt-rtx", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert facts["rebuilt"] == []
    assert (facts["engines"]["target"], facts["engines"]["built"]) == (PORTABLE, list(GRAPHS))
    assert {*GRAPHS} <= set(facts["engines"]["seconds"])
    manifest = open_bundle(bundle_copy).manifest
    assert set(manifest.engines[PORTABLE].engines) == set(GRAPHS)
    assert facts["bundle_bytes"] == sum(entry.bytes for entry in manifest.files())
    before = state(bundle_copy)
    here(small_checkpoint, bundle_copy, "--engines", "tensorrt-rtx", "--json")
    again = json.loads(capsys.readouterr().out)
    assert (again["engines"]["built"], quick) == ([], list(GRAPHS))
    assert again["bundle_bytes"] == facts["bundle_bytes"]
    assert state(bundle_copy) == before


@pytest.mark.parametrize("engines", ["none", "tensorrt-rtx"])
def test_other_steps_keep_every_engine(
    engines: str, small_checkpoint: Path, bundle_copy: Path, quick: list[str]
) -> None:
    for gpu in ("portable", "a10"):
        here(small_checkpoint, bundle_copy, "--engines", "tensorrt-rtx", "--gpu", gpu, "--quiet")
    built, before = open_bundle(bundle_copy).manifest.engines, state(bundle_copy)
    quick.clear()
    here(small_checkpoint, bundle_copy, "--steps", 6, "--engines", engines, "--quiet")
    manifest = open_bundle(bundle_copy).manifest
    assert manifest.steps == 6
    assert manifest.engines == built
    assert set(built) == {PORTABLE, "tensorrt-rtx-sm86"}
    assert changed(before, state(bundle_copy)) == {"manifest.json"}
    assert quick == []


def test_options_reach_the_engines_build(
    small_checkpoint: Path, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[Any, Any, dict[str, Any]]] = []

    def build(bundle: Path, options: Any, **more: Any) -> BuildResult:
        more["progress"]("decode", "start", 0, 0)
        calls.append((bundle, options, more))
        return BuildResult(bundle, None, "nothing to build with")

    monkeypatch.setattr(cli, "build", build)
    here(small_checkpoint, bundle_copy, "--engines", "none", "--quiet")
    assert calls == []
    here(small_checkpoint, bundle_copy, "--engines", "auto", "--gpu", "a10", "--verbose", "--json")
    ((bundle, options, more),) = calls
    assert (bundle, options.engines, options.gpu, options.verbose) == (bundle_copy, "auto", "a10", True)
    assert more.keys() == {"force", "progress"}
    assert more["force"] is False
    assert json.loads(capsys.readouterr().out)["engines"]["reason"] == "nothing to build with"


@pytest.mark.parametrize("kind", [VcutError, UsageError])
def test_engines_that_cannot_be_built_leave_the_bundle_whole(
    kind: type[VcutError], small_checkpoint: Path, bundle_copy: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise kind("no engine today")

    monkeypatch.setattr(sys.modules["vcut_engines.build"], "compile_in_process", failing)
    names = set(state(bundle_copy))
    with pytest.raises(kind) as caught:
        here(small_checkpoint, bundle_copy, "--steps", 6, "--engines", "tensorrt-rtx", "--quiet")
    assert type(caught.value) is kind
    assert str(caught.value) == f"no engine today ({bundle_copy} is whole, without these engines)"
    assert set(state(bundle_copy)) == names
    manifest = open_bundle(bundle_copy).manifest
    assert (manifest.steps, manifest.engines) == (6, {})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--engines", "tensorrt-rtx", "--gpu", "h100"), r"cannot build for compute capability 9\.0"),
        (("--engines", "tensorrt-rtx", "--gpu", "a11"), "unknown GPU 'a11'"),
        (("--engines", "auto", "--gpu", "a11"), "unknown GPU 'a11'"),
        (("--engines", "tensorrt-rtx", "--gpu", "t4", "--precision", "bf16", "--operators", "gpu"), "has no bf16"),
        (("--engines", "none", "--gpu", "a10"), "builds nothing"),
        (("--engines", "openvino"), "unknown engines"),
    ],
)
def test_impossible_engines_are_refused_before_any_work(
    options: tuple[str, ...], says: str, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worked(*_: Any, **__: Any) -> None:
        raise AssertionError("work was done")

    monkeypatch.setattr(cli, "export_plan", worked)
    with pytest.raises(UsageError, match=says) as caught:
        here(small_checkpoint, tmp_path / "bundle", *options)
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_engines_of_a_library_that_is_not_installed_are_refused_before_any_work(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vcut_runtime.backends.tensorrt_library as library

    monkeypatch.setitem(library.MODULES, "tensorrt", "no_such_tensorrt")
    with pytest.raises(UsageError, match="TensorRT is not installed: pip install"):
        here(small_checkpoint, tmp_path / "bundle", "--engines", "tensorrt")
    assert list(tmp_path.iterdir()) == []
