"""Sizes that a UNet's levels do not halve evenly: each upsampling returns to the size of the skip that it meets.

480 pixels are 60 latent rows, then 30, 15 and 8: twice 8 is one row too many. diffusers hands the skip's size to its
upsamplers if it sees such a size. A graph with free sizes must always do so, because it sees no size while it is traced.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class SizedUpsample(nn.Module):
    """diffusers' ``Upsample2D`` with nearest-neighbour interpolation, without its tests of sizes."""

    def __init__(self, upsample: Any) -> None:
        super().__init__()
        self.conv = upsample.conv

    def forward(self, hidden_states: torch.Tensor, output_size: Any = None) -> torch.Tensor:
        """Return [rows, C', *output_size] of [rows, C, h, w]."""
        if output_size is None:
            raise ValueError("a UNet with free sizes must be traced at a size that it does not halve evenly")
        return self.conv(functional.interpolate(hidden_states, size=output_size, mode="nearest"))


def free_sizes(unet: nn.Module) -> None:
    """Replace, in place, the upsamplers of a UNet."""
    from diffusers.models.upsampling import Upsample2D

    for parent in list(unet.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Upsample2D):
                setattr(parent, name, SizedUpsample(child))
