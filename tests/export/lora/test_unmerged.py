"""Models that were saved while they still held their adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from diffusers import UNetSpatioTemporalConditionModel
from safetensors.torch import load_file, save_file

from lora_files import ALPHA, ATTENTION, CONVOLUTIONS, adapted_unet, outputs, relative
from vcut_export.lora import merge_own_adapters
from vcut_runtime import UsageError


@pytest.fixture(scope="module")
def adapted(small_checkpoint: Path) -> Any:
    return adapted_unet(small_checkpoint, [*ATTENTION, *CONVOLUTIONS])


def save(adapted: Any, folder: Path, metadata: dict[str, str] | None = None) -> Path:
    """Save the state of a model that PEFT has changed as diffusers would save a UNet."""
    file = folder / "diffusion_pytorch_model.safetensors"
    save_file({key: value.contiguous() for key, value in adapted.state_dict().items()}, file, metadata)
    return file


def merged(file: Path, plain: Any) -> Any:
    shapes = {name: tuple(value.shape) for name, value in plain.state_dict().items()}
    return merge_own_adapters(load_file(file), shapes, file)


@pytest.fixture
def plain(small_checkpoint: Path) -> Any:
    return UNetSpatioTemporalConditionModel.from_pretrained(small_checkpoint, subfolder="unet").eval()


def test_a_saved_peft_model_is_merged(plain: Any, adapted: Any, tmp_path: Path) -> None:
    file = save(adapted, tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": ALPHA}))
    assert any(".base_layer." in key for key in load_file(file))
    plain.load_state_dict(merged(file, plain))
    assert relative(outputs(plain), outputs(adapted)) < 1e-5


def test_the_scale_may_stand_in_the_metadata(plain: Any, adapted: Any, tmp_path: Path) -> None:
    file = save(adapted, tmp_path, metadata={"lora_adapter_metadata": json.dumps({"lora_alpha": ALPHA})})
    plain.load_state_dict(merged(file, plain))
    assert relative(outputs(plain), outputs(adapted)) < 1e-5


def test_without_a_scale_it_is_refused(plain: Any, adapted: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"LoRA that is not merged \(.*lora_A.*merge_and_unload.*adapter_config.json"):
        merged(save(adapted, tmp_path), plain)


def test_layers_that_lost_their_adapter_are_refused(plain: Any, adapted: Any, tmp_path: Path) -> None:
    file = save(adapted, tmp_path)
    save_file({key: value for key, value in load_file(file).items() if "lora_" not in key}, file)
    with pytest.raises(UsageError, match=r"without them \(.*base_layer"):
        merged(file, plain)


def test_another_kind_of_adapter_is_refused_by_name(plain: Any, small_checkpoint: Path, tmp_path: Path) -> None:
    dora = adapted_unet(small_checkpoint, ["to_q"], use_dora=True)
    with pytest.raises(UsageError, match="is DoRA"):
        merged(save(dora, tmp_path), plain)


def test_a_plain_model_is_left_alone(plain: Any, tmp_path: Path) -> None:
    state = plain.state_dict()
    assert merge_own_adapters(state, {}, tmp_path / "missing") is state
