"""The rearranged decoder computes what diffusers' does, and overlapping chunks hide their seams. Weights are random."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from models import tiny
from vcut_export.checkpoint import weights
from vcut_export.graphs.modules import Decode
from vcut_export.graphs.rewrites.temporal_decoder import SpaceTimeBlock, TemporalConv
from vcut_runtime.decoding import decode_chunks


@pytest.fixture(scope="module")
def vae() -> Any:
    vae = weights.load_vae(tiny(seed=3), "fp32", torch.float32)
    for name, parameter in vae.decoder.named_parameters():
        if name.endswith("mix_factor"):
            torch.nn.init.normal_(parameter)  # every block another blend
    return vae


@torch.no_grad()
def whole(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """diffusers' own decoder, as 8-bit levels before rounding."""
    pixels = vae.decode(latents / vae.config.scaling_factor, num_frames=len(latents)).sample
    return ((pixels / 2 + 0.5).clamp(0, 1) * 255).permute(0, 2, 3, 1)


@pytest.mark.parametrize(("frames_at_once", "attention_parts"), [(None, 1), (1, 1), (2, 5), (7, 96)])
def test_the_same_levels_as_diffusers(vae: Any, frames_at_once: int | None, attention_parts: int) -> None:
    latents = torch.randn(5, 4, 8, 12)
    expected = whole(vae, latents)
    with torch.no_grad():
        got = Decode(copy.deepcopy(vae), frames_at_once, attention_parts)(latents)
    assert expected.std() > 10
    assert (got.float() - expected).abs().max() <= 0.51  # rounding, and what rounding makes of the last digits


def test_the_last_level_takes_a_few_frames_at_a_time(vae: Any) -> None:
    decode = Decode(copy.deepcopy(vae), 2)
    rows: list[int] = []
    first = decode.decoder.up_blocks[-1].resnets[0]
    assert isinstance(first, SpaceTimeBlock)
    assert decode.decoder.up_blocks[-2].upsamplers is None
    first.spatial_res_block.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    with torch.no_grad():
        decode(torch.randn(5, 4, 8, 12))
    assert rows == [2, 2, 1]


@pytest.mark.parametrize("shape", [(1, 3, 5, 4, 6), (1, 3, 5, 24)])
def test_temporal_convolutions_in_two_dimensions(shape: tuple[int, ...]) -> None:
    conv = torch.nn.Conv3d(3, 2, (3, 1, 1), padding=(1, 0, 0))
    x = torch.randn(shape)
    expected = conv(x.reshape(1, 3, 5, 4, 6))
    assert torch.allclose(TemporalConv(conv)(x).reshape(expected.shape), expected, atol=1e-6)


def test_overlap_hides_the_seams_of_chunks(vae: Any) -> None:
    """A smooth video: what a seam adds to the change between its two frames, against decoding all frames at once."""
    draw = np.random.default_rng(0)
    start, end = (torch.from_numpy(draw.standard_normal((4, 8, 12), dtype=np.float32)) for _ in range(2))
    latents = torch.stack([torch.lerp(start, end, t / 24) for t in range(25)])
    expected = whole(vae, latents).diff(dim=0)

    def seam_error(overlap: int) -> float:
        chunks = decode_chunks(25, 11, overlap)
        frames = [whole(vae, latents[c.start : c.stop])[c.keep_from - c.start : c.keep_to - c.start] for c in chunks]
        got = torch.cat(frames).diff(dim=0)
        seams = [chunk.keep_to - 1 for chunk in chunks[:-1]]
        return float((got - expected)[seams].square().mean().sqrt())

    assert seam_error(0) > 5
    assert seam_error(2) < seam_error(0) / 4
