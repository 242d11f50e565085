"""Merged weights against PEFT's own model with the adapter unmerged, in every style of files."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.loaders import PeftAdapterMixin
from safetensors.torch import load_file, save_file

from lora_files import (
    ATTENTION,
    CONVOLUTIONS,
    FEED_FORWARD,
    RANK,
    STYLES,
    adapted_unet,
    outputs,
    relative,
    write_lora,
)
from vcut_export.checkpoint.original_names import unet_name
from vcut_export.lora import AdapterFile, MergedTensors, match_layers, read_adapters
from vcut_runtime import UsageError

EVERYTHING = [*ATTENTION, *FEED_FORWARD, *CONVOLUTIONS]


@pytest.fixture
def plain(small_checkpoint: Path) -> Any:
    return UNetSpatioTemporalConditionModel.from_pretrained(small_checkpoint, subfolder="unet").eval()


@pytest.fixture(scope="module")
def adapted(small_checkpoint: Path) -> Any:
    return adapted_unet(small_checkpoint, EVERYTHING)


@pytest.fixture(scope="module")
def expected(adapted: Any) -> torch.Tensor:
    return outputs(adapted)


def merged_into(unet: Any, *texts: str) -> torch.Tensor:
    """Return the outputs of ``unet`` with these ``--lora`` merged into it."""
    unet.load_state_dict(merged(unet, *texts))
    return outputs(unet)


def merged(unet: Any, *texts: str) -> MergedTensors:
    adapters = read_adapters([AdapterFile.parse(text) for text in texts])
    return MergedTensors(unet.state_dict(), match_layers(shapes(unet), adapters))


def shapes(unet: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in unet.state_dict().items()}


@pytest.mark.parametrize("style", list(STYLES))
def test_merged_weights_are_the_model_with_pefts_adapter(
    style: str, plain: Any, adapted: Any, expected: torch.Tensor, tmp_path: Path
) -> None:
    before = outputs(plain)
    ours = merged_into(plain, str(write_lora(adapted, tmp_path / "adapter_model.safetensors", style)))
    assert relative(ours, expected) < 1e-5
    assert relative(before, expected) > 1e-2, "the adapter changes nothing, so that this test proves nothing"


def test_the_adapter_reaches_every_kind_of_layer(adapted: Any) -> None:
    shapes = {len(p.shape) for n, p in adapted.named_parameters() if "lora_A" in n}
    assert shapes == {2, 4, 5}
    names = [n for n, _ in adapted.named_parameters() if "lora_A" in n]
    for part in ("0.transformer_blocks.0.attn2.to_v", "temporal_transformer_blocks.0.attn2.to_out.0", "ff_in.net.2"):
        assert any(part in name for name in names), part


def test_diffusers_own_loader_gives_the_same(plain: Any, small_checkpoint: Path, tmp_path: Path) -> None:
    """diffusers loads LoRA into other UNets than SVD's; its mixin fits this one too."""

    class Loads(UNetSpatioTemporalConditionModel, PeftAdapterMixin):  # pyright: ignore
        pass

    adapted = adapted_unet(small_checkpoint, ["attn2.to_v", "ff.net.2"], rank_pattern={"to_v": 5})
    file = write_lora(adapted, tmp_path / "lora.safetensors", "training script", {})
    theirs: Any = Loads.from_pretrained(small_checkpoint, subfolder="unet")
    theirs.load_lora_adapter(load_file(file), prefix="unet")
    assert relative(merged_into(plain, str(file)), outputs(theirs)) < 1e-5


def test_scales_of_several_adapters_add_up(plain: Any, small_checkpoint: Path, tmp_path: Path) -> None:
    theirs = adapted_unet(small_checkpoint, ATTENTION, lora_alpha=RANK)
    first = write_lora(theirs, tmp_path / "first.safetensors")
    other = adapted_unet(small_checkpoint, FEED_FORWARD, seed=5)
    second = write_lora(other, tmp_path / "second.safetensors", "kohya")
    ours = merged_into(plain, f"{first}:0.25", f"{second}:-1.5")
    for module in (module for module in theirs.modules() if hasattr(module, "set_scale")):
        module.set_scale("default", 0.25)
    for module in (module for module in other.modules() if hasattr(module, "set_scale")):
        module.set_scale("default", -1.5)
    state = {k.replace(".base_layer", ""): v for k, v in theirs.state_dict().items() if "lora_" not in k}
    by_peft: Any = UNetSpatioTemporalConditionModel.from_config(theirs.config)
    for adapted in (theirs, other):
        for name, module in adapted.named_modules():
            if hasattr(module, "get_delta_weight"):
                state[f"{name}.weight"] = state[f"{name}.weight"] + module.get_delta_weight("default")
    by_peft.load_state_dict(state)
    assert relative(ours, outputs(by_peft.eval())) < 1e-5


