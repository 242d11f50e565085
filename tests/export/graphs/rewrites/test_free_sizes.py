"""Sizes that a UNet's levels do not halve evenly, against unmodified diffusers, which forwards the skips' sizes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import reference
from models import TINY, tiny
from vcut_export.graphs.rewrites.fold import project_cross_attention
from vcut_export.graphs.rewrites.free_sizes import SizedUpsample, free_sizes
from vcut_runtime import open_bundle
from vcut_runtime.backends import open_backend

BAR = 1e-5  # largest error relative to the output's largest magnitude


def relative(got: Any, expected: torch.Tensor) -> float:
    return float((torch.as_tensor(got) - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("size", [(9, 13), (15, 10), (1, 5), (8, 16)])
@torch.no_grad()
def test_the_upsamplers_are_diffusers_whatever_the_size(size: tuple[int, int]) -> None:
    from diffusers import UNetSpatioTemporalConditionModel

    config = {**tiny().configs["unet"], **TINY["unet"], "layers_per_block": 1}
    unet: Any = UNetSpatioTemporalConditionModel.from_config(config)
    unet.eval()
    changed = copy.deepcopy(unet)
    free_sizes(changed)
    assert sum(isinstance(module, SizedUpsample) for module in changed.modules()) == 3
    assert list(changed.state_dict()) == list(unet.state_dict())
    inputs = (torch.randn(1, 2, 8, *size), torch.tensor(0.3), torch.randn(1, 1, 64), torch.tensor([[6.0, 127.0, 0.02]]))
    assert torch.equal(changed(*inputs).sample, unet(*inputs).sample)


@pytest.mark.parametrize("size", [(13, 23), (12, 21), (17, 12), (16, 20)])
@torch.no_grad()
def test_a_graph_takes_sizes_that_it_was_not_traced_with(
    size: tuple[int, int], dynamic_bundle: Path, small_checkpoint: Path
) -> None:
    theirs = reference.load(small_checkpoint).unet
    projection = project_cross_attention(theirs, "remove")
    reference.take_out_tca(theirs)
    latents, z, e = torch.randn(1, 3, 4, *size), torch.randn(1, 4, *size), torch.randn(1, 1, projection.weight.shape[1])
    sigma, ids = torch.tensor([2.0]), torch.tensor([[6.0, 127.0, 0.02]])
    variance = sigma**2 + 1
    sample = torch.cat([latents / variance**0.5, z[:, None].expand_as(latents)], dim=2)
    denoised = latents / variance - theirs(sample, 0.25 * sigma.log(), e, ids).sample * sigma / variance**0.5

    backend = open_backend(open_bundle(dynamic_bundle), "onnxruntime-cpu")
    values = {
        "latents": latents,
        "image_latents": z,
        "sca_bias": e[0] @ projection.weight.T + projection.bias,
        "sigma": sigma,
        "added_time_ids": ids,
        "previous_denoised": torch.zeros_like(latents),
        "coefficients": torch.tensor([0.0, 1.0, 0.0]),
    }
    feed = {name: backend.upload(value.numpy()) for name, value in values.items()}
    outputs = backend.run("quality_improvement", feed)
    assert relative(backend.download(outputs["denoised"]), denoised) <= BAR
