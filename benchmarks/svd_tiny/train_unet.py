"""The second half of the training: UNet and image encoder together, on latents of clips, as SVD does it.

EDM's preconditioning with v-prediction (Karras et al. 2022; SVD, appendix D): the UNet sees ``x / sqrt(sigma^2 + 1)``
at time ``0.25 ln sigma`` and predicts v, whose error counts alike at every noise level.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from svd_tiny import clips
from svd_tiny.model import build, image_embedding
from svd_tiny.start import start_unet
from svd_tiny.state import Training
from svd_tiny.train_vae import pixels

BATCH = 4  # of each process
REPLAY, FIRST, FRESH = 4096, 128, 2  # clips kept, made before the first step, and the steps between two new ones
SIGMAS = (0.2, 0.6, 2.0, 6.0, 20.0)  # of the held-out losses


@dataclass(frozen=True)
class Example:
    """A clip as the UNet's training sees it."""

    latents: torch.Tensor  # [F, C, h, w], unit variance
    image: torch.Tensor  # [3, H, W] in -1..1, the first frame
    fps: int
    motion_bucket_id: int


@dataclass(frozen=True)
class Batch:
    """Examples with what the conditions are made of."""

    latents: torch.Tensor  # [B, F, C, h, w]
    images: torch.Tensor  # [B, 3, H, W]
    image_latents: torch.Tensor  # [B, C, h, w], of the augmented images, unscaled
    ids: torch.Tensor  # [B, 3]: fps - 1, motion_bucket_id, noise_aug_strength


