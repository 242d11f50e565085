"""Diffusers' models as a single file in the original layout, by counting blocks as the original code builds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Weights = dict[str, torch.Tensor]

_RESNET = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
]


def write_original(path: Path, unet: Any, vae: Any, image_encoder: Any, metadata: dict[str, str] | None = None) -> Path:
    """Write ``path``; ``vae``'s encoder goes to the conditioner."""
    weights = {f"model.diffusion_model.{name}": value for name, value in original_unet_weights(unet).items()}
    weights |= _vae(vae) | _image_encoder(image_encoder)
    save_file({name: value.contiguous().clone() for name, value in weights.items()}, path, metadata or {})
    return path


def original_unet_weights(unet: Any) -> Weights:
    """Return the weights of a ``UNetSpatioTemporalConditionModel`` under the names of ``VideoUNet``."""
    weights: Weights = {}
    for number, layer in ((0, "linear_1"), (2, "linear_2")):
        _add(weights, f"time_embed.{number}", getattr(unet.time_embedding, layer))
        _add(weights, f"label_emb.0.{number}", getattr(unet.add_embedding, layer))
    _add(weights, "input_blocks.0.0", unet.conv_in)
    count = 1
    for block in unet.down_blocks:
        for resnet, attention in _layers(block):
            _layer(weights, f"input_blocks.{count}", resnet, attention)
            count += 1
        for sampler in block.downsamplers or ():
            _add(weights, f"input_blocks.{count}.0.op", sampler.conv)
            count += 1
    _resnet(weights, "middle_block.0", unet.mid_block.resnets[0])
    _attention(weights, "middle_block.1", unet.mid_block.attentions[0])
    _resnet(weights, "middle_block.2", unet.mid_block.resnets[1])
    count = 0
    for block in unet.up_blocks:
        layers = _layers(block)
        for resnet, attention in layers:
            _layer(weights, f"output_blocks.{count}", resnet, attention)
            count += 1
        for sampler in block.upsamplers or ():  # the last thing in the block's last sequence
            position = 1 if layers[-1][1] is None else 2
            _add(weights, f"output_blocks.{count - 1}.{position}.conv", sampler.conv)
    _add(weights, "out.0", unet.conv_norm_out)
    _add(weights, "out.2", unet.conv_out)
    return weights


def _layers(block: Any) -> list[tuple[Any, Any]]:
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return list(zip(block.resnets, attentions, strict=True))


def _layer(weights: Weights, place: str, resnet: Any, attention: Any) -> None:
    _resnet(weights, f"{place}.0", resnet)
    if attention is not None:
        _attention(weights, f"{place}.1", attention)


def _resnet(weights: Weights, place: str, resnet: Any) -> None:
    for part, where in ((resnet.spatial_res_block, place), (resnet.temporal_res_block, f"{place}.time_stack")):
        for ours, theirs in _RESNET:
            _add(weights, f"{where}.{theirs}", getattr(part, ours, None))
    weights[f"{place}.time_mixer.mix_factor"] = resnet.time_mixer.mix_factor


def _attention(weights: Weights, place: str, attention: Any) -> None:
    for name in ("norm", "proj_in", "proj_out", "transformer_blocks", "time_mixer"):
        _add(weights, f"{place}.{name}", getattr(attention, name))
    _add(weights, f"{place}.time_stack", attention.temporal_transformer_blocks)
    _add(weights, f"{place}.time_pos_embed.0", attention.time_pos_embed.linear_1)
    _add(weights, f"{place}.time_pos_embed.2", attention.time_pos_embed.linear_2)


