"""Fold the parts of the UNet that never change although it computes them at every step.

SVD conditions on one CLIP image embedding ``e``. A cross-attention with a single key has a softmax of 1, so its output
is ``W_out (W_v e) + b_out`` for every query: a vector per block, the *SCA bias* (VCUT paper, III-C and III-D). Folding
spatial cross-attention (SCA) this way is exact. Temporal cross-attention (TCA) sees the same key: ``remove`` drops it
(the paper's method), ``fold`` keeps its constant, exactly.

Two more things are constant, and folding them is exact too: the frame position embedding (an MLP of
``arange(frames)``, 99 M of SVD-XT's parameters) becomes a table, and the learned space/time blend becomes a number. The
time embedding is the same for all frames and for both rows of guidance, so it is computed once instead of per frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from vcut_runtime.bundle.manifest import BiasSlice, Tca

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Projection:
    """The folded cross-attentions as one affine map ``sca_bias = weight @ e + bias``.

    ``weight`` is [N, cross_attention_dim], ``bias`` is [N], both float32; N is the width of ``sca_bias``
    (12,480 for SVD with ``--tca remove``). The unconditional row has ``e = 0``: ``bias`` alone.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    slices: tuple[BiasSlice, ...]


class StepState:
    """The values of one denoising step that its folded blocks share.

    The step writes its ``sca_bias`` rows; every folded attention reads its slice. The UNet's two embeddings write their
    sum; every residual block reads it. A full step's UNet writes the deep features; a shallow step writes them, and its
    UNet reads them.
    """

    def __init__(self) -> None:
        self.rows: torch.Tensor | None = None  # [B, N]
        self.time: torch.Tensor | None = None  # [B, channels], then, micro-conditioning added, [1, channels]
        self.features: torch.Tensor | None = None  # [B * F, channels, h, w], see deep_features


