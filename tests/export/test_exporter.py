"""Whole exports of a shallow model: what they write, verify, and leave behind when they fail."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from conftest import FP32, Once, make_checkpoint
from exporting import again, fp16_bundle, state
from places import close
from vcut_export import export
from vcut_runtime import BundleError, Pipeline, UsageError, VcutError, open_bundle
from vcut_runtime.bundle import transaction
from vcut_runtime.bundle.graph import GRAPHS

FOUR = ("condition", "semantic_binding", "quality_improvement", "decode")


def test_the_bundle_holds_the_design_files_and_nothing_else(small_bundle: Path) -> None:
    names = {str(path.relative_to(small_bundle)) for path in small_bundle.rglob("*") if path.is_file()}
    weights = {"unet.weights", "condition.weights", "decode.weights"}
    contrib = {f"{name}.contrib" for name in FOUR if name != "decode"}  # whose attention is written out
    graphs = {f"onnx/{name}.onnx" for name in (*FOUR, *contrib)}
    assert names == {"manifest.json"} | graphs | {f"onnx/{name}" for name in weights}


@pytest.mark.parametrize("graph", list(GRAPHS))
def test_graphs_are_clean(graph: str, deep_bundle: Path) -> None:
    path = deep_bundle / "onnx" / f"{graph}.onnx"
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    used = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    made = {name for node in model.graph.node for name in node.output}
    assert {tensor.name for tensor in model.graph.input} <= used, "an input is dead"
    assert {tensor.name for tensor in model.graph.initializer} <= used, "a weight is dead"
    assert made <= used, "a node is dead"
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    assert all(node.name for node in model.graph.node)
    assert not [n.op_type for n in model.graph.node if n.op_type in ("Identity", "Constant", "SplitToSequence")]
    assert not model.functions
    assert {opset.domain for opset in model.opset_import} == {""}
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    assert metadata["graph"] == graph
    assert metadata["tca"] == "remove"
    assert (model.producer_name, model.graph.name) == ("vcut", graph)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


@pytest.mark.parametrize("graph", list(GRAPHS))
def test_the_manifest_gives_the_graphs_own_inputs_and_outputs(graph: str, deep_bundle: Path) -> None:
    entry = open_bundle(deep_bundle).manifest.graphs[graph]
    model = onnx.load(deep_bundle / entry.file, load_external_data=False)
    for specs, tensors in ((entry.inputs, model.graph.input), (entry.outputs, model.graph.output)):
        actual = [
            (
                tensor.name,
                onnx.helper.tensor_dtype_to_np_dtype(tensor.type.tensor_type.elem_type).name,
                tuple(dim.dim_param or dim.dim_value for dim in tensor.type.tensor_type.shape.dim),
            )
            for tensor in tensors
        ]
        assert actual == [(spec.name, spec.dtype, spec.shape) for spec in specs]


def test_the_unet_weights_lie_on_disk_once(deep_bundle: Path, small_checkpoint: Path) -> None:
    folded = (deep_bundle / "onnx/unet.weights").stat().st_size
    original = (small_checkpoint / "unet/diffusion_pytorch_model.safetensors").stat().st_size
    assert folded < original
    tensors: dict[str, set[str]] = {}
    for graph in (name for name, record in GRAPHS.items() if record.is_step):
        model = onnx.load(deep_bundle / "onnx" / f"{graph}.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            if tensor.external_data:
                entry = {e.key: e.value for e in tensor.external_data}
                tensors.setdefault(tensor.name, set()).add(f"{entry['offset']}+{entry['length']}")
    assert all(len(places) == 1 for places in tensors.values())
    contained = sum(int(next(iter(places)).split("+")[1]) for places in tensors.values())
    assert folded <= 1.05 * contained


KILLED = """
import sys
from contextlib import contextmanager
from vcut_export import export

@contextmanager
def stage(name):
    print(name, flush=True)
    yield

