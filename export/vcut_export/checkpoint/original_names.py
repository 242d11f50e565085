"""Names of weights: from Stability AI's ``generative-models`` and OpenCLIP to diffusers' and transformers'.

Each function takes a name of the original network's module and returns the name in diffusers' or transformers' class,
or None for a name that it does not know. ``tests/export/checkpoint/test_original_outputs.py`` proves the mapping.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_UNET_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_CLIP_OTHERS = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
}


def unet_name(name: str, layers: int) -> str | None:
    """Return the name in ``UNetSpatioTemporalConditionModel`` of a weight of ``VideoUNet``.

    Args:
        name: such as ``input_blocks.1.0.in_layers.0.weight``.
        layers: resnets of a down level, ``layers_per_block``; the original counts the blocks of all levels as one row.
    """
    module, _, kind = name.rpartition(".")
    if match := re.fullmatch(r"(time_embed|label_emb\.0)\.([02])", module):
        embedding = "time_embedding" if match[1] == "time_embed" else "add_embedding"
        return f"{embedding}.linear_{int(match[2]) // 2 + 1}.{kind}"
    if module in (others := {"input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out"}):
        return f"{others[module]}.{kind}"
    if match := re.fullmatch(r"input_blocks\.(\d+)\.(\d)\.(.+)", name):
        level, layer = divmod(int(match[1]) - 1, layers + 1)
        if layer == layers:
            return f"down_blocks.{level}.downsamplers.0.conv.{kind}" if module.endswith(".0.op") else None
        return _unet_block(f"down_blocks.{level}", layer, match[2], match[3])
    if match := re.fullmatch(r"output_blocks\.(\d+)\.\d\.conv\.\w+", name):
        return f"up_blocks.{int(match[1]) // (layers + 1)}.upsamplers.0.conv.{kind}"
    if match := re.fullmatch(r"output_blocks\.(\d+)\.(\d)\.(.+)", name):
        level, layer = divmod(int(match[1]), layers + 1)
        return _unet_block(f"up_blocks.{level}", layer, match[2], match[3])
    if match := re.fullmatch(r"middle_block\.(\d)\.(.+)", name):  # resnet, attention, resnet
        layer, part = divmod(int(match[1]), 2)
        return _unet_block("mid_block", layer, str(part), match[2])
    return None


def _unet_block(block: str, layer: int, part: str, name: str) -> str | None:
    """Return the name of a weight in a resnet (part 0) or a transformer (part 1)."""
    if part == "1":
        name = name.replace("time_stack.", "temporal_transformer_blocks.")
        name = name.replace("time_pos_embed.0", "time_pos_embed.linear_1")
        name = name.replace("time_pos_embed.2", "time_pos_embed.linear_2")
        return f"{block}.attentions.{layer}.{name}"
    if name == "time_mixer.mix_factor":
        return f"{block}.resnets.{layer}.{name}"
    resnet = "temporal_res_block" if name.startswith("time_stack.") else "spatial_res_block"
    module, _, kind = name.removeprefix("time_stack.").rpartition(".")
    if part != "0" or module not in _UNET_RESNET:
        return None
    return f"{block}.resnets.{layer}.{resnet}.{_UNET_RESNET[module]}.{kind}"


def encoder_name(name: str) -> str | None:
    """Return the name in the VAE's encoder of a weight of ``Encoder``, such as ``down.0.block.0.norm1.weight``."""
    if match := re.fullmatch(r"down\.(\d+)\.block\.(\d+)\.(.+)", name):
        return f"encoder.down_blocks.{match[1]}.resnets.{match[2]}.{_vae_resnet(match[3])}"
    if match := re.fullmatch(r"down\.(\d+)\.downsample\.conv\.(\w+)", name):
        return f"encoder.down_blocks.{match[1]}.downsamplers.0.conv.{match[2]}"
    return _vae_others("encoder", name, _vae_resnet)


def decoder_name(name: str, levels: int) -> str | None:
    """Return the name in ``TemporalDecoder`` of a weight of ``VideoDecoder``, such as ``up.0.block.0.mix_factor``.

    Args:
        name: in the original, whose levels are numbered from the last one run.
        levels: of the decoder.
    """
    if match := re.fullmatch(r"up\.(\d+)\.block\.(\d+)\.(.+)", name):
        return f"decoder.up_blocks.{levels - 1 - int(match[1])}.resnets.{match[2]}.{_video_resnet(match[3])}"
    if match := re.fullmatch(r"up\.(\d+)\.upsample\.conv\.(\w+)", name):
        return f"decoder.up_blocks.{levels - 1 - int(match[1])}.upsamplers.0.conv.{match[2]}"
    if match := re.fullmatch(r"conv_out\.time_mix_conv\.(\w+)", name):
        return f"decoder.time_conv_out.{match[1]}"
    return _vae_others("decoder", name, _video_resnet)


def _vae_resnet(name: str) -> str:
    return name.replace("nin_shortcut", "conv_shortcut")


def _video_resnet(name: str) -> str:
    if name == "mix_factor":
        return "time_mixer.mix_factor"
    module, _, kind = name.removeprefix("time_stack.").rpartition(".")
    if name.startswith("time_stack."):
        return f"temporal_res_block.{_UNET_RESNET.get(module, module)}.{kind}"
    return f"spatial_res_block.{_vae_resnet(name)}"


def _vae_others(part: str, name: str, resnet_name: Callable[[str], str]) -> str | None:
    """Return the name of a weight that is in no level; ``resnet_name`` names the weights of a residual block."""
    if match := re.fullmatch(r"mid\.block_([12])\.(.+)", name):
        return f"{part}.mid_block.resnets.{int(match[1]) - 1}.{resnet_name(match[2])}"
    module, _, kind = name.rpartition(".")
    attention = module.removeprefix("mid.attn_1.")
    if attention != module and attention in _VAE_ATTENTION:
        return f"{part}.mid_block.attentions.0.{_VAE_ATTENTION[attention]}.{kind}"
    if module in (others := {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}):
        return f"{part}.{others[module]}.{kind}"
    return None


def image_encoder_name(name: str) -> str | None:
    """Return the name in ``CLIPVisionModelWithProjection`` of a weight of OpenCLIP's ``VisionTransformer``.

    Queries, keys and values are one tensor in OpenCLIP, ``attn.in_proj_weight`` and ``attn.in_proj_bias``: their name
    is returned with ``{}`` for ``q``, ``k`` and ``v``.
    """
    if name in _CLIP_OTHERS:
        return _CLIP_OTHERS[name]
    if name == "proj":
        return "visual_projection.weight"
    if match := re.fullmatch(r"ln_(pre|post)\.(\w+)", name):
        norm = {"pre": "pre_layrnorm", "post": "post_layernorm"}[match[1]]  # the class spells it so
        return f"vision_model.{norm}.{match[2]}"
    if match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name):
        return f"vision_model.encoder.layers.{match[1]}.self_attn.{{}}_proj.{match[2]}"
    if match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)", name):
        module = _CLIP_LAYER.get(match[2])
        return module and f"vision_model.encoder.layers.{match[1]}.{module}.{match[3]}"
    return None
