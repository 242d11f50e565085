"""The graphs of a bundle as torch modules: what is traced is exactly what the bundle computes.

Inputs and outputs are those of the graphs' records, in their order (``vcut_runtime.bundle.graph``). Latents and sigma
arithmetic stay float32; only the network bodies run in the bundle's precision. Shapes: F frames, H x W pixels, h x w
latent pixels, N the width of ``sca_bias``, C channels of latents, D of deep features.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn

from vcut_export.graphs.rewrites.fold import Projection, StepState
from vcut_export.graphs.rewrites.temporal_decoder import spare_memory


class _DenoisingStep(nn.Module):
    """A folded UNet inside one step of a v-prediction sampler (Karras et al. 2022; SVD's noise schedule).

    A UNet that gives its deep features (``deep_features.split_unet``) makes them the step's last output. The shallow
    UNet takes them as the step's last input.
    """

    def __init__(self, unet: nn.Module, state: StepState) -> None:
        super().__init__()
        self.unet: Any = unet
        self.state = state

    def velocity(
        self,
        model_input: torch.Tensor,  # [B, F, 2C, h, w]
        sca_bias: torch.Tensor,  # [B, N]
        sigma: torch.Tensor,  # [1]
        added_time_ids: torch.Tensor,  # [1, 3]
        deep_features: torch.Tensor | None,  # [B, F, D, h, w]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:  # [B, F, C, h, w], float32, and the deep features, if any
        dtype = self.unet.conv_in.weight.dtype
        batch, frames = model_input.shape[:2]
        self.state.rows = sca_bias.to(dtype)
        self.state.features = None if deep_features is None else deep_features.to(dtype).flatten(0, 1)
        try:
            v = self.unet(
                model_input.to(dtype),
                0.25 * torch.log(sigma),
                encoder_hidden_states=model_input.new_zeros(batch, 1, 1, dtype=dtype),  # ignored, see fold()
                added_time_ids=added_time_ids.expand(batch, -1),
                return_dict=False,
            )[0].float()
            if deep_features is not None or self.state.features is None:
                return v, ()
            features = self.state.features.unflatten(0, (batch, frames))
            return v, (features.float() if dtype == torch.bfloat16 else features,)
        finally:
            self.state.rows = self.state.time = self.state.features = None


class SemanticBinding(_DenoisingStep):
    """One step of the semantic binding stage: classifier-free guidance, both rows in one batch."""

    def forward(
        self,
        latents: torch.Tensor,  # [1, F, C, h, w]
        image_latents: torch.Tensor,  # [1, C, h, w]
        sca_bias: torch.Tensor,  # [2, N], row 0 unconditional
        sigma: torch.Tensor,  # [1]
        added_time_ids: torch.Tensor,  # [1, 3]: fps - 1, motion bucket, noise augmentation
        previous_denoised: torch.Tensor,  # [1, F, C, h, w]
        coefficients: torch.Tensor,  # [3]
        guidance_scale: torch.Tensor,  # [F]
        deep_features: torch.Tensor | None = None,  # [2, F, D, h, w]
    ) -> tuple[torch.Tensor, ...]:  # next latents and denoised [1, F, C, h, w], and the deep features
        image = image_latents[:, None].expand_as(latents)
        scaled = latents * torch.rsqrt(sigma * sigma + 1.0)
        both = torch.cat([scaled, scaled])
        condition = torch.cat([torch.zeros_like(image), image])
        model_input = torch.cat([both, condition], dim=2)
        v, features = self.velocity(model_input, sca_bias, sigma, added_time_ids, deep_features)
        unconditional, conditional = v[:1], v[1:]
        v = unconditional + guidance_scale[None, :, None, None, None] * (conditional - unconditional)
        return *_update(latents, v, sigma, previous_denoised, coefficients), *features


class QualityImprovement(_DenoisingStep):
    """One step of the quality improvement stage: the conditional row alone."""

    def forward(
        self,
        latents: torch.Tensor,  # [1, F, C, h, w]
        image_latents: torch.Tensor,  # [1, C, h, w]
        sca_bias: torch.Tensor,  # [1, N]
        sigma: torch.Tensor,  # [1]
        added_time_ids: torch.Tensor,  # [1, 3]
        previous_denoised: torch.Tensor,  # [1, F, C, h, w]
        coefficients: torch.Tensor,  # [3]
        deep_features: torch.Tensor | None = None,  # [1, F, D, h, w]
    ) -> tuple[torch.Tensor, ...]:  # next latents and denoised [1, F, C, h, w], and the deep features
        image = image_latents[:, None].expand_as(latents)
        scaled = latents * torch.rsqrt(sigma * sigma + 1.0)
        model_input = torch.cat([scaled, image], dim=2)
        v, features = self.velocity(model_input, sca_bias, sigma, added_time_ids, deep_features)
        return *_update(latents, v, sigma, previous_denoised, coefficients), *features


def _update(
    latents: torch.Tensor,
    v: torch.Tensor,
    sigma: torch.Tensor,
    previous_denoised: torch.Tensor,
    coefficients: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the next latents and the denoised ones (x0) of a v-prediction; the coefficients are the sampler's."""
    variance = sigma * sigma + 1.0
    denoised = latents / variance - v * (sigma * torch.rsqrt(variance))
    k0, k1, k2 = coefficients[0], coefficients[1], coefficients[2]
    return k0 * latents + k1 * denoised + k2 * previous_denoised, denoised


class Condition(nn.Module):
    """Everything that depends on the input image: its VAE latents and the packed bias of every folded block."""

    resize_rows: torch.Tensor  # [S, H], S the image encoder's size
    resize_columns: torch.Tensor  # [W, S]
    mean: torch.Tensor  # [1, 3, 1, 1]
    std: torch.Tensor

    def __init__(
        self,
        image_encoder: Any,
        vae: Any,
        projection: Projection,
        feature_extractor: dict[str, Any],
        height: int | None = None,
        width: int | None = None,
        attention_parts: int = 1,
    ) -> None:
        """Hold the matrices that resize ``height`` x ``width`` pixels; without these sizes, take them as inputs.

        ``attention_parts`` says in how many parts the VAE's middle block takes its queries.
        """
        super().__init__()
        size = image_encoder.config.image_size
        self.image_encoder: Any = image_encoder
        self.vae_encoder, self.quant_conv = vae.encoder, vae.quant_conv
        self.projection = nn.Linear(projection.weight.shape[1], projection.weight.shape[0])
        self.projection.weight = nn.Parameter(projection.weight, requires_grad=False)
        self.projection.bias = nn.Parameter(projection.bias, requires_grad=False)
        _explicit_attention(self.vae_encoder, attention_parts)
        if height is not None and width is not None:
            self.register_buffer("resize_rows", resize_matrix(height, size))
            self.register_buffer("resize_columns", resize_matrix(width, size).T.contiguous())
        for name, value in {
            "mean": torch.tensor(feature_extractor["image_mean"]).reshape(1, 3, 1, 1),
            "std": torch.tensor(feature_extractor["image_std"]).reshape(1, 3, 1, 1),
        }.items():
            self.register_buffer(name, value)

    def forward(
        self,
        image: torch.Tensor,  # [1, 3, H, W] in [0, 1]
        noise: torch.Tensor,  # [1, 3, H, W], standard normal
        noise_aug_strength: torch.Tensor,  # [1]
        resize_rows: torch.Tensor | None = None,  # [S, H]
        resize_columns: torch.Tensor | None = None,  # [W, S]
    ) -> tuple[torch.Tensor, torch.Tensor]:  # image_latents [1, C, h, w], sca_bias [2, N]
        augmented = image * 2.0 - 1.0 + noise_aug_strength * noise
        moments = self.quant_conv(self.vae_encoder(augmented.to(self.quant_conv.weight.dtype)))
        image_latents = moments[:, : moments.shape[1] // 2].float()  # the mode; SVD leaves it unscaled

        rows = self.resize_rows if resize_rows is None else resize_rows
        columns = self.resize_columns if resize_columns is None else resize_columns
        pixels = (rows @ image @ columns - self.mean) / self.std
        dtype = self.image_encoder.visual_projection.weight.dtype
        embedding = self.image_encoder(pixels.to(dtype)).image_embeds.float()  # [1, cross_attention_dim]
        unconditional = self.projection.bias[None]
        return image_latents, torch.cat([unconditional, self.projection(embedding)])


class Decode(nn.Module):
    """Latents of one chunk of n frames to 8-bit RGB, with diffusers' rounding.

    ``frames_at_once`` bounds how many frames the last level's spatial layers take at a time; see ``temporal_decoder``.
    ``attention_parts`` says in how many parts the middle block's attention takes its queries.
    """

    def __init__(self, vae: Any, frames_at_once: int | None = None, attention_parts: int = 1) -> None:
        super().__init__()
        self.decoder: Any = vae.decoder
        self.scaling_factor = float(vae.config.scaling_factor)
        spare_memory(self.decoder, frames_at_once)
        _explicit_attention(self.decoder, attention_parts)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:  # [n, C, h, w] -> [n, H, W, 3] uint8
        frames = latents.shape[0]
        latents = (latents / self.scaling_factor).to(self.decoder.conv_in.weight.dtype)
        indicator = latents.new_zeros(1, frames)
        pixels = self.decoder(latents, image_only_indicator=indicator, num_frames=frames).float()
        pixels = (pixels / 2.0 + 0.5).clamp(0.0, 1.0)
        return torch.round(pixels.permute(0, 2, 3, 1) * 255.0).to(torch.uint8)


def resize_matrix(pixels: int, size: int) -> torch.Tensor:
    """One axis of diffusers' antialiased resize as a matrix [size, pixels].

    Blur and bicubic interpolation are linear and separable, so the whole resize is ``rows @ image @ columns``: two
    products, without padding, convolution or Resize nodes. The matrix is read off diffusers' own function with unit
    impulses, one per input row, which is how it stays the reference's whatever that function does.
    """
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing

    impulses = torch.eye(pixels).reshape(1, pixels, pixels, 1).expand(1, pixels, pixels, 4)  # one channel per impulse
    response = _resize_with_antialiasing(impulses, (size, 4))  # [1, pixels, size, 4], constant along the last axis
    return response[0, :, :, 0].T.contiguous()


class _ExplicitAttention:
    """Attention of the VAE's middle block as two matrix products: TensorRT has no fused kernel for head size 512.

    Its scores grow with the square of the pixels. So it takes its queries in ``parts``, which bounds the memory.
    """

    def __init__(self, parts: int) -> None:
        self.parts = parts

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *_: Any, temb: None = None, **__: Any) -> torch.Tensor:
        residual = hidden_states
        rows, channels, height, width = hidden_states.shape
        tokens = attn.group_norm(hidden_states.flatten(2)).transpose(1, 2)  # [rows, h*w, C]
        query, key, value = (
            projection(tokens).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for projection in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = query * attn.scale, key.transpose(2, 3)
        if self.parts == 1:
            mixed = torch.softmax(query @ key, dim=-1) @ value
        else:
            ends = [query.shape[2] * i // self.parts for i in range(self.parts + 1)]
            queries = [query[:, :, start:end] for start, end in pairwise(ends)]
            mixed = torch.cat([torch.softmax(part @ key, dim=-1) @ value for part in queries], dim=2)
        mixed = mixed.transpose(1, 2).flatten(2)
        mixed = attn.to_out[0](mixed).transpose(1, 2).reshape(rows, channels, height, width)
        return (mixed + residual if attn.residual_connection else mixed) / attn.rescale_output_factor


def _explicit_attention(model: nn.Module, parts: int) -> None:
    from diffusers.models.attention_processor import Attention

    for module in model.modules():
        if isinstance(module, Attention):
            module.set_processor(_ExplicitAttention(parts))  # pyright: ignore[reportArgumentType]