def test_ranks_and_alphas_of_single_layers_count(plain: Any, small_checkpoint: Path, tmp_path: Path) -> None:
    patterns = {"rank_pattern": {"to_q": 5, "attn2.to_v": 2}, "alpha_pattern": {r"attn\d.to_q": 1.5, "to_k": 11.0}}
    theirs = adapted_unet(small_checkpoint, ATTENTION, use_rslora=True, **patterns)
    file = write_lora(theirs, tmp_path / "adapter_model.safetensors", "peft")
    assert relative(merged_into(plain, str(file)), outputs(theirs)) < 1e-5


def test_kohyas_alpha_may_stand_in_the_metadata_alone(plain: Any, small_checkpoint: Path, tmp_path: Path) -> None:
    theirs = adapted_unet(small_checkpoint, ATTENTION)
    file = write_lora(theirs, tmp_path / "lora.safetensors", "kohya")
    tensors = {key: value for key, value in load_file(file).items() if not key.endswith(".alpha")}
    save_file(tensors, file, {"ss_network_alpha": "7.5"})
    assert relative(merged_into(plain, str(file)), outputs(theirs)) < 1e-5


def test_without_any_scale_alpha_is_the_rank(plain: Any, small_checkpoint: Path, tmp_path: Path) -> None:
    """As in diffusers, whose training scripts save no alpha."""
    theirs = adapted_unet(small_checkpoint, ATTENTION, lora_alpha=RANK)
    file = write_lora(theirs, tmp_path / "lora.safetensors", "training script", {})
    assert relative(merged_into(plain, str(file)), outputs(theirs)) < 1e-5


def test_only_adapted_layers_change_and_the_sum_is_not_rounded(plain: Any, adapted: Any, tmp_path: Path) -> None:
    file = write_lora(adapted, tmp_path / "lora.safetensors")
    half = plain.half()
    result = merged(half, str(file))
    assert list(result) == list(half.state_dict())
    for name, value in half.state_dict().items():
        if name in result.changes:
            assert result[name].dtype == torch.float32
            assert not torch.equal(result[name].half().float(), result[name])
        else:
            assert torch.equal(result[name], value)


def test_layers_of_the_original_layout_are_found(plain: Any, small_checkpoint: Path, tmp_path: Path) -> None:
    """As ComfyUI saves them. The names are those of the original network with one layer in a level."""
    original = {
        "mid_block.attentions.0.temporal_transformer_blocks.0.attn2.to_v": "middle_block.1.time_stack.0.attn2.to_v",
        "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2": "input_blocks.1.1.transformer_blocks.0.ff.net.2",
        "up_blocks.1.resnets.0.spatial_res_block.conv1": "output_blocks.2.0.in_layers.2",
        "conv_out": "out.2",
    }
    theirs = adapted_unet(small_checkpoint, list(original), lora_alpha=RANK)
    tensors = load_file(write_lora(theirs, tmp_path / "lora.safetensors", "diffusers", {}))
    for name, other in original.items():
        for part, word in (("A", "down"), ("B", "up")):
            tensors[f"diffusion_model.{other}.lora_{word}.weight"] = tensors.pop(f"unet.{name}.lora_{part}.weight")
    save_file(tensors, tmp_path / "comfy.safetensors")
    adapters = read_adapters([AdapterFile.parse(str(tmp_path / "comfy.safetensors"))])
    changes = match_layers(shapes(plain), adapters, partial(unet_name, layers=1))
    plain.load_state_dict(MergedTensors(plain.state_dict(), changes))
    assert relative(outputs(plain), outputs(theirs)) < 1e-5


@pytest.mark.parametrize("style", ["diffusers", "kohya"])
def test_an_adapter_of_another_model_is_refused(style: str, plain: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The deeper model has layers that this one lacks."""
    file = write_lora(adapted_unet(tiny_checkpoint, ["to_q"]), tmp_path / "lora.safetensors", style)
    with pytest.raises(UsageError, match=r"changes \d+ of \d+ layers that the model lacks, such as .*down_blocks"):
        merged_into(plain, str(file))


def test_a_layer_of_another_shape_is_refused(plain: Any, small_checkpoint: Path, tmp_path: Path) -> None:
    file = write_lora(adapted_unet(small_checkpoint, ["conv_in"]), tmp_path / "lora.safetensors")
    tensors = load_file(file)
    tensors = {key: value[:, :-1] if "lora_A" in key else value for key, value in tensors.items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, file)
    with pytest.raises(UsageError, match=r"shape \[32, 7, 3, 3\] with unet.conv_in.*the model's is \[32, 8, 3, 3\]"):
        merged_into(plain, str(file))


def test_rank_stabilised_scales_divide_by_the_root(small_checkpoint: Path, tmp_path: Path) -> None:
    theirs = adapted_unet(small_checkpoint, ["to_q"], use_rslora=True)
    file = write_lora(theirs, tmp_path / "lora.safetensors")
    (adapter,) = read_adapters([AdapterFile.parse(str(file))])
    assert {round(change.factor, 6) for change in adapter.layers.values()} == {round(7.5 / math.sqrt(RANK), 6)}
    assert json.loads(read_metadata(file)["lora_adapter_metadata"])["unet.use_rslora"]


def read_metadata(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as content:
        return content.metadata()
