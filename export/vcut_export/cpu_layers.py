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


def prefer_cpu_kernels(unet: nn.Module) -> None:
    """Replace, in place, what a UNet has of GEGLU and of temporal convolutions, which become 2-D."""
    from diffusers.models.activations import GEGLU
    from diffusers.models.resnet import TemporalResnetBlock

    for parent in list(unet.modules()):
        if isinstance(parent, TemporalResnetBlock):
            for name in ("conv1", "conv2"):
                setattr(parent, name, TemporalConv(getattr(parent, name)))
        for name, child in list(parent.named_children()):
            if isinstance(child, GEGLU):
                setattr(parent, name, SplitGEGLU(child))
