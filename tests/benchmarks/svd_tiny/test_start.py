"""The start is a linear model, image means included, which diffusers' initial weights are not."""

from __future__ import annotations

import pytest
import torch

from svd_tiny import clips
from svd_tiny.model import FRAMES, build, configs
from svd_tiny.start import start_unet, start_vae
from svd_tiny.train_vae import pixels, psnr


@pytest.fixture
def images() -> torch.Tensor:
    return torch.cat([pixels(clips.clip(i, frames=range(1)).frames) for i in range(8)])


def test_the_vae_starts_as_a_codec_of_single_frames(images: torch.Tensor) -> None:
    vae = build("vae")
    dark = images[:2] * 0.5 - 0.3
    with torch.no_grad():
        start_vae(vae, images)
        latents = vae.encode(torch.cat([images[:3], dark])).latent_dist.mode()
        together = vae.decode(latents, num_frames=5).sample
        alone = vae.decode(latents[1:2], num_frames=1).sample
    average = images[:3].mean((2, 3), keepdim=True).expand_as(images[:3])
    assert (psnr(together[:3], images[:3]) > psnr(average, images[:3]) + 4).all()
    assert (together[3:].mean((1, 2, 3)) - dark.mean((1, 2, 3))).abs().max() < 0.1
    assert torch.allclose(together[1:2], alone, atol=1e-3)


def test_the_unet_starts_from_the_image_latents() -> None:
    unet, channels = build("unet"), configs()["unet"]["out_channels"]
    torch.manual_seed(0)
    image = torch.randn(1, 1, channels, 9, 12).expand(-1, FRAMES, -1, -1, -1) + 0.5
    noisy = torch.randn(1, FRAMES, channels, 9, 12)
    with torch.no_grad():
        start_unet(unet, 1.5)
        v = unet(torch.cat([noisy, image], 2), torch.tensor([0.1]), torch.randn(1, 1, 64), torch.rand(1, 3)).sample
    assert (v + 0.5 * 1.5 * image).square().mean() < 0.02 * (0.75 * image).square().mean()
    assert abs(float(v.mean() + 0.5 * 1.5 * image.mean())) < 0.1  # the mean survives every normalisation
