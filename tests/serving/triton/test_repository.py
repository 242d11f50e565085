"""Model repositories: what is written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import run_here
from vcut_runtime import BackendOptions, RunOptions, open_bundle
from vcut_runtime.cli import main
from vcut_serving.triton.model import visible_gpu
from vcut_serving.triton.signature import OPTIONS, config_text


def test_a_linked_and_a_copied_bundle(small_bundle: Path, tmp_path: Path) -> None:
    for name, more in (("linked", []), ("copied", ["--copy"])):
        written = run_here(main, "triton", small_bundle, "-o", tmp_path, "--name", name, *more)
        assert written.returncode == 0, written.stderr
        assert f"tritonserver --model-repository={tmp_path}" in written.stderr.replace("\n", "")
        bundle = tmp_path / name / "1" / "bundle"
        assert bundle.is_symlink() == (name == "linked")
        assert open_bundle(bundle).manifest == open_bundle(small_bundle).manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copied", "linked"]


def test_what_is_refused(small_bundle: Path, bundle_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "taken").mkdir(parents=True)
    (bundle_copy / "manifest.json").write_text("{")
    for bundle, words, code, says in (
        (small_bundle, ["--name", "../up"], 2, "the model's name is '../up'"),
        (small_bundle, ["--name", "taken"], 2, "is already there: remove it, or choose another --name"),
        (small_bundle, ["--instances", "0"], 2, "instances"),
        (small_bundle, ["--backend", "quick"], 2, "unknown backend 'quick'"),
        (small_bundle, ["--device", "tpu"], 2, "device"),
        (bundle_copy, [], 1, "manifest"),
        (tmp_path / "nothing", [], 1, "nothing"),
    ):
        written = run_here(main, "triton", bundle, "-o", tmp_path / "models", *words)
        assert (written.returncode, says in written.stderr) == (code, True), written.stderr
        assert written.stderr.count("\n") == 1
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["taken"]


def test_a_configuration_for_gpus() -> None:
    text = config_text("vcut", on_gpu=True, instances=2, parameters={"a": 'b"\\'}, warm_up=False)
    assert "instance_group [ { kind: KIND_GPU count: 2 } ]" in text
    assert 'value: { string_value: "b\\"\\\\" }' in text
    assert "model_warmup" not in text


def test_every_option_is_an_input() -> None:
    kinds = {tensor.name: tensor.kind for tensor in OPTIONS}
    assert set(kinds) == set(RunOptions.__dataclass_fields__)
    assert kinds["seed"] == kinds["num_frames"] == "TYPE_INT64"
    assert kinds["fps"] == kinds["max_guidance_scale"] == "TYPE_FP64"
    assert kinds["sigmas"] == kinds["fit"] == kinds["size"] == kinds["cut_step"] == "TYPE_STRING"


@pytest.mark.parametrize(
    ("seen", "device", "name"), [(None, 3, "3"), ("4,6", 1, "6"), ("GPU-aa, MIG-bb", 1, "MIG-bb"), ("", 0, "0")]
)
def test_an_instance_sees_its_own_gpu(seen: str | None, device: int, name: str) -> None:
    environment = {} if seen is None else {"CUDA_VISIBLE_DEVICES": seen}
    assert visible_gpu(device, environment) == name


def test_backend_options_reach_the_model(small_bundle: Path, tmp_path: Path) -> None:
    words = ["--threads", "3", "--no-cuda-graphs", "--low-memory", "--device", "gpu"]
    assert run_here(main, "triton", small_bundle, "-o", tmp_path, *words).returncode == 0
    text = (tmp_path / "vcut" / "config.pbtxt").read_text()
    assert '\\"threads\\": 3, \\"low_memory\\": true, \\"cuda_graphs\\": false' in text
    assert "KIND_GPU" in text
    assert BackendOptions(threads=3, low_memory=True, cuda_graphs=False)
