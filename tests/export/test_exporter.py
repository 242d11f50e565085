"""Whole exports of a shallow model: what is written, kept, rebuilt, refused, and left behind when one fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from conftest import DYNAMIC, make_checkpoint
from vcut_export import export
from vcut_runtime import Pipeline, UsageError, VcutError, open_bundle
from vcut_runtime.bundle.manifest import SHALLOW

GRAPHS = ("condition", "semantic_binding", "quality_improvement", "decode")
PORTABLE = "tensorrt-rtx-portable"


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and modification time of every file, hidden ones too."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): (f.stat().st_ino, f.stat().st_mtime_ns) for f in files}


@pytest.fixture
def own_bundle(bundle_copy: Path) -> Path:
    return bundle_copy


def again(checkpoint: Path, bundle: Path, **options: Any) -> Any:
    return export(str(checkpoint), bundle, **{"precision": "fp32", "steps": 4, "cut_step": 3, **options})


def test_the_bundle_holds_the_design_files_and_nothing_else(small_bundle: Path) -> None:
    names = {str(path.relative_to(small_bundle)) for path in small_bundle.rglob("*") if path.is_file()}
    weights = {"unet.weights", "condition.weights", "decode.weights"}
    assert names == {"manifest.json"} | {f"onnx/{name}.onnx" for name in GRAPHS} | {f"onnx/{name}" for name in weights}


@pytest.mark.parametrize("graph", [*GRAPHS, *SHALLOW.values()])
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


@pytest.mark.parametrize("graph", [*GRAPHS, *SHALLOW.values()])
def test_the_manifest_gives_the_graphs_own_inputs_and_outputs(graph: str, deep_bundle: Path) -> None:
    entry = open_bundle(deep_bundle).manifest.graphs[graph]
    model = onnx.load(deep_bundle / entry.file, load_external_data=False)
    for specs, tensors in ((entry.inputs, model.graph.input), (entry.outputs, model.graph.output)):
        found = [
            (
                tensor.name,
                onnx.helper.tensor_dtype_to_np_dtype(tensor.type.tensor_type.elem_type).name,
                tuple(dim.dim_param or dim.dim_value for dim in tensor.type.tensor_type.shape.dim),
            )
            for tensor in tensors
        ]
        assert found == [(spec.name, spec.dtype, spec.shape) for spec in specs]


def test_the_unet_weights_lie_on_disk_once(deep_bundle: Path, small_checkpoint: Path) -> None:
    folded = (deep_bundle / "onnx/unet.weights").stat().st_size
    original = (small_checkpoint / "unet/diffusion_pytorch_model.safetensors").stat().st_size
    assert folded < original
    tensors: dict[str, set[str]] = {}
    for graph in (*SHALLOW, *SHALLOW.values()):
        model = onnx.load(deep_bundle / "onnx" / f"{graph}.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            if tensor.external_data:
                entry = {e.key: e.value for e in tensor.external_data}
                tensors.setdefault(tensor.name, set()).add(f"{entry['offset']}+{entry['length']}")
    assert all(len(places) == 1 for places in tensors.values())
    contained = sum(int(next(iter(places)).split("+")[1]) for places in tensors.values())
    assert folded <= 1.05 * contained


def test_an_identical_export_changes_nothing_and_needs_no_torch(small_checkpoint: Path, own_bundle: Path) -> None:
    before = state(own_bundle)
    script = (
        "import sys\nfrom vcut_export import export\n"
        "done = export(sys.argv[1], sys.argv[2], precision='fp32', steps=4, cut_step=3)\n"
        "assert done.rebuilt == (), done.rebuilt\n"
        "assert not {'torch', 'diffusers', 'transformers', 'onnx'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", script, str(small_checkpoint), str(own_bundle)]
    subprocess.run(command, check=True)
    assert state(own_bundle) == before


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Engines take no time to build: they are texts. Returns the graphs whose engines were built so far."""
    done: list[str] = []
    module: Any = sys.modules["vcut_engines.build"]

    def compiled(bundle: Any, name: str, recipe: Any, target: Any, output: Path, *rest: Any) -> Any:
        done.append(name)
        output.write_text(f"{name} for {target.name}")
        return module.Compiled(activation_bytes=1, weight_bytes=1, layers=1), []

    monkeypatch.setattr(module, "_compile", compiled)
    return done