def _vae(vae: Any) -> Weights:
    weights: Weights = {}
    conditioner, decoder = "conditioner.embedders.3.encoder", "first_stage_model.decoder"
    _add(weights, f"{conditioner}.quant_conv", vae.quant_conv)
    for level, block in enumerate(vae.encoder.down_blocks):
        for number, resnet in enumerate(block.resnets):
            _vae_resnet(weights, f"{conditioner}.encoder.down.{level}.block.{number}", resnet)
        for sampler in block.downsamplers or ():
            _add(weights, f"{conditioner}.encoder.down.{level}.downsample.conv", sampler.conv)
    for number, resnet in enumerate(vae.encoder.mid_block.resnets):
        _vae_resnet(weights, f"{conditioner}.encoder.mid.block_{number + 1}", resnet)
    levels = len(vae.decoder.up_blocks)
    for position, block in enumerate(vae.decoder.up_blocks):
        level = levels - 1 - position
        for number, resnet in enumerate(block.resnets):
            _video_resnet(weights, f"{decoder}.up.{level}.block.{number}", resnet)
        for sampler in block.upsamplers or ():
            _add(weights, f"{decoder}.up.{level}.upsample.conv", sampler.conv)
    for number, resnet in enumerate(vae.decoder.mid_block.resnets):
        _video_resnet(weights, f"{decoder}.mid.block_{number + 1}", resnet)
    _add(weights, f"{decoder}.conv_out.time_mix_conv", vae.decoder.time_conv_out)
    for place, part in ((f"{conditioner}.encoder", vae.encoder), (decoder, vae.decoder)):
        attention = part.mid_block.attentions[0]
        _add(weights, f"{place}.mid.attn_1.norm", attention.group_norm)
        parts = {"q": attention.to_q, "k": attention.to_k, "v": attention.to_v, "proj_out": attention.to_out[0]}
        for name, linear in parts.items():
            weights[f"{place}.mid.attn_1.{name}.weight"] = linear.weight[:, :, None, None]
            weights[f"{place}.mid.attn_1.{name}.bias"] = linear.bias
        _add(weights, f"{place}.conv_in", part.conv_in)
        _add(weights, f"{place}.norm_out", part.conv_norm_out)
        _add(weights, f"{place}.conv_out", part.conv_out)
    return weights


def _vae_resnet(weights: Weights, place: str, resnet: Any) -> None:
    for name in ("norm1", "conv1", "norm2", "conv2"):
        _add(weights, f"{place}.{name}", getattr(resnet, name))
    _add(weights, f"{place}.nin_shortcut", resnet.conv_shortcut)


def _video_resnet(weights: Weights, place: str, resnet: Any) -> None:
    _vae_resnet(weights, place, resnet.spatial_res_block)
    for ours, theirs in _RESNET:
        _add(weights, f"{place}.time_stack.{theirs}", getattr(resnet.temporal_res_block, ours, None))
    weights[f"{place}.mix_factor"] = resnet.time_mixer.mix_factor


def _image_encoder(model: Any) -> Weights:
    weights: Weights = {}
    visual, clip = "conditioner.embedders.0.open_clip.model.visual", model.vision_model
    weights[f"{visual}.class_embedding"] = clip.embeddings.class_embedding
    weights[f"{visual}.positional_embedding"] = clip.embeddings.position_embedding.weight
    weights[f"{visual}.proj"] = model.visual_projection.weight.T
    _add(weights, f"{visual}.conv1", clip.embeddings.patch_embedding)
    _add(weights, f"{visual}.ln_pre", clip.pre_layrnorm)
    _add(weights, f"{visual}.ln_post", clip.post_layernorm)
    for number, layer in enumerate(clip.encoder.layers):
        place, attention = f"{visual}.transformer.resblocks.{number}", layer.self_attn
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        weights[f"{place}.attn.in_proj_weight"] = torch.cat([projection.weight for projection in projections])
        weights[f"{place}.attn.in_proj_bias"] = torch.cat([projection.bias for projection in projections])
        _add(weights, f"{place}.attn.out_proj", attention.out_proj)
        _add(weights, f"{place}.ln_1", layer.layer_norm1)
        _add(weights, f"{place}.ln_2", layer.layer_norm2)
        _add(weights, f"{place}.mlp.c_fc", layer.mlp.fc1)
        _add(weights, f"{place}.mlp.c_proj", layer.mlp.fc2)
    return weights


def _add(weights: Weights, place: str, module: torch.nn.Module | None) -> None:
    if module is not None:
        weights |= {f"{place}.{name}": value for name, value in module.named_parameters()}
