"""Layers for the CPU compute what diffusers' do, from the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from models import tiny
from vcut_export import weights
from vcut_export.cpu_layers import SplitGEGLU, prefer_cpu_kernels
from vcut_export.temporal_decoder import TemporalConv


@pytest.mark.parametrize("bias", [True, False])
def test_two_projections_are_geglu(bias: bool) -> None:
    from diffusers.models.activations import GEGLU

    whole: Any = GEGLU(8, 20, bias=bias).requires_grad_(False)
    split, x = SplitGEGLU(whole), torch.randn(3, 5, 8)
    assert torch.allclose(split(x), whole(x), atol=1e-6)
    assert split.gate.weight.data_ptr() == whole.proj.weight[20:].data_ptr()  # no copy of the weights


def test_a_unet_computes_the_same() -> None:
    checkpoint = tiny(seed=2)
    own, changed = (weights.load_unet(checkpoint, "fp32", torch.float32) for _ in range(2))
    prefer_cpu_kernels(changed)
    kinds = [type(module) for module in changed.modules()]
    assert kinds.count(SplitGEGLU) == 16 + 2 * 16  # one in each spatial transformer, two in each temporal one
    assert kinds.count(TemporalConv) == 2 * 22
    assert nn.Conv3d not in kinds
    channels = own.config.out_channels
    inputs = (
        torch.randn(1, 3, 2 * channels, 8, 8),
        torch.tensor(0.5),
        torch.randn(1, 1, own.config.cross_attention_dim),
        torch.tensor([[6.0, 127.0, 0.02]]),
    )
    with torch.no_grad():
        wanted, got = (unet(*inputs, return_dict=False)[0] for unet in (own, changed))
    assert torch.allclose(got, wanted, atol=1e-4 * float(wanted.abs().max()))