def test_other_steps_rewrite_the_manifest_alone(small_checkpoint: Path, own_bundle: Path) -> None:
    before = state(own_bundle)
    assert again(small_checkpoint, own_bundle, steps=6, cut_step="none").rebuilt == ()
    after = state(own_bundle)
    assert {name for name in before if before[name] != after[name]} == {"manifest.json"}
    manifest = open_bundle(own_bundle).manifest
    assert (manifest.steps, manifest.cut_step) == (6, 7)


def test_other_frames_rebuild_the_unet_graphs_alone(
    small_checkpoint: Path, own_bundle: Path, photo: Any, quick: list[str]
) -> None:
    again(small_checkpoint, own_bundle, engines="tensorrt-rtx")
    engines = open_bundle(own_bundle).manifest.engines[PORTABLE].engines
    before = state(own_bundle)
    result = again(small_checkpoint, own_bundle, frames=2)
    assert result.rebuilt == ("semantic_binding", "quality_improvement")
    after = state(own_bundle)
    kept = {name for name in before if before[name] == after.get(name)}
    graphs = {"onnx/condition.onnx", "onnx/condition.weights", "onnx/decode.onnx", "onnx/decode.weights"}
    assert kept == graphs | {engines[name].file for name in ("condition", "decode")}
    assert not any((own_bundle / engines[name].file).exists() for name in result.rebuilt)
    left = open_bundle(own_bundle).manifest.engines[PORTABLE].engines
    assert left == {name: engines[name] for name in ("condition", "decode")}
    assert Pipeline.load(own_bundle, "onnxruntime-cpu")(photo, seed=0).frames.shape[0] == 2
    quick.clear()
    completed = again(small_checkpoint, own_bundle, frames=2, engines="tensorrt-rtx")
    assert set(quick) >= set(result.rebuilt)
    assert "condition" not in quick
    assert set(completed.manifest.engines[PORTABLE].engines) == set(GRAPHS)


def test_shallow_steps_come_and_go_with_the_unet_graphs_alone(small_checkpoint: Path, own_bundle: Path) -> None:
    before = state(own_bundle)
    result = again(small_checkpoint, own_bundle, deep_cache=True)
    assert set(result.rebuilt) == {*SHALLOW, *SHALLOW.values()}
    assert result.manifest.deep_features == 32
    assert again(small_checkpoint, own_bundle, deep_cache=True).rebuilt == ()
    assert set(again(small_checkpoint, own_bundle).rebuilt) == set(SHALLOW)
    assert state(own_bundle).keys() == before.keys()


def test_force_rebuilds_everything(small_checkpoint: Path, own_bundle: Path) -> None:
    assert set(again(small_checkpoint, own_bundle, force=True).rebuilt) == set(GRAPHS)


def test_a_damaged_bundle_is_replaced_only_by_force(small_checkpoint: Path, own_bundle: Path) -> None:
    (own_bundle / "onnx/decode.onnx").unlink()
    with pytest.raises(UsageError, match="--force"):
        again(small_checkpoint, own_bundle)
    again(small_checkpoint, own_bundle, force=True)
    open_bundle(own_bundle)


