"""The second half of the training: UNet and image encoder together, on latents of clips, as SVD does it.

EDM's preconditioning with v-prediction (Karras et al. 2022; SVD, appendix D): the UNet sees ``x / sqrt(sigma^2 + 1)``
at time ``0.25 ln sigma`` and predicts v, whose error counts alike at every noise level.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from svd_tiny import clips
from svd_tiny.model import build, image_embedding
from svd_tiny.start import start_unet
from svd_tiny.state import Training
from svd_tiny.train_vae import pixels

BATCH = 8
FIRST = 256  # clips made before the first step; each step adds one
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


def train_unet(folder: Path, vae: Any, scale: float, steps: int, seed: int) -> nn.ModuleDict:
    """Train for ``steps`` steps; return the UNet and the image encoder, averaged."""
    unet, encoder = build("unet", seed), build("image_encoder", seed)
    start_unet(unet, scale)
    modules = nn.ModuleDict({"unet": unet, "image_encoder": encoder})
    ends = ("unet.conv_in", "unet.conv_out")
    matrices = [name for name, p in unet.named_parameters(prefix="unet") if p.ndim > 1 and not name.startswith(ends)]
    common: dict[str, Any] = {"rate": 1e-3, "average": 0.998, "warmup": 100, "matrices": matrices}
    state = Training("unet", modules, folder, steps=steps, **common)
    if state.step >= steps:
        return state.finish()
    averaged: Any = state.averaged
    replay = [example(vae, scale, seed, state.step + i) for i in range(FIRST)]
    held_out = [example(vae, scale, seed, i, "held-out") for i in range(16)]
    fixed = collate(vae, held_out, np.random.default_rng(0), torch.Generator().manual_seed(0))

    def step() -> dict[str, float]:
        rng = np.random.default_rng([seed, 2, state.step])
        generator = torch.Generator().manual_seed(state.step)
        replay.append(example(vae, scale, seed, state.step + FIRST))
        batch = collate(vae, [replay[i] for i in rng.integers(len(replay), size=BATCH)], rng, generator)
        loss = v_loss(unet, encoder, batch, draw_sigmas(rng, BATCH), generator, drop=rng.random(BATCH))
        norm = state.update(loss.mean())
        return {"loss": float(loss.detach().mean()), "gradient": norm}

    def report() -> dict[str, float]:
        losses = {}
        for sigma in SIGMAS:
            generator = torch.Generator().manual_seed(1)
            sigmas, keep = torch.full((len(held_out),), sigma), np.ones(len(held_out))
            loss = v_loss(averaged["unet"], averaged["image_encoder"], fixed, sigmas, generator, drop=keep)
            losses[f"held_out_{sigma:g}"] = float(loss.mean())
        return losses

    state.run(step, 250, report)
    return state.finish()


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
