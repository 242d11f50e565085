"""LoRA files in every style that tools write, and PEFT's own model with the same adapter: the reference of merging."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]  # of SCA, TCA and both self-attentions
FEED_FORWARD = ["net.0.proj", "net.2", "proj_in", "proj_out"]
CONVOLUTIONS = ["conv1", "conv2", "conv_in", "conv_shortcut", "time_emb_proj"]  # in space and, in three axes, in time
RANK, ALPHA = 3, 7.5

Tensors = dict[str, torch.Tensor]


def adapted_unet(folder: Path, targets: list[str], seed: int = 0, **config: Any) -> Any:
    """Return diffusers' UNet with a PEFT adapter, unmerged, whose two matrices are both random."""
    unet = UNetSpatioTemporalConditionModel.from_pretrained(folder, subfolder="unet")
    config = {"r": RANK, "lora_alpha": ALPHA, "target_modules": targets, **config}
    unet = inject_adapter_in_model(LoraConfig(**config), unet)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return unet.eval().requires_grad_(False)


def peft_style(tensors: Tensors) -> Tensors:
    """``PeftModel.save_pretrained``."""
    return {f"base_model.model.{key}": value for key, value in tensors.items()}


def named_style(tensors: Tensors) -> Tensors:
    """The state of a model that still holds its adapter."""
    return {key.replace(".weight", ".default.weight"): value for key, value in tensors.items()}


def diffusers_style(tensors: Tensors) -> Tensors:
    """``save_lora_weights`` of a pipeline."""
    return {f"unet.{key}": value for key, value in tensors.items()}


def training_script_style(tensors: Tensors) -> Tensors:
    """What diffusers' training scripts save: attention in one style, the other layers in another."""
    return {f"unet.{key}": value for key, value in convert_state_dict_to_diffusers(dict(tensors)).items()}


def processor_style(tensors: Tensors) -> Tensors:
    """``save_attn_procs`` of diffusers before PEFT."""
    result = {}
    for key, value in tensors.items():
        name = key.replace("to_out.0", "to_out").replace("lora_A", "lora.down").replace("lora_B", "lora.up")
        head, _, projection = name.partition(".lora.")[0].rpartition(".")
        old = f"{head}.processor.{projection}_lora.{name.partition('.lora.')[2]}"
        result[old if projection in ("to_q", "to_k", "to_v", "to_out") else name] = value
    return result


def kohya_style(tensors: Tensors) -> Tensors:
    """kohya's scripts, by diffusers' own converter; the converter leaves out alpha unless it is the rank."""
    result = convert_state_dict_to_kohya(diffusers_style(tensors))
    return {key: torch.tensor(ALPHA) if key.endswith(".alpha") else value for key, value in result.items()}


STYLES: dict[str, Callable[[Tensors], Tensors]] = {
    "peft": peft_style,
    "peft, named": named_style,
    "diffusers": diffusers_style,
    "training script": training_script_style,
    "processors": processor_style,
    "kohya": kohya_style,
}


def write_lora(unet: Any, file: Path, style: str = "diffusers", metadata: Mapping[str, str] | None = None) -> Path:
    """Write the adapter of ``unet`` in a style, with the scale where that style has one.

    Styles without a place for the scale get diffusers' metadata.
    """
    config: Any = unet.peft_config["default"].to_dict()
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    config = {key: getattr(value, "value", value) for key, value in config.items()}
    tensors = STYLES[style]({key: value.contiguous() for key, value in get_peft_model_state_dict(unet).items()})
    if style == "peft":
        (file.parent / "adapter_config.json").write_text(json.dumps(config))
    elif style != "kohya" and metadata is None:
        metadata = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in config.items()})}
    save_file(tensors, file, {"format": "pt", **(metadata or {})})
    return file


@torch.no_grad()
def outputs(unet: Any, frames: int = 3, size: int = 16) -> torch.Tensor:
    """Run a UNet on seeded inputs: [2, frames, C, size, size]."""
    generator = torch.Generator().manual_seed(11)
    config = unet.config

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    sample = draw(2, frames, config.in_channels, size, size)
    ids = torch.tensor([[6.0, 127.0, 0.02]]).repeat(2, 1)
    return unet(sample, torch.tensor(0.3), draw(2, 1, config.cross_attention_dim), ids).sample


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the largest difference in units of the largest magnitude."""
    return float((ours - theirs).abs().max() / theirs.abs().max())
