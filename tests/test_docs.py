"""What the documentation says, checked against the code."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer

from vcut_bench import cli as bench
from vcut_engines.cli import build_command
from vcut_export.cli import export_command
from vcut_runtime import cli, manifest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BENCHMARKS = ("macs", "latency", "memory", "fidelity", "report")
FORMAT = (ROOT / "runtime/README.md").read_text()


def options(command: str) -> set[str]:
    """Every option that a command takes."""
    app = typer.Typer(add_completion=False)
    app.command()(export_command)
    group: Any = typer.main.get_command(cli.app)
    building = typer.Typer(add_completion=False)
    building.command()(build_command)
    benchmarks: Any = typer.main.get_command(bench.app)
    commands = {
        "export": typer.main.get_command(app),
        "build": typer.main.get_command(building),
        **{f"bench {name}": found for name, found in benchmarks.commands.items()},
        **group.commands,
    }
    parameters = commands[command].params
    return {option for p in parameters for option in (*p.opts, *p.secondary_opts)} | {"--help"}


def test_commands_in_the_readme_exist_with_their_options() -> None:
    lines = [line for block in re.findall(r"```\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("vcut")]
    assert len(commands) >= 3
    for words in commands:
        name = "export" if words[0] == "vcut-export" else words[1]
        name = f"bench {words[2]}" if name == "bench" else name
        assert {word for word in words if word.startswith("-")} <= options(name), words


def test_options_named_in_the_readme_exist() -> None:
    known = options("export") | options("build") | options("run") | options("inspect")
    known |= {option for name in BENCHMARKS for option in options(f"bench {name}")}
    named = set(re.findall(r"`(--[a-z-]+)", README))
    assert named <= known, named - known
    section = README.split("## Compile")[1].split("## Run")[0]
    for command in ("export", "build"):
        missing = {o for o in options(command) if o.startswith("--")} - set(re.findall(r"(--[a-z-]+)", section))
        assert missing <= {"--help", "--seed"}, command
    section = README.split("## Run")[1].split("## Exact")[0]
    missing = {o for o in options("run") if o.startswith("--")} - set(re.findall(r"(--[a-z-]+)", section))
    assert missing <= {
        "--help",
        "--no-low-memory",
        "--cuda-graphs",
        "--steps",
        "--frames",
        "--output",
        "--json",
        "--quiet",
    }


def test_every_benchmark_is_in_the_readme() -> None:
    section = README.split("## Benchmark")[1].split("## Read on")[0]
    commands: Any = typer.main.get_command(bench.app)
    assert set(commands.commands) == set(BENCHMARKS)
    for name in BENCHMARKS:
        assert f"| `{name}` |" in section


def test_make_targets_in_the_docs_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = README + (ROOT / "CONTRIBUTING.md").read_text()
    assert set(re.findall(r"make ([a-z]+)", text.replace("make a ", ""))) <= targets


def test_python_in_the_readme_runs(
    small_bundle: Path, photo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    shutil.copytree(small_bundle, tmp_path / "svd-xt-bundle")
    photo.save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "out.mp4").is_file()
    assert "semantic_binding" in capsys.readouterr().out


def test_links_lead_somewhere() -> None:
    for document in ROOT.glob("*.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text()):
            assert (ROOT / target).exists(), f"{document.name}: {target}"


def test_the_format_page_names_every_field() -> None:
    records = [
        manifest.Manifest,
        manifest.Model,
        manifest.Scheduler,
        manifest.Guidance,
        manifest.BiasSlice,
        manifest.SizeRange,
    ]
    records += [manifest.GraphEntry, manifest.FileEntry, manifest.TensorSpec]
    records += [manifest.EngineSet, manifest.EngineEntry, manifest.Profile]
    for record in records:
        for field in msgspec.structs.fields(record):
            assert f"`{field.encode_name}`" in FORMAT, f"{record.__name__}.{field.encode_name}"
    assert f"| `schema_version` | int | {manifest.SCHEMA_VERSION};" in FORMAT


def test_the_format_page_has_the_graphs_own_names(small_bundle: Path) -> None:
    from vcut_runtime import open_bundle

    for name, graph in open_bundle(small_bundle, hashes=False).manifest.graphs.items():
        row = next(line for line in FORMAT.splitlines() if line.startswith(f"| `{name}` |"))
        if name != "quality_improvement":
            assert all(f"`{tensor.name}`" in row for tensor in (*graph.inputs, *graph.outputs))
