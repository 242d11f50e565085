"""Feed-forwards that take large inputs in parts. This lowers a step's memory peak and changes no result."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class ChunkedFeedForward(nn.Module):
    """diffusers' ``FeedForward`` on parts of large inputs: its [rows, 8C] projection is a step's memory peak.

    Rows do not depend on each other, so the arithmetic is the same. How many parts follows from the traced shape: at
    576x1024 four at the first level and two at the second, which takes a third off a guided step's activation memory.
    """

    LIMIT = 640 << 20  # bytes of the projection of one part

    def __init__(self, feed_forward: Any) -> None:
        super().__init__()
        self.net = feed_forward.net  # the parameters keep their names
        self.width = feed_forward.net[0].proj.out_features

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Return the whole feed-forward's output for ``hidden_states`` [..., C]."""
        rows = hidden_states.numel() // hidden_states.shape[-1]
        parts = -(-rows * self.width * hidden_states.element_size() // self.LIMIT)
        if parts == 1:
            return self._part(hidden_states)
        # As many dimensions as a small input has: three become a MatMul, two a Gemm, which store weights differently.
        flat = hidden_states if hidden_states.dim() == 2 else hidden_states.reshape(1, rows, -1)
        split = flat.split(-(-rows // parts), dim=-2)
        return torch.cat([self._part(part) for part in split], dim=-2).reshape(hidden_states.shape)

    def _part(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for module in self.net:
            hidden_states = module(hidden_states)
        return hidden_states


def chunk_feed_forwards(unet: nn.Module) -> None:
    """Replace, in place, every GEGLU feed-forward of a UNet by one that takes large inputs in parts."""
    from diffusers.models.activations import GEGLU
    from diffusers.models.attention import FeedForward

    for parent in list(unet.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, FeedForward) and isinstance(child.net[0], GEGLU):
                setattr(parent, name, ChunkedFeedForward(child))
