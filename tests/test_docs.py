"""What the documentation says, checked against the code and the measured results."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
import yaml

from vcut_bench import cli as bench
from vcut_bench.tune import tune_command
from vcut_engines.cli import build_command
from vcut_engines.gpus import COMPUTE_CAPABILITIES
from vcut_engines.verify_command import verify_command
from vcut_export.cli import export_command
from vcut_runtime import cli, schedule
from vcut_runtime.backends.engine_validity import RTX_CAPABILITIES
from vcut_runtime.bundle import geometry, manifest
from vcut_serving.batch_command import batch_command
from vcut_serving.serve_command import serve_command
from vcut_serving.settings import KEY
from vcut_serving.triton.signature import INPUTS
from vcut_serving.triton_command import triton_command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
FORMAT = (ROOT / "runtime/README.md").read_text("utf-8")
BENCHMARKS = ("macs", "latency", "memory", "fidelity", "report")


def options(command: str) -> set[str]:
    """Every option that a command takes."""
    single = {"export": export_command, "build": build_command, "tune": tune_command, "verify": verify_command}
    single |= {"batch": batch_command, "serve": serve_command, "triton": triton_command}
    commands = {}
    for name, function in single.items():
        app = typer.Typer(add_completion=False)
        app.command()(function)
        commands[name] = typer.main.get_command(app)
    group: Any = typer.main.get_command(cli.app)
    benchmarks: Any = typer.main.get_command(bench.app)
    commands |= {**{f"bench {name}": command for name, command in benchmarks.commands.items()}, **group.commands}
    parameters = commands[command].params
    return {option for p in parameters for option in (*p.opts, *p.secondary_opts)} | {"--help"}


@pytest.mark.parametrize(
    "document",
    [
        *("README.md", "runtime/embedding.md", "serving/README.md"),
        *("benchmarks/RESULTS.md", "export/vcut_export/svd_tiny/README.md"),
    ],
)
def test_commands_in_the_docs_exist_with_their_options(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    lines = [line for block in re.findall(r"```\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    lines += re.findall(r"`((?:vcut|vcut-export) [^`]*)`", text)
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("vcut")]
    assert len(commands) >= 3 or document != "README.md"
    for words in commands:
        name = "export" if words[0] == "vcut-export" else words[1]
        if name == "bench" and len(words) == 2:
            continue
        name = f"bench {words[2]}" if name == "bench" else name
        assert {word.split("=")[0] for word in words if word.startswith("-")} <= options(name), words


def test_options_named_in_the_readme_exist() -> None:
    known = options("export") | options("build") | options("run") | options("inspect")
    known |= {option for name in BENCHMARKS for option in options(f"bench {name}")}
    named = set(re.findall(r"`(--[a-z-]+)", README))
    assert len(named) > 15
    assert named <= known, named - known


def test_every_benchmark_is_in_the_readme() -> None:
    commands: Any = typer.main.get_command(bench.app)
    assert set(commands.commands) == set(BENCHMARKS)
    sentence = README.split("`vcut bench` measures")[1].split("\n\n")[0]
    for name in BENCHMARKS:
        assert f"`{name}`" in sentence


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 180
    results = README.split("<!-- results: latency -->")[1].split("<!-- end -->")[0]
    assert 3 <= len([line for line in results.splitlines() if line.startswith("|")]) - 2 <= 10


def test_the_table_of_gpus_says_what_the_code_says() -> None:
    table = README.split("| GPU | compute capability |")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    with_rtx: set[str] = set()
    for gpus, written, rtx, *_ in rows[:-1]:  # the last row has the drivers
        named = {gpu: capabilities_of(gpu) for gpu in gpus.split(": ")[-1].split(", ")}
        assert all(named.values()), named
        assert set.union(*named.values()) == set(written.split(", ")), named
        assert rtx.split(",")[0] in ("yes", "no"), gpus
        with_rtx |= set(written.split(", ")) if rtx.startswith("yes") else set()
    assert with_rtx == set(RTX_CAPABILITIES)


def capabilities_of(gpu: str) -> set[str]:
    """The compute capabilities of a GPU, or of a family such as ``RTX 30`` or ``RTX PRO``."""
    name = re.sub(r"\W", "", gpu.lower())
    form = re.compile(rf"{name}([5-9]0\w*|\d000)?")
    return {value for value, names in COMPUTE_CAPABILITIES.items() if any(form.fullmatch(known) for known in names)}


def test_files_in_the_map_exist() -> None:
    paths = re.findall(r"`((?:export|engines|runtime|serving|benchmarks|tests)/[^` ]*)`", README)
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_make_targets_in_the_docs_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = README + (ROOT / "CONTRIBUTING.md").read_text() + (ROOT / "benchmarks/RESULTS.md").read_text()
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE))
    assert {"demo", "test", "tables"} <= named <= targets


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
    documents = [*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), ROOT / "export/vcut_export/svd_tiny/README.md"]
    for document in documents:
        for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_page_of_serving_names_what_there_is() -> None:
    page = (ROOT / "serving/README.md").read_text("utf-8")
    named = set(re.findall(r"`(--[a-z-]+)", page))
    assert len(named) > 10
    assert named <= options("batch") | options("serve") | options("triton"), named
    assert f"`{KEY}`" in page
    assert {"image", "image_pixels", "format", "progress"} <= {tensor.name for tensor in INPUTS} & set(
        re.findall(r"`([a-z_]+)`", page)
    )
    paths = re.findall(r"`(serving/[^` ]*)`", page)
    assert len(paths) >= 5
    assert [path for path in paths if not (ROOT / path).exists()] == []
    settings = yaml.safe_load((ROOT / "serving/kubernetes/rayservice.yaml").read_text())["spec"]["serveConfigV2"]
    (application,) = yaml.safe_load(settings)["applications"]
    module, name = application["import_path"].split(":")
    assert getattr(import_module(module), name)(application["args"])
    for path in ("docker/compose.yaml", "kubernetes/triton.yaml"):
        assert list(yaml.safe_load_all((ROOT / "serving" / path).read_text()))


def test_the_format_page_names_every_field() -> None:
    records: list[Any] = [
        *(manifest.Manifest, manifest.Model, manifest.Guidance, manifest.BiasSlice, geometry.SizeRange),
        *(schedule.Scheduler, schedule.Step),
        *(manifest.GraphEntry, manifest.FileEntry, manifest.TensorSpec),
        *(manifest.EngineSet, manifest.EngineEntry, manifest.Profile),
    ]
    for record in records:
        for field in msgspec.structs.fields(record):
            assert f"`{field.encode_name}`" in FORMAT, f"{record.__name__}.{field.encode_name}"
    assert f"| `schema_version` | int | {manifest.SCHEMA_VERSION} |" in FORMAT


def test_the_format_page_has_the_graphs_own_tables() -> None:
    fill = runpy.run_path(str(ROOT / "runtime/format_tables.py"))["fill"]
    assert fill(FORMAT) == FORMAT, "run 'make tables'"


def test_the_changelog_names_the_renamed_options() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    for option in ("--small-gpu", "--operators", "--schedule"):
        assert option in text
