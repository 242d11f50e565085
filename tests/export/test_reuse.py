"""An export keeps what is still valid of the bundle that is there, and refuses to replace anything else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from building import PORTABLE, build, build_at_once
from exporting import again, changed, state
from vcut_export import export
from vcut_runtime import Pipeline, UsageError, VcutError, open_bundle
from vcut_runtime.bundle.graph import GRAPHS
from vcut_runtime.bundle.transaction import adding


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Engines take no time to build. Returns the graphs whose engines were built so far."""
    return build_at_once(monkeypatch)


def test_an_identical_export_changes_nothing_and_needs_no_torch(small_checkpoint: Path, bundle_copy: Path) -> None:
    before = state(bundle_copy)
    script = (
        "import sys\nfrom vcut_export import export\n"
        "done = export(sys.argv[1], sys.argv[2], precision='fp32', operators='cpu', steps=4, cut_step=3)\n"
        "assert done.rebuilt == (), done.rebuilt\n"
        "assert not {'torch', 'diffusers', 'transformers', 'onnx'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", script, str(small_checkpoint), str(bundle_copy)]
    subprocess.run(command, check=True)
    assert state(bundle_copy) == before


def test_other_steps_rewrite_the_manifest_alone(small_checkpoint: Path, bundle_copy: Path) -> None:
    before = state(bundle_copy)
    assert again(small_checkpoint, bundle_copy, steps=6, cut_step="none").rebuilt == ()
    assert changed(before, state(bundle_copy)) == {"manifest.json"}
    manifest = open_bundle(bundle_copy).manifest
    assert (manifest.steps, manifest.cut_step) == (6, 7)


def test_other_frames_rebuild_the_unet_graphs_alone_and_drop_their_engines(
    small_checkpoint: Path, bundle_copy: Path, photo: Any, quick: list[str]
) -> None:
    build(bundle_copy)
    engines = open_bundle(bundle_copy).manifest.engines[PORTABLE].engines
    before = state(bundle_copy)
    result = again(small_checkpoint, bundle_copy, frames=2)
    assert result.rebuilt == ("semantic_binding", "quality_improvement")
    after = state(bundle_copy)
    kept = {name for name in before if before[name] == after.get(name)}
    graphs = {"onnx/condition.onnx", "onnx/condition.weights", "onnx/decode.onnx", "onnx/decode.weights"}
    graphs.add("onnx/condition.contrib.onnx")
    assert kept == graphs | {engines[name].file for name in ("condition", "decode")}
    assert not any((bundle_copy / engines[name].file).exists() for name in result.rebuilt)
    left = open_bundle(bundle_copy).manifest.engines[PORTABLE].engines
    assert left == result.manifest.engines[PORTABLE].engines == {n: engines[n] for n in ("condition", "decode")}
    assert Pipeline.load(bundle_copy, "onnxruntime-cpu")(photo, seed=0).frames.shape[0] == 2
    quick.clear()
    build(bundle_copy)
    assert set(quick) >= set(result.rebuilt)
    assert "condition" not in quick
    assert set(open_bundle(bundle_copy).manifest.engines[PORTABLE].engines) == set(result.manifest.graphs)


def test_shallow_steps_come_and_go_with_the_unet_graphs_alone(small_checkpoint: Path, bundle_copy: Path) -> None:
    before = state(bundle_copy)
    result = again(small_checkpoint, bundle_copy, deep_cache=True)
    assert set(result.rebuilt) == {name for name, graph in GRAPHS.items() if graph.is_step}
    assert result.manifest.deep_features == 32
    assert again(small_checkpoint, bundle_copy, deep_cache=True).rebuilt == ()
    assert set(again(small_checkpoint, bundle_copy).rebuilt) == {"semantic_binding", "quality_improvement"}
    assert state(bundle_copy).keys() == before.keys()


def test_force_rebuilds_everything(small_checkpoint: Path, bundle_copy: Path) -> None:
    result = again(small_checkpoint, bundle_copy, force=True)
    assert set(result.rebuilt) == set(result.manifest.graphs)


