"""Model names and local folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from vcut_export import presets, resolve
from vcut_export.checkpoint import CONFIG_FILES
from vcut_runtime import UsageError


@pytest.fixture
def folder(small_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_checkpoint, tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_presets_are_the_paper_models_and_svd_tiny() -> None:
    known = presets()
    assert {name: preset.get("hub") for name, preset in known.items()} == {
        "svd": "stabilityai/stable-video-diffusion-img2vid",
        "svd-xt": "stabilityai/stable-video-diffusion-img2vid-xt",
        "svd-xt-1.1": "stabilityai/stable-video-diffusion-img2vid-xt-1-1",
        "svd-tiny": None,
    }
    assert known["svd"]["unet"]["num_frames"] == 14
    assert known["svd-tiny"]["unet"]["layers_per_block"] == known["svd-xt"]["unet"]["layers_per_block"]


def test_a_local_folder_is_named_after_itself_alone(folder: Path) -> None:
    checkpoint = resolve(str(folder))
    assert checkpoint.id == "model"
    assert str(folder) not in json.dumps([checkpoint.id, checkpoint.revision, checkpoint.configs])
    assert checkpoint.defaults == {"height": 32, "width": 32, "precision": "fp16", "operators": "gpu"}


def test_svd_sample_size_means_576x1024(folder: Path) -> None:
    edit(folder / "unet/config.json", sample_size=96)
    defaults = resolve(str(folder)).defaults
    assert defaults == {"height": 576, "width": 1024, "precision": "fp16", "operators": "gpu"}


def test_changed_weights_change_the_identity(folder: Path) -> None:
    before = resolve(str(folder)).identity
    assert resolve(str(folder)).identity == before
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")
    assert resolve(str(folder)).identity != before


@pytest.mark.parametrize("file", list(CONFIG_FILES.values()))
def test_a_folder_that_lacks_a_config_is_refused(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(UsageError, match=f"{file} is missing"):
        resolve(str(folder))


def test_a_broken_config_is_refused(folder: Path) -> None:
    (folder / "vae/config.json").write_text("{")
    with pytest.raises(UsageError, match="cannot read"):
        resolve(str(folder))


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "choose an SVD checkpoint"),
        ("vae/config.json", {"_class_name": "AutoencoderKL"}, "choose an SVD checkpoint"),
        ("scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler"}, "vcut compiles SVD's schedule"),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "prediction_type='epsilon'"),
        ("scheduler/scheduler_config.json", {"use_karras_sigmas": False}, "use_karras_sigmas"),
        ("scheduler/scheduler_config.json", {"timestep_type": "discrete"}, "timestep_type"),
        ("scheduler/scheduler_config.json", {"sigma_max": None}, "set both in scheduler_config.json"),
        ("scheduler/scheduler_config.json", {"final_sigmas_type": "sigma_min"}, "final_sigmas_type"),
    ],
)
def test_other_architectures_and_schedules_are_refused(folder: Path, file: str, changes: Any, says: str) -> None:
    edit(folder / file, **changes)
    with pytest.raises(UsageError, match=says):
        resolve(str(folder))


@pytest.mark.parametrize(
    ("name", "says"),
    [("svd_xt", "did you mean svd-xt"), ("sora", "choose svd, svd-xt"), ("./nowhere", "unknown model")],
)
def test_an_unknown_model_gets_a_hint(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        resolve(name)


def test_a_revision_of_a_local_model_is_refused(folder: Path) -> None:
    for name in (str(folder), "svd-tiny"):
        with pytest.raises(UsageError, match="--revision is for hub models"):
            resolve(name, revision="main")
