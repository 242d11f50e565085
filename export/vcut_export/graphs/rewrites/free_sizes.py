"""Sizes that a UNet's levels do not halve evenly: each upsampling returns to the size of the skip that it meets.

480 pixels are 60 latent rows, then 30, 15 and 8: twice 8 is one row too many. If diffusers' UNet sees such a size, it
hands the skips' sizes to its upsamplers. So a UNet with free sizes is traced at one (``steps.trace_sizes``), and its
graph computes the skips' sizes whatever it gets. Where twice the size is right, nothing changes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class SizedUpsample(nn.Module):
    """diffusers' ``Upsample2D`` without its tests of sizes, which a traced graph cannot make."""

    def __init__(self, upsample: Any) -> None:
        super().__init__()
        self.conv = upsample.conv

    def forward(self, hidden_states: torch.Tensor, output_size: Any = None) -> torch.Tensor:
        """Return [rows, C', *output_size] of [rows, C, h, w]; by default twice the size."""
        scale = 2.0 if output_size is None else None
        return self.conv(functional.interpolate(hidden_states, output_size, scale, mode="nearest"))


def free_sizes(unet: nn.Module) -> None:
    """Replace, in place, the upsamplers of a UNet."""
    from diffusers.models.upsampling import Upsample2D

    for parent in list(unet.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Upsample2D):
                setattr(parent, name, SizedUpsample(child))
