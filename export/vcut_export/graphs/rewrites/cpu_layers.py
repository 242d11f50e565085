"""Layers of a UNet in the form that ONNX Runtime runs fastest on a CPU. Their results stay the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from vcut_export.graphs.rewrites.fold import FoldedCrossAttention
from vcut_export.graphs.rewrites.temporal_decoder import TemporalConv


class SplitGEGLU(nn.Module):
    """diffusers' ``GEGLU`` as two projections. Splitting the output of one would copy a step's largest tensors."""

    def __init__(self, geglu: Any) -> None:
        super().__init__()
        inner, channels = geglu.proj.out_features // 2, geglu.proj.in_features
        has_bias = geglu.proj.bias is not None
        self.value = nn.Linear(channels, inner, has_bias, device="meta")
        self.gate = nn.Linear(channels, inner, has_bias, device="meta")
        for name, parameter in geglu.proj.named_parameters():
            for layer, part in zip((self.value, self.gate), parameter.detach().split(inner), strict=True):
                setattr(layer, name, nn.Parameter(part, requires_grad=False))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return [..., inner] of [..., channels]."""
        return self.value(hidden_states) * functional.gelu(self.gate(hidden_states))


class FlatTransformer(nn.Module):
    """A folded ``TransformerSpatioTemporalModel`` whose tokens are the rows of one matrix, frame after frame.

    All but attention looks at one token at a time, so tokens stay in this order throughout. Bringing its heads in front
    of its sequence is what attention does anyway; for temporal attention pixels are heads too. And a matrix is what
    ONNX Runtime multiplies without reshaping it before and after.
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.norm, self.proj_in, self.proj_out = transformer.norm, transformer.proj_in, transformer.proj_out
        self.transformer_blocks: Any = transformer.transformer_blocks
        self.temporal_transformer_blocks: Any = transformer.temporal_transformer_blocks
        self.time_pos_embed, self.time_mixer = transformer.time_pos_embed, transformer.time_mixer

    def forward(
        self, hidden_states: torch.Tensor, *, image_only_indicator: torch.Tensor, **_: Any
    ) -> tuple[torch.Tensor]:
        """Return [B * F, C, h, w] of that shape; of ``image_only_indicator`` [B, F] only the shape is read."""
        rows, channels, height, width = hidden_states.shape
        batch, frames = image_only_indicator.shape
        tokens = height * width
        positions = self.time_pos_embed.table[:frames, None]  # [F, 1, C]
        x = self.proj_in(self.norm(hidden_states).permute(0, 2, 3, 1).reshape(-1, channels))
        for block, temporal in zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True):
            x = _attention(block.attn1, block.norm1(x), rows, tokens) + x
            x = _add_bias(x, block.attn2)
            x = block.ff(block.norm3(x)) + x
            y = (x.reshape(batch, frames, tokens, channels) + positions).reshape(-1, channels)
            y = temporal.ff_in(temporal.norm_in(y)) + y
            y = _attention(temporal.attn1, temporal.norm1(y), batch, frames) + y
            y = _add_bias(y, temporal.attn2)
            y = temporal.ff(temporal.norm3(y)) + y
            x = self.time_mixer(x, y)
        x = self.proj_out(x).reshape(rows, height, width, channels).permute(0, 3, 1, 2)
        return (x + hidden_states,)


def _attention(attn: Any, x: torch.Tensor, batch: int, sequence: int) -> torch.Tensor:
    """diffusers' self-attention ``attn`` on a matrix of tokens, [batch, sequence, what else there is] in this order."""
    width = attn.inner_dim // attn.heads
    query, key, value = (
        project(x).reshape(batch, sequence, -1, width).transpose(1, 2) for project in (attn.to_q, attn.to_k, attn.to_v)
    )
    mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    return attn.to_out[0](mixed.reshape(x.shape[0], -1))


def _add_bias(x: torch.Tensor, folded: FoldedCrossAttention | None) -> torch.Tensor:
    """Add a folded cross-attention's vector to all tokens of its batch row, if it was not removed."""
    if folded is None:
        return x
    bias = folded.bias()
    return (x.reshape(len(bias), -1, x.shape[1]) + bias[:, None]).reshape(x.shape)


class BlendedResBlock(nn.Module):
    """A folded ``SpatioTemporalResBlock`` as ``x + temporal(x)``, ``x`` the spatial block's output, convolutions 2-D.

    Its blend of ``x`` and ``x + temporal(x)`` is one addition once the blend's constant is in the last convolution, and
    that addition is the convolution's own to ONNX Runtime.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.spatial_res_block = block.spatial_res_block
        self.temporal_res_block: Any = block.temporal_res_block
        for name in ("conv1", "conv2"):
            setattr(self.temporal_res_block, name, TemporalConv(getattr(self.temporal_res_block, name)))
        share = block.time_mixer.temporal
        last = self.temporal_res_block.conv2
        for name, parameter in list(last.named_parameters()):
            setattr(last, name, nn.Parameter(parameter.detach() * share, requires_grad=False))

    def forward(
        self, hidden_states: torch.Tensor, temb: torch.Tensor, image_only_indicator: torch.Tensor
    ) -> torch.Tensor:
        """Return [B * F, C', h, w] of [B * F, C, h, w]; the folded projections read the time."""
        x = self.spatial_res_block(hidden_states, temb)
        rows, channels, height, width = x.shape
        frames = image_only_indicator.shape[-1]
        x = x.reshape(rows // frames, frames, channels, height * width).permute(0, 2, 1, 3)  # [B, C', F, h*w]
        block = self.temporal_res_block
        y = block.conv1(block.nonlinearity(block.norm1(x))) + block.time_emb_proj(temb)[:, :, None, None]
        x = x + block.conv2(block.nonlinearity(block.norm2(y)))
        return x.permute(0, 2, 1, 3).reshape(rows, channels, height, width)


def prefer_cpu_kernels(unet: nn.Module) -> None:
    """Replace, in place, a folded UNet's GEGLU layers and its residual blocks and transformers in space and time."""
    from diffusers.models.activations import GEGLU
    from diffusers.models.resnet import SpatioTemporalResBlock
    from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel

    for parent in list(unet.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, GEGLU):
                setattr(parent, name, SplitGEGLU(child))
            elif isinstance(child, SpatioTemporalResBlock):
                setattr(parent, name, BlendedResBlock(child))
            elif isinstance(child, TransformerSpatioTemporalModel):
                setattr(parent, name, FlatTransformer(child))
