"""Layers of a UNet in the form that ONNX Runtime's CPU runs fastest; what they compute stays the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from vcut_export.temporal_decoder import TemporalConv


class SplitGEGLU(nn.Module):
    """diffusers' ``GEGLU`` as two projections: splitting what one made is a copy of a step's largest tensors."""

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
        share = 1.0 - block.time_mixer.spatial_weight
        last = self.temporal_res_block.conv2
        for name, parameter in list(last.named_parameters()):
            setattr(last, name, nn.Parameter(parameter.detach() * share, requires_grad=False))

    def forward(
        self, hidden_states: torch.Tensor, temb: torch.Tensor, image_only_indicator: torch.Tensor
    ) -> torch.Tensor:
        """Return [B * F, C', h, w] of [B * F, C, h, w]; the time is what the folded projections read."""
        x = self.spatial_res_block(hidden_states, temb)
        rows, channels, height, width = x.shape
        frames = image_only_indicator.shape[-1]
        x = x.reshape(rows // frames, frames, channels, height * width).permute(0, 2, 1, 3)  # [B, C', F, h*w]
        block = self.temporal_res_block
        y = block.conv1(block.nonlinearity(block.norm1(x))) + block.time_emb_proj(temb)[:, :, None, None]
        x = x + block.conv2(block.nonlinearity(block.norm2(y)))
        return x.permute(0, 2, 1, 3).reshape(rows, channels, height, width)


def prefer_cpu_kernels(unet: nn.Module) -> None:
    """Replace, in place, what a folded UNet has of GEGLU and of residual blocks in space and time."""
    from diffusers.models.activations import GEGLU
    from diffusers.models.resnet import SpatioTemporalResBlock

    for parent in list(unet.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, GEGLU):
                setattr(parent, name, SplitGEGLU(child))
            elif isinstance(child, SpatioTemporalResBlock):
                setattr(parent, name, BlendedResBlock(child))
