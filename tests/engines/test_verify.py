"""``vcut verify``: graphs beside a reference, a damaged weight by name, and the command that repeats a comparison."""

from __future__ import annotations

import json
import os
import shutil
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
from fakes import add_fake_engines
from vcut_engines.verify import _check_same, verify
from vcut_engines.verify_command import verify_command
from vcut_runtime import UsageError, VcutError, open_bundle
from vcut_runtime.backends.onnxruntime_library import load_onnxruntime
from vcut_runtime.bundle import Bundle, sha256
from vcut_runtime.comparison import TOLERANCE, allowed_levels, relative_error


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


def test_a_damaged_weight_at_full_depth_is_named(tiny_bundle: Any, tmp_path: Path, folder: Path) -> None:
    good = tiny_bundle("fold")
    damaged = Path(shutil.copytree(good, tmp_path / "damaged"))
    name = damage(damaged, "quality_improvement", "up_blocks.2.resnets.1.spatial_res_block.conv2.weight")
    (check,) = verify(damaged, against=good, graphs="quality_improvement", layers=True).checks
    assert check.layer is not None
    assert check.layer.changed == (name,)
    assert check.layer.confirmed


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


def play_tensorrt(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    """Let ``load`` make a session of an engine's content in the place of TensorRT."""
    from polygraphy import config
    from polygraphy.backend.onnxrt import OnnxrtRunner

    trt = SimpleNamespace(
        TrtRunner=lambda engine, name: OnnxrtRunner(lambda: load(engine()), name=name),
        EngineFromBytes=lambda read: read,
    )
    monkeypatch.setitem(sys.modules, "polygraphy.backend.trt", trt)
    monkeypatch.setattr(config, "USE_TENSORRT_RTX", False)
    monkeypatch.setattr(verify_runners, "target_verdict", lambda *_: "yes")


def test_engines_of_other_weights_are_found(
    small_bundle: Path, bundle_copy: Path, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(bundle_copy, "decode", "conv_out.weight")
    bundle = Path(shutil.copytree(small_bundle, tmp_path / "with engines"))
    target = add_fake_engines(bundle, onnx=str(bundle_copy / "onnx/decode.onnx"))
    play_tensorrt(monkeypatch, lambda content: load_onnxruntime().InferenceSession(json.loads(content)["onnx"]))
    done = command(bundle, "--graphs", "decode", "--layers")
    assert str(done.exception).startswith(f"decode on {target} differs: frames is off by ")
    assert "decode on onnxruntime-cpu: at most" in done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("POLYGRAPHY_USE_TENSORRT_RTX=1 polygraphy run ")
    assert " --model-type engine --trt --load-inputs " in line


def test_an_engine_that_does_not_load_names_the_command_that_says_why(
    bundle_copy: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = add_fake_engines(bundle_copy)

    def refuse(content: bytes) -> Any:
        raise RuntimeError("Could not deserialize engine. See log for details.")

    play_tensorrt(monkeypatch, refuse)
    message = f"{target} does not run decode: Could not deserialize engine; its log: POLYGRAPHY_USE_TENSORRT_RTX=1 poly"
    with pytest.raises(VcutError, match=message):
        verify(bundle_copy, backend="tensorrt-rtx", graphs="decode")
    assert not list(folder.glob("vcut-verify-*"))


def test_errors_are_relative_and_one_level_is_free() -> None:
    assert relative_error(np.array([1.0, 2.5]), np.array([1.0, 2.0])) == 0.25
    assert relative_error(np.array([3, 255], np.uint8), np.array([4, 255], np.uint8)) == 0
    assert relative_error(np.array([0, 255], np.uint8), np.array([4, 255], np.uint8)) == pytest.approx(3 / 255)
    assert np.isnan(relative_error(np.array([np.nan, 1]), np.array([1.0, 1.0])))


@pytest.mark.parametrize(("precision", "levels"), [("fp32", 1), ("fp16", 6), ("bf16", 26)])
def test_frames_have_the_tolerance_of_their_precision(precision: str, levels: int) -> None:
    tolerance, black = TOLERANCE[precision], np.zeros(1, np.uint8)
    assert allowed_levels(tolerance) == levels
    assert relative_error(black + np.uint8(levels), black) <= tolerance
    assert relative_error(black + np.uint8(levels + 1), black) > tolerance


def test_the_base_install_needs_no_polygraphy() -> None:
    code = (
        "import sys, vcut_engines.verify_command; assert not {'polygraphy', 'onnx', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
