"""``vcut verify``: graphs beside a reference, a damaged weight by name, and the command that repeats a comparison."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import typer
from typer.testing import CliRunner

import vcut_engines.verify_runners as verify_runners
from vcut_engines.verify import _check_same, verify
from vcut_engines.verify_command import verify_command
from vcut_engines.verify_layers import Node, bisect
from vcut_runtime import UsageError, VcutError, open_bundle
from vcut_runtime.bundle import Bundle, sha256
from vcut_runtime.bundle.manifest import EngineSet
from vcut_runtime.comparison import relative_error


def command(*arguments: object) -> Any:
    app = typer.Typer()
    app.command()(verify_command)
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders of a test are made."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def damage(bundle: Path, graph: str, ending: str) -> str:
    """Zero a weight, vouch for it in the manifest, and return its name."""
    entry = open_bundle(bundle, hashes=False).manifest.graphs[graph]
    model = onnx.load(bundle / entry.file, load_external_data=False)
    places = {t.name: {e.key: e.value for e in t.external_data} for t in model.graph.initializer if t.external_data}
    name = next(name for name in places if name.endswith(ending))
    weights = bundle / "onnx" / entry.weights
    content = bytearray(weights.read_bytes())
    start, length = int(places[name]["offset"]), int(places[name]["length"])
    content[start : start + length] = bytes(length)
    weights.write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["weights"][entry.weights]["sha256"] = sha256(weights)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return name


def test_a_bundle_of_full_depth_agrees_with_its_reference(tiny_bundle: Any, folder: Path) -> None:
    before = set(folder.iterdir())
    result = verify(tiny_bundle("fold"))
    assert [check.graph for check in result.checks] == list(open_bundle(tiny_bundle("fold")).manifest.graphs)
    assert {check.side for check in result.checks} == {"onnxruntime-cpu"}
    assert all(check.first is None for check in result.checks)
    errors = [output.error for check in result.checks for output in check.outputs if not output.levels]
    assert 0 < max(errors) < 1e-4  # two ways of computing, so not a comparison with itself
    assert "tensorrt" in result.not_run
    assert result.work is None
    assert set(folder.iterdir()) == before


def test_numpy_agrees_too(small_bundle: Path) -> None:
    result = verify(small_bundle, reference="numpy")
    assert len(result.checks) == 4
    assert all(check.first is None for check in result.checks)


def test_a_damaged_weight_is_found_and_named(small_bundle: Path, bundle_copy: Path, folder: Path) -> None:
    name = damage(bundle_copy, "quality_improvement", "conv_in.weight")
    done = command(bundle_copy, "--against", small_bundle, "--layers", "--graphs", "quality_improvement", "--json")
    (check,) = json.loads(done.stdout)["checks"]
    assert isinstance(done.exception, VcutError)
    assert done.exception.exit_code == 1
    message = str(done.exception)
    assert message.startswith("quality_improvement on onnxruntime-cpu differs: next_latents is off by ")
    assert "more than 0.0001" in message
    assert f"whose weight {name} is not the reference's" in message
    assert check["layer"]["changed"] == [name]
    assert check["layer"]["operator"] == "Conv"
    assert (folder / Path(json.loads(done.stdout)["work"]).name / "quality_improvement.inputs.json").is_file()


def test_a_damaged_weight_deep_in_the_graph_is_named(small_bundle: Path, bundle_copy: Path, folder: Path) -> None:
    name = damage(bundle_copy, "decode", "conv_out.weight")
    (check,) = verify(bundle_copy, against=small_bundle, graphs="decode", layers=True).checks
    assert check.layer is not None
    assert check.layer.changed == (name,)
    assert check.outputs[0].levels
    assert check.outputs[0].error > 1


def test_the_printed_command_repeats_the_comparison(small_bundle: Path, bundle_copy: Path, tmp_path: Path) -> None:
    damage(bundle_copy, "condition", "conv_in.weight")
    work = tmp_path / "work folder"
    done = command(bundle_copy, "--against", small_bundle, "--graphs", "condition", "--work", work, "--quiet")
    line = done.stdout.strip().splitlines()[-1]
    assert " polygraphy run " in line
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def run(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(text, shell=True, capture_output=True, text=True, env=environment, check=False)

    damaged = run(line)
    assert damaged.returncode == 1, damaged.stdout + damaged.stderr
    assert "FAILED" in damaged.stdout
    good = run(line.replace(str(bundle_copy.resolve()), str(small_bundle.resolve())))
    assert good.returncode == 0, good.stdout + good.stderr


def test_misuse_is_named(small_bundle: Path) -> None:
    with pytest.raises(UsageError, match="no graph nothing: choose from condition"):
        verify(small_bundle, graphs="condition,nothing")
    with pytest.raises(UsageError, match="unknown backend 'cpu': choose auto, tensorrt"):
        verify(small_bundle, backend="cpu")
    with pytest.raises(UsageError, match="the bundle has no tensorrt engines"):
        verify(small_bundle, backend="tensorrt")
    with pytest.raises(UsageError, match="unknown reference 'torch'"):
        verify(small_bundle, reference="torch")


def test_a_reference_of_other_tensors_is_refused(small_bundle: Path) -> None:
    bundle = open_bundle(small_bundle, hashes=False)
    graphs = dict(bundle.manifest.graphs)
    graphs["decode"] = msgspec.structs.replace(graphs["decode"], inputs=())
    del graphs["condition"]
    other = Bundle(small_bundle, msgspec.structs.replace(bundle.manifest, graphs=graphs))
    with pytest.raises(UsageError, match="has other inputs or outputs of decode: give --against"):
        _check_same(bundle, other, ["decode"])
    with pytest.raises(UsageError, match="has no condition: give --against"):
        _check_same(bundle, other, ["condition"])
    _check_same(bundle, other, ["semantic_binding"])


def test_without_polygraphy_the_fix_is_named(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(verify_runners, "importlib", SimpleNamespace(import_module=missing))
    with pytest.raises(UsageError, match=r"Polygraphy is not installed: pip install 'vcut\[verify\]'"):
        verify(small_bundle)


def test_a_reference_without_room_is_refused(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_runners, "total_memory", lambda: 1000)
    with pytest.raises(VcutError, match=r"reference of semantic_binding needs .* --graphs condition,decode"):
        verify(small_bundle)


def diamond(changed: str) -> Any:
    """A trunk with a side branch in each block; all that is downstream of ``changed`` differs."""
    nodes = [Node("early", "Op", ("x", "w"), ("early",))]  # used only in the last block
    for i in range(40):
        nodes += [Node(f"side{i}", "Op", (f"trunk{i}",), (f"side{i}",))]
        nodes += [Node(f"trunk{i + 1}", "Add", (f"trunk{i}", f"side{i}"), (f"trunk{i + 1}",))]
    nodes += [Node("last", "Add", ("trunk40", "early"), ("last",))]
    differ = {changed}
    for node in nodes:
        differ |= set(node.outputs) if differ & set(node.inputs) else set()
    return nodes, differ


@pytest.mark.parametrize("changed", ["early", "side0", "side17", "trunk25", "trunk40", "last"])
def test_bisection_finds_the_first_tensor_with_few_runs(changed: str) -> None:
    nodes, differ = diamond(changed)
    names = {tensor for node in nodes for tensor in node.outputs}
    asked: list[list[str]] = []

    def differing(marks: list[str]) -> set[str]:
        asked.append(marks)
        return differ & set(marks)

    tensor, behind = bisect(nodes, "last", names, differing, batch=4)
    assert tensor == changed
    assert [node.label for node in behind] == [changed]
    assert max(map(len, asked)) <= 4
    assert len(asked) < 12


def test_operators_that_the_reference_lacks_are_named_together() -> None:
    nodes, differ = diamond("side5")
    names = {tensor for node in nodes for tensor in node.outputs} - {"side5"}
    tensor, behind = bisect(nodes, "last", names, lambda marks: differ & set(marks))
    assert tensor == "trunk6"
    assert [node.label for node in behind] == ["side5", "trunk6"]


def test_engines_run_with_polygraphys_runner_of_tensorrt(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is played by a recorder: which engine is loaded, and for which of the two TensorRTs."""
    opened = open_bundle(small_bundle)
    entry: Any = SimpleNamespace(file="engines/decode.engine")
    sets = {
        "rtx-any": EngineSet("tensorrt-rtx", "1", None, None, {"decode": entry}),
        "trt-8.6": EngineSet("tensorrt", "1", "8.6", None, {"decode": entry}),
        "trt-9.0": EngineSet("tensorrt", "1", "9.0", None, {"decode": entry}),
    }
    bundle = Bundle(opened.root, msgspec.structs.replace(opened.manifest, engines=sets))
    verdicts = {"rtx-any": "yes", "trt-8.6": "yes", "trt-9.0": "no: another GPU"}
    monkeypatch.setattr(verify_runners, "target_verdict", lambda _, target: verdicts[target])
    monkeypatch.delenv("POLYGRAPHY_USE_TENSORRT_RTX", raising=False)
    polygraphy: Any = SimpleNamespace(config=SimpleNamespace(USE_TENSORRT_RTX=None), onnxrt=None)
    sides, refusals = verify_runners.find_sides(bundle, "auto", polygraphy)
    assert [side.name for side in sides] == ["trt-8.6", "onnxruntime-cpu"]
    assert refusals["trt-9.0"] == "another GPU"
    assert refusals["rtx-any"] == "Polygraphy runs one TensorRT at a time: give --backend tensorrt-rtx"

    (side,), _ = verify_runners.find_sides(bundle, "tensorrt-rtx", polygraphy)
    assert not side.markable
    assert side.environment == ("POLYGRAPHY_USE_TENSORRT_RTX=1",)
    assert side.arguments == ("--model-type", "engine", "--trt")
    modules = {
        "polygraphy.backend.trt": SimpleNamespace(
            TrtRunner=lambda engine, name: (engine, name), EngineFromBytes=lambda content: content
        ),
        "polygraphy.backend.common": SimpleNamespace(BytesFromPath=lambda path: path),
    }
    monkeypatch.setattr(verify_runners, "importlib", SimpleNamespace(import_module=modules.__getitem__))
    monkeypatch.setenv("POLYGRAPHY_USE_TENSORRT_RTX", "0")
    assert side.runner("decode", None) == (str(small_bundle / "engines/decode.engine"), "rtx-any")
    assert polygraphy.config.USE_TENSORRT_RTX is True


def test_errors_are_relative_and_one_level_is_free() -> None:
    assert relative_error(np.array([1.0, 2.5]), np.array([1.0, 2.0])) == 0.25
    assert relative_error(np.array([3, 255], np.uint8), np.array([4, 255], np.uint8)) == 0
    assert relative_error(np.array([0, 255], np.uint8), np.array([4, 255], np.uint8)) == pytest.approx(3 / 255)
    assert np.isnan(relative_error(np.array([np.nan, 1]), np.array([1.0, 1.0])))


def test_the_base_install_needs_no_polygraphy() -> None:
    code = (
        "import sys, vcut_engines.verify_command; assert not {'polygraphy', 'onnx', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