export(sys.argv[1], sys.argv[2], stage=stage, precision="fp32", operators="cpu", steps=4, cut_step=3, tca="fold")
"""


@pytest.mark.slow
def test_killed_exports_leave_the_bundle_whole_and_nothing_after_the_next(
    small_checkpoint: Path, bundle_copy: Path
) -> None:
    before, home = state(bundle_copy), bundle_copy.parent
    for moment in ("trace step graphs", "write unet.weights"):
        command = [sys.executable, "-c", KILLED, str(small_checkpoint), str(bundle_copy)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert any(line.strip() == moment for line in process.stdout)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        partial = [path for path in home.iterdir() if path != bundle_copy]
        assert len(partial) == 1, "what the last one left is gone, what this one left is there"
        with pytest.raises(BundleError):
            open_bundle(partial[0])
        assert state(bundle_copy) == before
        open_bundle(bundle_copy)
    assert again(small_checkpoint, bundle_copy, steps=9).rebuilt == ()
    assert list(home.iterdir()) == [bundle_copy]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError])
@pytest.mark.parametrize("there", [False, True])
def test_a_stopped_export_leaves_everything_as_it_was(
    error: type[BaseException],
    there: bool,
    small_checkpoint: Path,
    small_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vcut_export.graphs import maker

    output = tmp_path / "bundle"
    if there:
        shutil.copytree(small_bundle, output)
    before = state(tmp_path)

    def stop(models: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(maker, "_second_core", lambda *_: nullcontext())
    monkeypatch.setattr(maker, "trace_structure", lambda *_: None)
    monkeypatch.setattr(maker, "attach_weights", lambda *_: None)
    monkeypatch.setattr(maker, "write_weights", stop)
    with pytest.raises((error, VcutError)):
        again(small_checkpoint, output, tca="fold")
    assert state(tmp_path) == before
    assert output.exists() == there


def test_an_interrupt_between_the_two_renames_keeps_the_old_bundle(
    small_checkpoint: Path, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two renames are needed where the file system cannot exchange folders in one step."""
    before = state(bundle_copy.parent)
    rename = Path.rename

    def interrupted(self: Path, target: Any) -> Any:
        if ".partial-" in self.name and self.suffix != ".old":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(transaction, "_exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        again(small_checkpoint, bundle_copy, steps=9)
    assert state(bundle_copy.parent) == before


def test_a_disk_too_small_is_refused_before_any_work(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vcut_export.exporter as module

    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    with pytest.raises(UsageError, match=r"needs 0\.0.*free space"):
        again(small_checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused(small_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write beside .* choose another place"):
        again(small_checkpoint, tmp_path / "file" / "bundle")


ODD = {
    "unet": {
        "block_out_channels": [32, 64, 96],
        "down_block_types": [
            "DownBlockSpatioTemporal",
            "CrossAttnDownBlockSpatioTemporal",
            "CrossAttnDownBlockSpatioTemporal",
        ],
        "up_block_types": [
            "CrossAttnUpBlockSpatioTemporal",
            "CrossAttnUpBlockSpatioTemporal",
            "UpBlockSpatioTemporal",
        ],
        "layers_per_block": [1, 2, 1],
        "num_attention_heads": [1, 4, 3],
        "transformer_layers_per_block": [1, 2, 1],
        "cross_attention_dim": [48, 48, 48],
        "addition_time_embed_dim": 16,
        "projection_class_embeddings_input_dim": 48,
        "in_channels": 12,
        "out_channels": 6,
        "num_frames": 5,
        "sample_size": 20,
    },
    "vae": {
        "block_out_channels": [32, 64],
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "layers_per_block": 1,
        "latent_channels": 6,
        "force_upcast": False,
    },
    "image_encoder": {"projection_dim": 48, "num_hidden_layers": 1},
    "scheduler": {"sigma_max": 80.0, "timestep_spacing": "linspace"},
}


@pytest.mark.slow
def test_any_configuration_compiles_and_verifies(tmp_path: Path, photo: Any) -> None:
    """Other levels, layers, heads, channels, latents and frames; 28x44 pixels halve to odd latents."""
    checkpoint = make_checkpoint(tmp_path / "odd", **ODD)
    options: dict[str, Any] = {**FP32, "tca": "fold", "deep_cache": True, "steps": 3}
    result = export(str(checkpoint), tmp_path / "bundle", height=28, width=44, verify=True, **options)
    assert set(result.errors) == set(result.manifest.graphs)
    assert max(result.errors.values()) <= 1e-4
    frames = Pipeline.load(result.bundle)(photo, seed=0, cache_interval=2).frames
    assert frames.shape == (5, 28, 44, 3)


@pytest.mark.slow
def test_fp16_verifies_and_runs(small_checkpoint: Path, once: Once, tmp_path: Path, photo: Any) -> None:
    bundle = shutil.copytree(fp16_bundle(small_checkpoint, once), tmp_path / "bundle")
    options: dict[str, Any] = {"precision": "fp16", "steps": 3, "cut_step": 3, "deep_cache": True}
    result = export(str(small_checkpoint), bundle, verify=True, **options)
    assert result.rebuilt == ()
    assert 1e-6 < max(result.errors.values()) <= 2e-2
    dtypes = [tensor.dtype for tensor in result.manifest.graphs["semantic_binding"].outputs]
    assert dtypes == ["float32", "float32", "float16"]  # the deep features alone are halves
    assert Pipeline.load(result.bundle)(photo, seed=0, cache_interval=2).frames.std() > 0
    unet = (result.bundle / "onnx/unet.weights").stat().st_size
    assert unet < 0.55 * (small_checkpoint / "unet/diffusion_pytorch_model.safetensors").stat().st_size


@pytest.mark.slow
def test_bf16_compiles_and_says_that_it_needs_a_gpu(small_checkpoint: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    with pytest.raises(UsageError, match="bf16 bundle needs a GPU"):
        export(str(small_checkpoint), bundle, precision="bf16", verify=True)
    assert not bundle.exists()
    manifest = export(str(small_checkpoint), bundle, precision="bf16", deep_cache=True).manifest
    assert {tensor.dtype for tensor in manifest.graphs["semantic_binding"].outputs} == {"float32"}  # numpy has no bf16
    with pytest.raises(UsageError, match="bf16 bundle needs a GPU"):
        Pipeline.load(bundle, "onnxruntime-cpu")


@pytest.mark.slow
def test_a_hub_id_loads_from_the_hub_cache(small_checkpoint: Path, tmp_path: Path) -> None:
    """The real loading code, offline: huggingface_hub's cache as a download would have left it."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub/models--acme--svd-mini"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    shutil.copytree(small_checkpoint, repository / "snapshots" / commit)
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    code = "from vcut_export.cli import main; main()"
    command = [sys.executable, "-c", code, "--model", "acme/svd-mini", "--precision", "fp32", "--verify"]
    done = subprocess.run(
        [*command, "--frames", "2", "--engines", "none"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    for words in ("trace step graphs", "write unet.weights", "verify", "largest error", "peak memory", "GB"):
        assert words in done.stderr
    model = open_bundle(tmp_path / "vcut-svd-mini").manifest.model
    assert (model.id, model.revision, model.random_weights) == ("acme/svd-mini", commit, False)
    command[4] = "acme/unknown"
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 1
    assert "cannot reach the hub for acme/unknown" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["x" * 300, "closed/folder"])
def test_places_that_cannot_be_looked_at(
    name: str, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close(tmp_path / "closed", monkeypatch)
    why = r"\((File name too long|Permission denied)\): check the path"
    with pytest.raises(UsageError, match=rf"^cannot look at the model .* {why}"):
        export(str(tmp_path / name), tmp_path / "bundle", **FP32)
    with pytest.raises(UsageError, match=rf"^cannot look at the output .* {why}"):
        export(str(small_checkpoint), tmp_path / name, **FP32)
