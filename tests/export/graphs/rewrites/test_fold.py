"""Folding is exact: against unmodified diffusers attention and UNets with random weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from models import tiny
from vcut_export import resolve
from vcut_export.checkpoint import weights
from vcut_export.graphs.rewrites.fold import (
    ConstantBlend,
    FramePositionTable,
    fold,
    fold_blends,
    project_cross_attention,
)


@pytest.fixture(scope="module")
def unet() -> Any:
    return weights.load_unet(tiny(seed=2), "fp32", torch.float32)


def attn2_blocks(unet: Any, kind: str) -> list[Any]:
    return [m for m in unet.modules() if type(m).__name__ == kind and m.attn2 is not None]


def test_svd_has_16_sca_and_16_tca_blocks_of_the_paper_widths() -> None:
    from accelerate import init_empty_weights
    from diffusers import UNetSpatioTemporalConditionModel

    config = {k: v for k, v in resolve("svd-xt", random_weights=True).configs["unet"].items() if not k.startswith("_")}
    with init_empty_weights():
        full = UNetSpatioTemporalConditionModel(**config)
    channels = [block.attn2.to_out[0].out_features for block in attn2_blocks(full, "BasicTransformerBlock")]
    assert sorted(channels) == [320] * 5 + [640] * 5 + [1280] * 6
    assert sum(channels) == 12_480
    assert len(attn2_blocks(full, "TemporalBasicTransformerBlock")) == 16
    assert sum(p.numel() for p in full.parameters()) == pytest.approx(1.5246e9, rel=1e-4)


@pytest.mark.parametrize("tca", ["remove", "fold"])
def test_the_projection_is_every_attention_for_every_query(unet: Any, tca: Any) -> None:
    projection = project_cross_attention(unet, tca)
    e = torch.randn(1, 1, 64)
    blocks = attn2_blocks(unet, "BasicTransformerBlock")
    if tca == "fold":
        blocks += attn2_blocks(unet, "TemporalBasicTransformerBlock")
    assert len(projection.slices) == len(blocks)
    for embedding in (e, torch.zeros_like(e)):
        packed = projection.weight @ embedding[0, 0] + projection.bias
        for where, block in zip(projection.slices, blocks, strict=True):
            queries = torch.randn(1, 7, where.channels) * 10
            expected = block.attn2(queries, encoder_hidden_states=embedding)  # [1, 7, C], the same for all 7
            got = packed[where.offset : where.offset + where.channels]
            assert torch.allclose(expected, got.expand_as(expected), atol=1e-5 * float(expected.abs().max()))


def test_slices_name_their_blocks_sca_first(unet: Any) -> None:
    slices = project_cross_attention(unet, "fold").slices
    assert [s.kind for s in slices] == ["sca"] * 16 + ["tca"] * 16
    modules = dict(unet.named_modules())
    assert all(modules[s.block].attn2.to_out[0].out_features == s.channels for s in slices)


@pytest.mark.parametrize("frames", [1, 14, 30])
def test_frame_positions_are_the_embedding(unet: Any, frames: int) -> None:
    transformer = unet.mid_block.attentions[0]
    folded = copy.deepcopy(unet)
    state = fold(folded, project_cross_attention(folded, "remove"), frames)
    table = folded.mid_block.attentions[0].time_pos_embed
    assert isinstance(table, FramePositionTable)
    for rows, shown in ((2, frames), (1, frames), (2, (frames + 1) // 2)):  # a shorter video takes the first ones
        state.rows = torch.zeros(rows, 1)
        expected = transformer.time_pos_embed(transformer.time_proj(torch.arange(shown).repeat(rows)))
        assert torch.allclose(table(torch.zeros(rows * shown)), expected, atol=1e-6)


@torch.no_grad()
def test_the_shared_time_embedding_is_every_blocks_own(unet: Any) -> None:
    """Each residual block's projection of the time, in diffusers' UNet and in the folded one."""
    original, folded = copy.deepcopy(unet), copy.deepcopy(unet)
    projection = project_cross_attention(folded, "remove")
    state = fold(folded, projection, 3)
    state.rows = torch.zeros(2, len(projection.bias))
    seen: dict[str, list[torch.Tensor]] = {}
    for model in (original, folded):
        for name, module in model.named_modules():
            if name.endswith(".time_emb_proj"):
                module.register_forward_hook(lambda _, __, out, name=name: seen.setdefault(name, []).append(out))
    sample, e, ids = torch.randn(2, 3, 8, 8, 12), torch.randn(2, 1, 64), torch.tensor([[6.0, 127.0, 0.02]])
    for model in (original, folded):
        model(sample, torch.tensor([1.3]), e, ids.repeat(2, 1))
    assert len(seen) == 44  # 22 spatio-temporal residual blocks
    for name, (expected, got) in seen.items():
        assert got.numel() == expected.shape[-1], name  # one row for all
        assert torch.allclose(got.expand_as(expected), expected, atol=1e-5 * float(expected.abs().max())), name


@pytest.mark.parametrize("strategy", ["learned", "fixed", "learned_with_images"])
@pytest.mark.parametrize("switch", [False, True])
def test_blends_become_their_constants(strategy: str, switch: bool) -> None:
    from diffusers.models.resnet import AlphaBlender

    holder = torch.nn.Module()
    blend = AlphaBlender(0.3, strategy, switch)
    holder.time_mixer = blend
    spatial, temporal = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    expected = blend(spatial, temporal, torch.zeros(1, 2))
    fold_blends(holder)
    assert isinstance(holder.time_mixer, ConstantBlend)
    assert torch.allclose(holder.time_mixer(spatial, temporal, image_only_indicator=None), expected, atol=1e-6)


def test_what_never_mattered_is_gone(unet: Any) -> None:
    folded = copy.deepcopy(unet)
    fold(folded, project_cross_attention(folded, "remove"), 14)
    left = [name for name, _ in folded.named_parameters()]
    assert not [n for n in left if "attn2" in n or ("norm2.weight" in n and "transformer_blocks" in n)]
    assert not [n for n in left if "time_pos_embed" in n or "mix_factor" in n]


def test_a_folded_unet_without_a_step_says_so(unet: Any) -> None:
    folded = copy.deepcopy(unet)
    fold(folded, project_cross_attention(folded, "remove"), 2)
    with pytest.raises(RuntimeError, match="denoising step"):
        folded(torch.zeros(1, 2, 8, 8, 8), torch.tensor([0.0]), torch.zeros(1, 1, 1), torch.zeros(1, 3))