class FoldedCrossAttention(nn.Module):
    """Stands where ``attn2`` stood and adds that block's slice of the packed bias."""

    def __init__(self, state: StepState, where: BiasSlice) -> None:
        super().__init__()
        self.state, self.where = state, where

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        """Return the constant as [rows, 1, channels], ready to be added to ``hidden_states`` [rows, tokens, channels].

        Rows are the batch times the frames (SCA) or times the pixels (TCA), batch outermost in both.
        """
        bias = self.bias()
        batch, rows = bias.shape[0], hidden_states.shape[0]
        return bias[:, None].expand(batch, rows // batch, -1).reshape(rows, 1, -1)

    def bias(self) -> torch.Tensor:
        """Return this block's slice [B, C] of the packed bias."""
        if self.state.rows is None:
            raise RuntimeError("the packed bias is not set; run the UNet through a denoising step")
        return self.state.rows[:, self.where.offset : self.where.offset + self.where.channels]


class TimeEmbedding(nn.Module):
    """The UNet's ``time_embedding``, which also starts the sum that the residual blocks read."""

    def __init__(self, embedding: Any, state: StepState) -> None:
        super().__init__()
        self.embedding, self.state = embedding, state

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        """Return the embedding [B, channels] of the time."""
        embedded = self.embedding(sample)
        self.state.time = embedded
        return embedded


class MicroConditioning(TimeEmbedding):
    """The UNet's ``add_embedding``, which ends that sum: all rows have the same time and micro-conditioning."""

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        """Return the embedding [B, channels] of the micro-conditioning."""
        added = self.embedding(sample)
        if self.state.time is None:
            raise RuntimeError("the time is embedded before the micro-conditioning: check the UNet")
        self.state.time = (self.state.time + added)[:1]
        return added


class SharedTimeProjection(nn.Linear):
    """A residual block's ``time_emb_proj``: one row for all, where diffusers repeats it for every frame."""

    def __init__(self, projection: Any, state: StepState) -> None:
        super().__init__(projection.in_features, projection.out_features, device="meta")
        self.weight, self.bias, self.state = projection.weight, projection.bias, state

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return [1, channels], or [1, 1, channels] for a temporal block, whatever ``input`` holds."""
        if self.state.time is None:
            raise RuntimeError("the time is not embedded; run the UNet through a denoising step")
        row = super().forward(nn.functional.silu(self.state.time))
        return row if input.dim() == 2 else row[None]


class FramePositionTable(nn.Module):
    """The frame position embedding for up to ``frames`` frames: a [frames, channels] table."""

    def __init__(self, table: torch.Tensor, state: StepState) -> None:
        super().__init__()
        self.state = state
        self.register_buffer("table", table)
        self.table: torch.Tensor

    def forward(self, frame_embedding: torch.Tensor) -> torch.Tensor:
        """Return [batch * frames, channels], whatever ``frame_embedding`` [batch * frames] holds."""
        if self.state.rows is None:
            raise RuntimeError("the packed bias is not set; run the UNet through a denoising step")
        batch = self.state.rows.shape[0]
        frames = frame_embedding.shape[0] // batch
        return self.table[:frames].repeat(batch, 1)


class ConstantBlend(nn.Module):
    """``AlphaBlender`` for videos (never single images), whose weights are then constants."""

    def __init__(self, blend: Any) -> None:
        super().__init__()
        weight, dtype = spatial_weight(blend), torch.as_tensor(blend.mix_factor).dtype
        self.register_buffer("spatial", weight.to(dtype))
        self.register_buffer("temporal", (1.0 - weight).to(dtype))
        self.spatial: torch.Tensor
        self.temporal: torch.Tensor

    def forward(self, x_spatial: torch.Tensor, x_temporal: torch.Tensor, **_: Any) -> torch.Tensor:
        """Return the weighted sum of two tensors of one shape."""
        return self.spatial * x_spatial + self.temporal * x_temporal


def project_cross_attention(unet: nn.Module, tca: Tca) -> Projection:
    """Compose every SCA (and, for ``tca="fold"``, TCA) of an unmodified ``unet`` into one affine map (Eq. 4's L)."""
    weights, biases, slices, offset = [], [], [], 0
    blocks = sorted(_cross_attentions(unet), key=lambda block: block[0])  # stable: all SCA first, then all TCA
    for kind, name, block in blocks:
        if kind == "tca" and tca == "remove":
            continue
        to_v, to_out = block.attn2.to_v, block.attn2.to_out[0]
        weight = to_out.weight.double() @ to_v.weight.double()  # [C, cross_attention_dim]
        bias = weight.new_zeros(weight.shape[0]) if to_out.bias is None else to_out.bias.double()
        if to_v.bias is not None:
            bias = bias + to_out.weight.double() @ to_v.bias.double()
        weights.append(weight.float())
        biases.append(bias.float())
        slices.append(BiasSlice(name, kind, offset, weight.shape[0]))
        offset += weight.shape[0]
    if not slices:
        raise ValueError("the UNet has no cross-attention block, so there is nothing to fold: check its block types")
    return Projection(torch.cat(weights).detach(), torch.cat(biases).detach(), tuple(slices))


def fold(unet: nn.Module, projection: Projection, frames: int) -> StepState:
    """Replace, in place, the layers that ``projection`` and at most ``frames`` frames make constant.

    A cross-attention without a slice in ``projection`` is removed. Afterwards the UNet ignores the values of
    ``encoder_hidden_states``. It reads its bias and time from the returned state.
    """
    state = StepState()
    where = {(s.kind, s.block): s for s in projection.slices}
    for kind, name, block in list(_cross_attentions(unet)):
        place = where.get((kind, name))
        block.norm2 = nn.Identity()  # fed only the queries, which never mattered
        block.attn2 = None if place is None else FoldedCrossAttention(state, place)
    module: Any
    for module in list(unet.modules()):
        if hasattr(module, "time_pos_embed"):
            module.time_pos_embed = FramePositionTable(_frame_positions(module, frames), state)
            module.time_proj = nn.Identity()  # the table needs the number of rows only
        if isinstance(getattr(module, "time_emb_proj", None), nn.Linear):
            module.time_emb_proj = SharedTimeProjection(module.time_emb_proj, state)
    whole: Any = unet
    whole.time_embedding = TimeEmbedding(whole.time_embedding, state)
    whole.add_embedding = MicroConditioning(whole.add_embedding, state)
    fold_blends(unet)
    return state


def fold_blends(model: nn.Module) -> None:
    """Replace, in place, every learned space/time blend of a UNet by its constant."""
    from diffusers.models.resnet import AlphaBlender

    module: Any
    for module in list(model.modules()):
        blend: Any = getattr(module, "time_mixer", None)
        if isinstance(blend, AlphaBlender):
            module.time_mixer = ConstantBlend(blend)


def spatial_weight(blend: Any) -> torch.Tensor:
    """Return the weight [1], float32, that a space/time blend gives to the spatial side of a video."""
    factor = torch.as_tensor(blend.mix_factor).detach().float()
    alpha = factor if blend.merge_strategy == "fixed" else torch.sigmoid(factor)
    return 1.0 - alpha if blend.switch_spatial_to_temporal_mix else alpha


def _cross_attentions(unet: nn.Module) -> Iterator[tuple[Literal["sca", "tca"], str, Any]]:
    from diffusers.models.attention import BasicTransformerBlock, TemporalBasicTransformerBlock

    for name, module in unet.named_modules():
        if getattr(module, "attn2", None) is None:
            continue
        if isinstance(module, BasicTransformerBlock):
            yield "sca", name, module
        elif isinstance(module, TemporalBasicTransformerBlock):
            yield "tca", name, module


def _frame_positions(transformer: Any, frames: int) -> torch.Tensor:
    """Run ``time_proj`` and ``time_pos_embed`` once, in float32, for frames 0 .. frames-1: [frames, channels]."""
    weight = transformer.time_pos_embed.linear_1.weight
    dtype, numbers = weight.dtype, torch.arange(frames, device=weight.device)
    with torch.no_grad():
        return transformer.time_pos_embed.float()(transformer.time_proj(numbers).float()).to(dtype)
