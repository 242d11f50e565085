"""The VAE's temporal decoder, rearranged to take less memory. Its results stay the same.

Its memory peak is at the last level, whose tensors have the size of the frames: 302 MB for the 256 channels of a
frame at 576x1024. Three changes lower the peak from 917 to 480 MB a frame. The residual and the learned blend around
a temporal block become one addition. Temporal convolutions run on [1, C, n, h*w]. On request, the last level's
upsampling and first spatial block take a few frames at a time, because they look at one frame at a time anyway.
TensorRT-RTX's memory packing is sensitive to how this is written: measure after a change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vcut_export.graphs.rewrites.fold import spatial_weight


class TemporalConv(nn.Conv2d):
    """A (3, 1, 1) convolution over [1, C, n, h, w] as a (3, 1) one over [1, C, n, h*w]."""

    def __init__(self, conv: Any) -> None:
        kernel, padding = (conv.kernel_size[0], 1), (conv.padding[0], 0)
        super().__init__(conv.in_channels, conv.out_channels, kernel, padding=padding, device="meta")
        self.weight = nn.Parameter(conv.weight.squeeze(-1), requires_grad=False)
        self.bias = conv.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution of [1, C, n, h*w], or of [1, C, n, h, w] in that shape."""
        if input.dim() == 4:
            return super().forward(input)
        return super().forward(input.flatten(3)).unflatten(3, input.shape[3:])


class SpaceTimeBlock(nn.Module):
    """diffusers' ``SpatioTemporalResBlock`` for one video: ``x + a * temporal(x)``, ``x`` the spatial block's output.

    That is what its blend of ``x`` and ``x + temporal(x)`` amounts to; ``a`` is the blend's constant.
    """

    def __init__(self, block: Any, enter: nn.Module | None = None, frames_at_once: int | None = None) -> None:
        super().__init__()
        temporal = block.temporal_res_block
        if temporal.time_emb_proj is not None or temporal.conv_shortcut is not None:
            raise ValueError(
                "a temporal block with a time embedding or a shortcut does not belong in a VAE decoder: check the VAE"
            )
        self.enter = enter  # what the level begins with: the upsampling before it
        self.spatial_res_block = block.spatial_res_block
        self.temporal_res_block: Any = temporal
        temporal.conv1, temporal.conv2 = TemporalConv(temporal.conv1), TemporalConv(temporal.conv2)
        self.temporal_weight = 1.0 - spatial_weight(block.time_mixer).item()
        self.frames_at_once = frames_at_once

    def forward(self, hidden_states: torch.Tensor, temb: None = None, image_only_indicator: Any = None) -> torch.Tensor:
        """Return [n, C', h', w'] of [n, C, h, w]."""
        x = in_groups(self._spatial, hidden_states, self.frames_at_once)
        frames, channels, height, width = x.shape
        x = x.flatten(2)[None].permute(0, 2, 1, 3)  # [1, C, n, h*w]
        block = self.temporal_res_block
        y = block.conv1(block.nonlinearity(block.norm1(x)))
        y = block.conv2(block.nonlinearity(block.norm2(y)))
        x = x + self.temporal_weight * y
        return x.permute(0, 2, 1, 3).reshape(frames, channels, height, width)

    def _spatial(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.spatial_res_block(hidden_states if self.enter is None else self.enter(hidden_states), None)


def spare_memory(decoder: Any, frames_at_once: int | None = None) -> None:
    """Rearrange a ``TemporalDecoder`` in place; its last level's spatial layers take ``frames_at_once`` frames."""
    from diffusers.models.resnet import SpatioTemporalResBlock

    *_, before, last = [None, *decoder.up_blocks]
    enter = None
    if frames_at_once is not None and before is not None and before.upsamplers is not None:
        (enter,) = before.upsamplers
        before.upsamplers = None
    for parent in list(decoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SpatioTemporalResBlock):
                first = child is last.resnets[0]
                block = SpaceTimeBlock(child, enter, frames_at_once) if first else SpaceTimeBlock(child)
                setattr(parent, name, block)
    decoder.time_conv_out = TemporalConv(decoder.time_conv_out)


def in_groups(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, size: int | None) -> torch.Tensor:
    """Return ``function`` of ``x`` [n, ...], of ``size`` rows at a time."""
    return function(x) if size is None else torch.cat([function(part) for part in x.split(size)])