def test_another_model_is_replaced_only_by_force(small_bundle: Path, own_bundle: Path) -> None:
    before = state(own_bundle)
    with pytest.raises(UsageError, match=r"holds a bundle of small.*--force"):
        export("svd-tiny", own_bundle)
    assert state(own_bundle) == before


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_no_bundle_is_never_touched(what: str, small_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    if what == "file":
        output.write_text("mine")
    else:
        output.mkdir()
        (output / "thesis.txt").write_text("mine")
    before = state(tmp_path)
    with pytest.raises(UsageError, match="choose another --output"):
        again(small_checkpoint, output, force=True)
    assert state(tmp_path) == before


@pytest.mark.parametrize("force", [False, True])
def test_another_programs_manifest_makes_no_bundle(force: bool, small_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "extension"
    output.mkdir()
    (output / "manifest.json").write_text('{"manifest_version": 3}')
    with pytest.raises(UsageError, match="choose another --output"):
        again(small_checkpoint, output, force=force)
    assert (output / "manifest.json").read_text() == '{"manifest_version": 3}'


def test_a_users_file_in_a_bundle_is_not_lost(small_checkpoint: Path, own_bundle: Path) -> None:
    (own_bundle / "out.mp4").write_text("mine")
    with pytest.raises(UsageError, match=r"holds out\.mp4"):
        again(small_checkpoint, own_bundle, steps=9, force=True)
    assert (own_bundle / "out.mp4").read_text() == "mine"


def test_random_weights_replace_real_ones_only_by_force(small_checkpoint: Path, own_bundle: Path) -> None:
    same_name = own_bundle.parent / "small"
    shutil.copytree(small_checkpoint, same_name)
    with pytest.raises(UsageError, match="--force"):
        again(same_name, own_bundle, random_weights=True)


def test_the_current_folder_is_refused_and_a_link_is_followed(
    small_checkpoint: Path, own_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = own_bundle.parent / "link"
    link.symlink_to(own_bundle)
    assert again(small_checkpoint, link, steps=9).rebuilt == ()
    assert link.is_symlink()
    assert open_bundle(own_bundle).manifest.steps == 9
    monkeypatch.chdir(own_bundle)
    with pytest.raises(UsageError, match="name a folder inside it"):
        again(small_checkpoint, Path())


def test_what_is_carried_over_is_hashed(small_checkpoint: Path, own_bundle: Path) -> None:
    weights = own_bundle / "onnx/decode.weights"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(VcutError, match=r"does not match its sha256.*--force"):
        again(small_checkpoint, own_bundle, frames=2)


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
    import vcut_export.build as build

    output = tmp_path / "bundle"
    if there:
        shutil.copytree(small_bundle, output)
    before = state(tmp_path)

    def stop(models: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(build, "trace_all", lambda modules: dict.fromkeys(modules))
    monkeypatch.setattr(build, "write_weights", stop)
    with pytest.raises((error, VcutError)):
        again(small_checkpoint, output, tca="fold")
    assert state(tmp_path) == before
    assert output.exists() == there


def test_an_interrupt_between_the_two_renames_keeps_the_old_bundle(
    small_checkpoint: Path, own_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(own_bundle.parent)
    rename = Path.rename

    def interrupted(self: Path, target: Any) -> Any:
        if ".partial-" in self.name:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        again(small_checkpoint, own_bundle, steps=9)
    assert state(own_bundle.parent) == before


def test_a_disk_too_small_is_refused_before_any_work(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vcut_export.compiler as module

    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    with pytest.raises(UsageError, match=r"needs 0\.0.*free space"):
        again(small_checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused(small_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="choose another --output"):
        again(small_checkpoint, tmp_path / "file" / "bundle")


def test_engines_are_built_once_the_graphs_are_in_place(
    small_checkpoint: Path, own_bundle: Path, quick: list[str]
) -> None:
    result = again(small_checkpoint, own_bundle, engines="tensorrt-rtx")
    assert result.rebuilt == ()
    assert result.engines is not None
    assert (result.engines.target, result.engines.built) == (PORTABLE, GRAPHS)
    assert result.manifest == open_bundle(own_bundle).manifest
    assert set(result.manifest.engines[PORTABLE].engines) == set(GRAPHS)
    assert {f"engine {name}" for name in GRAPHS} <= set(result.seconds)
    before = state(own_bundle)
    result = again(small_checkpoint, own_bundle, engines="tensorrt-rtx")
    assert result.engines is not None
    assert (result.engines.built, quick) == ((), list(GRAPHS))
    assert state(own_bundle) == before


@pytest.mark.parametrize("engines", ["none", "tensorrt-rtx"])
def test_other_steps_keep_every_engine(
    engines: Any, small_checkpoint: Path, own_bundle: Path, quick: list[str]
) -> None:
    for gpu in (None, "a10"):
        again(small_checkpoint, own_bundle, engines="tensorrt-rtx", gpu=gpu)
    built, before = open_bundle(own_bundle).manifest.engines, state(own_bundle)
    quick.clear()
    result = again(small_checkpoint, own_bundle, steps=6, engines=engines)
    assert result.manifest.steps == 6
    assert result.manifest.engines == open_bundle(own_bundle).manifest.engines == built
    assert set(built) == {PORTABLE, "tensorrt-rtx-sm86"}
    after = state(own_bundle)
    assert {name for name in before if before[name] != after.get(name)} == {"manifest.json"}
    assert set(after) == set(before)
    assert quick == []


def test_what_is_asked_for_reaches_the_engines_build(
    small_checkpoint: Path, own_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vcut_export.compiler as module

    asked: list[tuple[Any, dict[str, Any]]] = []

    def build(bundle: Any, **options: Any) -> Any:
        asked.append((bundle, options))
        return module.BuildResult(bundle, None, "nothing to build with")

    monkeypatch.setattr(module, "build", build)
    again(small_checkpoint, own_bundle)
    assert asked == []

    def progress(graph: str, phase: str, done: int, total: int) -> None:
        pass

    result = again(small_checkpoint, own_bundle, engines="auto", gpu="a10", verbose=True, progress=progress)
    options = {"engines": "auto", "gpu": "a10", "force": False, "verbose": True, "progress": progress}
    assert asked == [(own_bundle, options)]
    assert result.engines is not None
    assert result.engines.reason == "nothing to build with"
    assert module.summary(result)["engines"]["reason"] == "nothing to build with"


@pytest.mark.parametrize("kind", [VcutError, UsageError])
def test_engines_that_cannot_be_built_leave_the_bundle_whole(
    kind: type[VcutError], small_checkpoint: Path, own_bundle: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = sys.modules["vcut_engines.build"]

    def failing(*_: Any) -> None:
        raise kind("no engine today")

    monkeypatch.setattr(module, "_compile", failing)
    names = set(state(own_bundle))
    with pytest.raises(kind) as caught:
        again(small_checkpoint, own_bundle, steps=6, engines="tensorrt-rtx")
    assert type(caught.value) is kind
    assert str(caught.value) == f"no engine today ({own_bundle} is whole, without these engines)"
    assert set(state(own_bundle)) == names
    manifest = open_bundle(own_bundle).manifest
    assert (manifest.steps, manifest.engines) == (6, {})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"engines": "tensorrt-rtx", "gpu": "h100"}, r"cannot build for compute capability 9\.0"),
        ({"engines": "tensorrt-rtx", "gpu": "a11"}, "unknown GPU 'a11'"),
        ({"engines": "auto", "gpu": "a11"}, "unknown GPU 'a11'"),
        ({"engines": "tensorrt-rtx", "gpu": "t4", "precision": "bf16"}, "has no bf16"),
        ({"engines": "none", "gpu": "a10"}, "builds nothing"),
        ({"engines": "openvino"}, "unknown --engines"),
    ],
)
def test_impossible_engines_are_refused_before_any_work(
    options: dict[str, Any], says: str, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vcut_export.compiler as module

    def worked(*_: Any) -> None:
        raise AssertionError("work was done")

    monkeypatch.setattr(module, "check_weights", worked)
    monkeypatch.setattr(module, "_staging", worked)
    with pytest.raises(UsageError, match=says) as caught:
        again(small_checkpoint, tmp_path / "bundle", **options)
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_engines_of_a_library_that_is_not_installed_are_refused_before_any_work(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vcut_runtime.tensorrt_library as library

    monkeypatch.setitem(library.MODULES, "tensorrt", "no_such_tensorrt")
    with pytest.raises(UsageError, match="TensorRT is not installed: pip install"):
        again(small_checkpoint, tmp_path / "bundle", engines="tensorrt")
    assert list(tmp_path.iterdir()) == []


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
    options: dict[str, Any] = {"precision": "fp32", "tca": "fold", "deep_cache": True, "steps": 3}
    result = export(str(checkpoint), tmp_path / "bundle", height=28, width=44, verify=True, **options)
    assert set(result.errors) == set(result.manifest.graph_names)
    assert max(result.errors.values()) <= 1e-4
    frames = Pipeline.load(result.bundle)(photo, seed=0, cache_interval=2).frames
    assert frames.shape == (5, 28, 44, 3)


def test_the_least_sizes_are_verified_too(
    small_checkpoint: Path, dynamic_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vcut_export.verify as verify

    errors, seen = verify._errors, []
    monkeypatch.setattr(verify, "_errors", lambda *inputs: (seen.append(inputs[2]), errors(*inputs))[1])
    bundle = Path(shutil.copytree(dynamic_bundle, tmp_path / "bundle"))
    result = export(str(small_checkpoint), bundle, verify=True, **DYNAMIC)
    assert result.rebuilt == ()
    assert seen == [(4, 40, 28), (2, 24, 24)]
    assert 0 < max(result.errors.values()) <= 1e-4


@pytest.mark.slow
def test_fp16_verifies_and_runs(small_checkpoint: Path, tmp_path: Path, photo: Any) -> None:
    options: dict[str, Any] = {"precision": "fp16", "steps": 3, "cut_step": 3, "deep_cache": True}
    result = export(str(small_checkpoint), tmp_path / "bundle", verify=True, **options)
    assert 1e-6 < max(result.errors.values()) <= 2e-2
    assert [t.dtype for t in result.manifest.graphs["semantic_binding"].outputs] == ["float32", "float16"]
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


def test_a_graph_beyond_its_tolerance_fails_the_export(
    small_checkpoint: Path, own_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vcut_export.verify as verify

    monkeypatch.setattr(verify, "TOLERANCE", {"fp32": 1e-12})
    before = state(own_bundle)
    with pytest.raises(VcutError, match="more than 1e-12 for fp32"):
        again(small_checkpoint, own_bundle, verify=True)
    with pytest.raises(VcutError, match="more than 1e-12 for fp32"):
        again(small_checkpoint, own_bundle, steps=5, verify=True)
    assert state(own_bundle) == before


def test_a_wrong_graph_is_caught(small_checkpoint: Path, own_bundle: Path) -> None:
    """Zero a weight and vouch for it in the manifest: only the comparison with torch can tell."""
    from vcut_runtime.bundle import sha256

    model = onnx.load(own_bundle / "onnx/semantic_binding.onnx", load_external_data=False)
    places = {t.name: {e.key: e.value for e in t.external_data} for t in model.graph.initializer if t.external_data}
    name = next(n for n in places if n.endswith("conv_in.weight"))
    weights = own_bundle / "onnx/unet.weights"
    content = bytearray(weights.read_bytes())
    start, length = int(places[name]["offset"]), int(places[name]["length"])
    content[start : start + length] = bytes(length)
    weights.write_bytes(content)
    manifest = json.loads((own_bundle / "manifest.json").read_text())
    manifest["weights"]["unet.weights"]["sha256"] = sha256(weights)
    (own_bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(VcutError, match="graph semantic_binding is off by"):
        again(small_checkpoint, own_bundle, verify=True)


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
    command = [sys.executable, "-c", code, "--model", "acme/svd-mini", "--precision", "fp32", "--json", "--verify"]
    done = subprocess.run(
        [*command, "--frames", "2", "--engines", "none"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bundle"] == "vcut-svd-mini"
    model = open_bundle(tmp_path / "vcut-svd-mini").manifest.model
    assert (model.id, model.revision, model.random_weights) == ("acme/svd-mini", commit, False)
    command[4] = "acme/unknown"
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 1
    assert "cannot reach the hub for acme/unknown" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