def test_a_damaged_bundle_is_replaced_only_by_force(small_checkpoint: Path, bundle_copy: Path) -> None:
    (bundle_copy / "onnx/decode.onnx").unlink()
    with pytest.raises(UsageError, match="--force"):
        again(small_checkpoint, bundle_copy)
    again(small_checkpoint, bundle_copy, force=True)
    open_bundle(bundle_copy)


def test_another_model_is_replaced_only_by_force(small_bundle: Path, bundle_copy: Path) -> None:
    before = state(bundle_copy)
    with pytest.raises(UsageError, match=r"holds a bundle of small.*--force"):
        export("svd-tiny", bundle_copy)
    assert state(bundle_copy) == before


@pytest.mark.parametrize("what", ["file", "folder"])
def test_other_files_are_never_touched(what: str, small_checkpoint: Path, tmp_path: Path) -> None:
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
def test_another_programs_manifest_is_never_touched(force: bool, small_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "extension"
    output.mkdir()
    (output / "manifest.json").write_text('{"manifest_version": 3}')
    with pytest.raises(UsageError, match="choose another --output"):
        again(small_checkpoint, output, force=force)
    assert (output / "manifest.json").read_text() == '{"manifest_version": 3}'


def test_a_users_file_in_a_bundle_is_not_lost(small_checkpoint: Path, bundle_copy: Path) -> None:
    (bundle_copy / "out.mp4").write_text("mine")
    with pytest.raises(UsageError, match=r"holds out\.mp4"):
        again(small_checkpoint, bundle_copy, steps=9, force=True)
    assert (bundle_copy / "out.mp4").read_text() == "mine"


def test_random_weights_replace_real_ones_only_by_force(small_checkpoint: Path, bundle_copy: Path) -> None:
    same_name = bundle_copy.parent / "small"
    shutil.copytree(small_checkpoint, same_name)
    with pytest.raises(UsageError, match="--force"):
        again(same_name, bundle_copy, random_weights=True)


def test_the_current_folder_is_refused_and_a_link_is_followed(
    small_checkpoint: Path, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = bundle_copy.parent / "link"
    link.symlink_to(bundle_copy)
    assert again(small_checkpoint, link, steps=9).rebuilt == ()
    assert link.is_symlink()
    assert open_bundle(bundle_copy).manifest.steps == 9
    monkeypatch.chdir(bundle_copy)
    with pytest.raises(UsageError, match="name a folder inside it"):
        again(small_checkpoint, Path())


def test_what_is_carried_over_is_hashed(small_checkpoint: Path, bundle_copy: Path) -> None:
    weights = bundle_copy / "onnx/decode.weights"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(VcutError, match=r"does not match its sha256.*--force"):
        again(small_checkpoint, bundle_copy, frames=2)


def test_other_steps_keep_every_engine(small_checkpoint: Path, bundle_copy: Path, quick: list[str]) -> None:
    for gpu in (None, "a10"):
        build(bundle_copy, gpu=gpu)
    built, before = open_bundle(bundle_copy).manifest.engines, state(bundle_copy)
    result = again(small_checkpoint, bundle_copy, steps=6)
    assert result.manifest.steps == 6
    assert result.manifest.engines == open_bundle(bundle_copy).manifest.engines == built
    assert set(built) == {PORTABLE, "tensorrt-rtx-sm86"}
    assert changed(before, state(bundle_copy)) == {"manifest.json"}


def test_engines_that_a_build_adds_meanwhile_are_kept(
    small_checkpoint: Path, bundle_copy: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import vcut_export.exporter as module

    def verify(*_: Any) -> dict[str, float]:
        build(bundle_copy)
        return {}

    monkeypatch.setattr(module, "_verify", verify)
    result = again(small_checkpoint, bundle_copy, steps=6, verify=True)
    engines = open_bundle(bundle_copy).manifest.engines
    assert result.manifest.engines == engines
    assert set(engines[PORTABLE].engines) == set(result.manifest.graphs)


def test_an_export_does_not_mind_a_build_that_runs_meanwhile(
    small_checkpoint: Path, bundle_copy: Path, quick: list[str]
) -> None:
    with adding(bundle_copy):
        assert again(small_checkpoint, bundle_copy).rebuilt == ()
        build(bundle_copy)
    assert PORTABLE in open_bundle(bundle_copy).manifest.engines
