"""Layers for the CPU compute what diffusers' do, from the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import nn

from models import tiny
from vcut_export.checkpoint import weights
from vcut_export.graphs.modules import QualityImprovement
from vcut_export.graphs.rewrites.cpu_layers import BlendedResBlock, FlatTransformer, SplitGEGLU, prefer_cpu_kernels
from vcut_export.graphs.rewrites.fold import fold, project_cross_attention
from vcut_export.graphs.rewrites.temporal_decoder import TemporalConv
from vcut_runtime.bundle.manifest import Tca


@pytest.mark.parametrize("bias", [True, False])
def test_two_projections_are_geglu(bias: bool) -> None:
    from diffusers.models.activations import GEGLU

    whole: Any = GEGLU(8, 20, bias=bias).requires_grad_(False)
    split, x = SplitGEGLU(whole), torch.randn(3, 5, 8)
    assert torch.allclose(split(x), whole(x), atol=1e-6)
    assert split.gate.weight.data_ptr() == whole.proj.weight[20:].data_ptr()  # no copy of the weights


@pytest.mark.parametrize("tca", ["fold", "remove"])
def test_a_step_computes_the_same(tca: Tca) -> None:
    checkpoint, frames = tiny(seed=2), 3
    own, changed = (weights.load_unet(checkpoint, "fp32", torch.float32) for _ in range(2))
    projection = project_cross_attention(own, tca)
    steps = [QualityImprovement(unet, fold(unet, projection, frames)) for unet in (own, changed)]
    prefer_cpu_kernels(changed)
    kinds = [type(module) for module in changed.modules()]
    assert kinds.count(SplitGEGLU) == 16 + 2 * 16  # one in each spatial transformer, two in each temporal one
    assert kinds.count(BlendedResBlock) == 22
    assert kinds.count(TemporalConv) == 2 * 22
    assert nn.Conv3d not in kinds
    assert kinds.count(FlatTransformer) == 16
    assert TransformerSpatioTemporalModel not in kinds
    channels = own.config.out_channels
    inputs = (
        torch.randn(1, frames, channels, 8, 8),
        torch.randn(1, channels, 8, 8),
        projection.bias[None],
        torch.tensor([2.0]),
        torch.tensor([[6.0, 127.0, 0.02]]),
        torch.randn(1, frames, channels, 8, 8),
        torch.tensor([0.5, 0.4, 0.1]),
    )
    with torch.no_grad():
        expected, results = (step(*inputs) for step in steps)
    for result, reference in zip(results, expected, strict=True):
        assert torch.allclose(result, reference, atol=1e-4 * float(reference.abs().max()))
