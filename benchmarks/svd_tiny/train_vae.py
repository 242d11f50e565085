"""The first half of the training: the VAE, on frames of clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from svd_tiny import clips
from svd_tiny.model import FRAMES, build
from svd_tiny.start import start_vae
from svd_tiny.state import Training

BATCH = 4  # single frames; whole, since the start fits this size
KL = 1e-6


def pixels(frames: np.ndarray) -> torch.Tensor:
    """Return frames [T, H, W, 3] uint8 as [T, 3, H, W] in -1..1."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the PSNR in dB of each image of a batch in -1..1."""
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp_min(1e-10))


def train_vae(folder: Path, steps: int, whole: int, seed: int) -> Any:
    """Train the VAE for ``steps`` steps, the last ``whole`` of them on whole clips; return it, averaged."""
    vae = build("vae", seed)
    if not (folder / "vae.pt").exists():
        start_vae(vae, torch.cat([_frame(np.random.default_rng([seed, 0, i])) for i in range(160)]))
    state = Training("vae", nn.ModuleDict({"vae": vae}), folder, steps=steps, rate=4e-4, average=0.99, warmup=200)
    held_out = torch.cat([pixels(clips.clip(i, "held-out", frames=range(1)).frames) for i in range(24)])
    video = pixels(clips.clip(0, "held-out").frames)

    def step() -> dict[str, float]:
        rng = np.random.default_rng([seed, 1, state.step])
        torch.manual_seed(state.step)
        if state.step < steps - whole:
            batch = torch.cat([_frame(rng) for _ in range(BATCH)])
            frames = 1
        else:
            batch = pixels(clips.clip(int(rng.integers(2**31)), frames=range(FRAMES // 2)).frames)
            frames = len(batch)
        posterior = vae.encode(batch).latent_dist
        decoded = vae.decode(posterior.sample(), num_frames=frames).sample
        error = (decoded - batch).square().mean() + 0.1 * functional.l1_loss(decoded, batch)
        state.update(error + KL * posterior.kl().mean())
        return {"psnr": float(psnr(decoded.detach(), batch).mean())}

    def report() -> dict[str, float]:
        averaged: Any = state.averaged["vae"]
        images = averaged.decode(averaged.encode(held_out).latent_dist.mode(), num_frames=1).sample
        frames = averaged.decode(averaged.encode(video).latent_dist.mode(), num_frames=FRAMES).sample
        return {"held_out_psnr": float(psnr(images, held_out).mean()), "clip_psnr": float(psnr(frames, video).mean())}

    state.run(step, 100, report)
    return state.finish()["vae"]


def latent_scale(vae: Any) -> float:
    """Return what divides latents to unit variance, measured on frames of training clips."""
    with torch.no_grad():
        frames = torch.cat([pixels(clips.clip(10_000 + i, frames=range(1)).frames) for i in range(128)])
        return round(float(1 / vae.encode(frames).latent_dist.mode().std()), 5)


def _frame(rng: np.random.Generator) -> torch.Tensor:
    return pixels(clips.clip(int(rng.integers(2**31)), frames=range(1)).frames)
