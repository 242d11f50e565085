"""Shallow steps: a UNet that takes the deep layers' features from an earlier step (DeepCache, Ma et al., CVPR 2024).

The input of the UNet's last layer changes little from step to step. A full step gives it as ``deep_features``. A
shallow step takes it and computes only the rest of the UNet, around its outermost skip connection: ``conv_in``, the
last residual block and transformer of the last up block, and ``conv_out``. The ``DeepCache`` package computes the
same with ``cache_branch_id=0``. With features of the same step, the shallow step equals the full step.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from vcut_export.graphs.rewrites.fold import StepState


class _HandsOn(nn.Module):
    """The layer before the last one. It also writes its output to the step's state."""

    def __init__(self, layer: Any, state: StepState) -> None:
        super().__init__()
        self.layer, self.state = layer, state

    def forward(self, *inputs: Any, **options: Any) -> Any:
        result = self.layer(*inputs, **options)
        self.state.features = result if isinstance(result, torch.Tensor) else result[0]
        return result


class _TakesOver(nn.Module):
    """Replaces the middle block: it gives the deep features of an earlier step."""

    def __init__(self, state: StepState) -> None:
        super().__init__()
        self.state = state

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        if self.state.features is None:
            raise RuntimeError("the deep features are not set; run the UNet through a shallow denoising step")
        return self.state.features


def split_unet(unet: Any, state: StepState) -> Any:
    """Make a folded ``unet`` give its deep features, in place, and return the shallow UNet that takes them.

    Both are the same modules under the same names, so that their graphs share weights.
    """
    block = unet.up_blocks[-1]
    layers = {kind: getattr(block, kind) for kind in ("resnets", "attentions") if hasattr(block, kind)}
    last_layer = _with_modules(block, **{kind: _last_of(modules) for kind, modules in layers.items()})
    shallow = _with_modules(
        unet,
        down_blocks=nn.ModuleList(),
        mid_block=_TakesOver(state),
        up_blocks=_last_of(unet.up_blocks, last_layer),
    )
    outermost = layers.get("attentions", block.resnets)
    outermost[-2] = _HandsOn(outermost[-2], state)
    return shallow


def _last_of(layers: Any, last: Any = None) -> nn.ModuleList:
    """Return a list of the last of ``layers`` alone, or of its replacement, under its name."""
    result = nn.ModuleList()
    result.add_module(str(len(layers) - 1), layers[-1] if last is None else last)
    return result


def _with_modules(module: Any, **modules: nn.Module) -> Any:
    """Return a copy of ``module`` with other children. It shares everything else."""
    result = copy.copy(module)
    result._modules = {**module._modules, **modules}
    return result