def train_unet(folder: Path, vae: Any, scale: float, steps: int, seed: int) -> tuple[Any, Any]:
    """Train for ``steps`` steps; return the UNet and the image encoder, averaged."""
    unet, encoder = build("unet", seed), build("image_encoder", seed)
    start_unet(unet, scale)
    modules = nn.ModuleDict({"unet": unet, "image_encoder": encoder})
    ends = ("unet.conv_in", "unet.conv_out")
    matrices = [name for name, p in unet.named_parameters(prefix="unet") if p.ndim > 1 and not name.startswith(ends)]
    common: dict[str, Any] = {"rate": 1e-3, "average": 0.998, "warmup": 100, "matrices": matrices}
    state = Training("unet", modules, folder, steps=steps, **common)
    if state.step >= steps:
        return _finished(state)
    quick, averaged = Quick(unet), Quick(state.averaged["unet"])

    def new(index: int) -> Example:
        return example(vae, scale, seed, index * state.processes + state.rank)

    replay = deque([new(state.step // FRESH + i) for i in range(FIRST)], REPLAY)
    held_out = [example(vae, scale, seed, i, "held-out") for i in range(16)]
    fixed = collate(vae, held_out, np.random.default_rng(0), torch.Generator().manual_seed(0))

    def step() -> dict[str, float]:
        rng = np.random.default_rng([seed, 2, state.step, state.rank])
        generator = torch.Generator().manual_seed(state.step * state.processes + state.rank)
        if state.step % FRESH == 0:
            replay.append(new(state.step // FRESH + FIRST))
        batch = collate(vae, [replay[i] for i in rng.integers(len(replay), size=BATCH)], rng, generator)
        loss = v_loss(quick, encoder, batch, draw_sigmas(rng, BATCH), generator, drop=rng.random(BATCH))
        norm = state.update(loss.mean())
        return {"loss": float(loss.detach().mean()), "gradient": norm}

    def report() -> dict[str, float]:
        losses = {}
        for sigma in SIGMAS:
            generator = torch.Generator().manual_seed(1)
            sigmas, keep = torch.full((len(held_out),), sigma), np.ones(len(held_out))
            loss = v_loss(averaged, state.averaged["image_encoder"], fixed, sigmas, generator, drop=keep)
            losses[f"held_out_{sigma:g}"] = float(loss.mean())
        return losses

    state.run(step, 250, report)
    return _finished(state)


def _finished(state: Training) -> tuple[Any, Any]:
    finished = state.finish()
    return finished["unet"], finished["image_encoder"]


def example(vae: Any, scale: float, seed: int, index: int, split: clips.Split = "train") -> Example:
    """Make the example of an index; ``split`` decides about photographs."""
    clip = clips.clip(seed * 10_000_000 + 20_000 + index, split)
    frames = pixels(clip.frames)
    with torch.no_grad():
        latents = vae.encode(frames).latent_dist.mode() * scale
    return Example(latents, frames[0], clip.fps, clip.motion_bucket_id)


def collate(vae: Any, examples: list[Example], rng: np.random.Generator, generator: torch.Generator) -> Batch:
    """Make a batch; noise augmentation of the images is SVD's, ln of its strength being N(-3, 0.5)."""
    images = torch.stack([e.image for e in examples])
    strength = torch.from_numpy(np.exp(rng.normal(-3.0, 0.5, len(examples)))).float()
    noise = torch.randn(images.shape, generator=generator)
    with torch.no_grad():
        image_latents = vae.encode(images + strength[:, None, None, None] * noise).latent_dist.mode()
    ids = torch.tensor([[e.fps - 1.0, e.motion_bucket_id, 0.0] for e in examples])
    ids[:, 2] = strength
    return Batch(torch.stack([e.latents for e in examples]), images, image_latents, ids)


def draw_sigmas(rng: np.random.Generator, count: int) -> torch.Tensor:
    """Draw noise levels: log-normal where a video takes shape, some from the first steps of sampling, up to 700."""
    usual = np.exp(rng.normal(0.6, 1.5, count))
    early = np.exp(rng.uniform(np.log(20.0), np.log(700.0), count))
    return torch.from_numpy(np.where(rng.random(count) < 0.1, early, usual)).float()


def v_loss(
    unet: Any, encoder: Any, batch: Batch, sigmas: torch.Tensor, generator: torch.Generator, drop: np.ndarray
) -> torch.Tensor:
    """Return the mean squared error of v [B] at noise levels ``sigmas`` [B].

    ``drop`` [B] in 0..1: below 0.1 both conditions are zeros, as in guidance, below 0.14 and 0.18 either.
    """
    sigma = sigmas[:, None, None, None, None]
    noise = torch.randn(batch.latents.shape, generator=generator)
    x = batch.latents + sigma * noise
    v = (noise - sigma * batch.latents) / (sigma**2 + 1).sqrt()
    seen = torch.from_numpy(drop >= 0.14).float()
    looked = torch.from_numpy((drop >= 0.1) & ((drop < 0.14) | (drop >= 0.18))).float()
    embedding = image_embedding(encoder, batch.images) * seen[:, None, None]
    image = batch.image_latents * looked[:, None, None, None]
    sample = torch.cat([x / (sigma**2 + 1).sqrt(), image[:, None].expand_as(x)], dim=2)
    predicted = unet(sample, 0.25 * sigmas.log(), embedding, batch.ids, return_dict=False)[0]
    return (predicted - v).square().flatten(1).mean(1)


class Quick(nn.Module):
    """A UNet computed in less time: in bfloat16, but for its end, with cross-attention as the projection it is.

    The weights stay in float32 and gradients arrive there. Attention to one key is a projection, its softmax being 1;
    self-attention stays in float32, in which its gradient takes a sixth of the time; temporal convolutions are 2-D.
    From the last block on, where `start` holds small values on a large pattern, all is float32.
    """

    def __init__(self, unet: Any, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.unet, self.dtype = unet, dtype
        module: Any
        for name, module in unet.named_modules():
            if name.endswith(".attn1"):
                module.set_processor(_SelfAttention())
            if name.endswith(".attn2"):
                module.set_processor(_OneKey())
            if isinstance(module, nn.Conv3d) and module.kernel_size == (3, 1, 1):
                module.__class__ = _TemporalConvolution
        block = unet.up_blocks[-1]
        end = [block.resnets[-1], block.attentions[-1], unet.conv_norm_out, unet.conv_out]
        for part in end:
            part.register_forward_pre_hook(_in_float, with_kwargs=True)
        self._precise = {id(p) for part in end for p in part.parameters()}

    def forward(self, sample: torch.Tensor, time: torch.Tensor, embedding: torch.Tensor, *rest: Any, **kw: Any) -> Any:
        parameters = self.unet.named_parameters()
        weights = {name: p if id(p) in self._precise else p.to(self.dtype) for name, p in parameters}
        inputs = (sample.to(self.dtype), time, embedding.to(self.dtype), *rest)
        return torch.func.functional_call(self.unet, weights, inputs, kw)


def _in_float(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    def cast(value: Any) -> Any:
        return value.float() if torch.is_tensor(value) and value.is_floating_point() else value

    return tuple(map(cast, args)), {name: cast(value) for name, value in kwargs.items()}


class _SelfAttention:
    def __call__(self, attn: Any, hidden_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        batch, length, _channels = hidden_states.shape
        q, k, v = (
            layer(hidden_states).view(batch, length, attn.heads, -1).transpose(1, 2).float()
            for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        out = functional.scaled_dot_product_attention(q, k, v).to(hidden_states.dtype)
        return attn.to_out[0](out.transpose(1, 2).reshape(batch, length, -1))


class _OneKey:
    def __call__(self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, **_: Any) -> Any:
        return attn.to_out[0](attn.to_v(encoder_hidden_states)).expand_as(hidden_states)


class _TemporalConvolution(nn.Conv3d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        batch, channels, frames, height, width = input.shape
        x = input.reshape(batch, channels, frames, height * width)
        x = functional.conv2d(x, self.weight[..., 0], self.bias, padding=(1, 0))
        return x.reshape(batch, -1, frames, height, width)
