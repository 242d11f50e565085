"""The independent reference: unmodified diffusers modules, driven by diffusers or by a loop of the tests' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image


def load(checkpoint: Path) -> Any:
    """diffusers' own pipeline on the checkpoint, silent."""
    pipeline = StableVideoDiffusionPipeline.from_pretrained(checkpoint, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def take_out_tca(unet: torch.nn.Module) -> None:
    """Remove temporal cross-attention the way diffusers' block itself allows for."""
    module: Any
    for module in unet.modules():
        if type(module).__name__ == "TemporalBasicTransformerBlock":
            module.attn2 = None


def inject(pipeline: Any, monkeypatch: Any, noise: np.ndarray) -> None:
    """Make diffusers use this noise for its augmentation, which it offers no argument for."""
    from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as module

    monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: torch.from_numpy(noise).reshape(shape))


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """diffusers' rounding of float frames in [0, 1]."""
    return (frames * 255).round().astype(np.uint8)


@torch.no_grad()
def vcut_loop(
    pipeline: Any,
    image: Image.Image,
    latents: np.ndarray,
    noise: np.ndarray,
    *,
    steps: int = 25,
    cut_step: int = 17,
    guidance: tuple[float, float] = (1.0, 3.0),
    motion_bucket_id: float = 127,
    noise_aug_strength: float = 0.02,
    fps: int = 7,
    quality_bias: str = "mean",
    cache_interval: int = 1,
) -> np.ndarray:
    """VCUT from the paper's text on diffusers' modules: CFG before ``cut_step``, conditional from it on.

    Eq. 4 averages the *outputs* of each folded attention for both embeddings. Here every attention is run for real on
    both embeddings and averaged, nothing is folded. With a ``cache_interval`` the layer before the last gives, in the
    steps between, what it gave in the stage's last step that computed everything.
    """
    unet, vae, scheduler = pipeline.unet, pipeline.vae, pipeline.scheduler
    frames = latents.shape[1]
    e = pipeline._encode_image(image, "cpu", 1, False)  # [1, 1, D]
    pixels = pipeline.video_processor.preprocess(image, height=image.height, width=image.width)
    z = vae.encode(pixels + noise_aug_strength * torch.from_numpy(noise)).latent_dist.mode()
    z = z[:, None].repeat(1, frames, 1, 1, 1)
    ids = torch.tensor([[fps - 1, motion_bucket_id, noise_aug_strength]])
    scheduler.set_timesteps(steps)
    x = torch.from_numpy(latents) * scheduler.init_noise_sigma
    g = torch.linspace(*guidance, frames)[None, :, None, None, None]
    cache = _Cache(unet.up_blocks[-1].attentions[-2])
    for i, t in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x, t)
        sample = torch.cat([scaled, z], dim=2)
        cache.step(fresh=(i if i + 1 < cut_step else i + 1 - cut_step) % cache_interval == 0)
        if i + 1 < cut_step:
            v_cond = unet(sample, t, e, ids).sample
            v_uncond = unet(torch.cat([scaled, torch.zeros_like(z)], dim=2), t, torch.zeros_like(e), ids).sample
            v = v_uncond + g * (v_cond - v_uncond)
        elif quality_bias == "mean":
            with _averaged_cross_attention(unet):
                v = unet(sample, t, e, ids).sample
        else:
            v = unet(sample, t, e, ids).sample
        x = scheduler.step(v, t, x).prev_sample
    decoded = pipeline.decode_latents(x, frames, frames)
    return to_uint8(pipeline.video_processor.postprocess_video(decoded, output_type="np")[0])


class _Cache:
    """Replaces a layer's outputs in a step by those of the last fresh one, in order."""

    def __init__(self, layer: torch.nn.Module) -> None:
        self.kept: list[Any] = []
        self.fresh, self.calls = True, 0
        layer.register_forward_hook(self._exchange)

    def step(self, *, fresh: bool) -> None:
        self.fresh, self.calls = fresh, 0
        if fresh:
            self.kept.clear()

    def _exchange(self, module: Any, args: tuple, output: Any) -> Any:
        if self.fresh:
            self.kept.append(output)
        self.calls += 1
        return self.kept[self.calls - 1]


class _averaged_cross_attention:
    """While active, each cross-attention returns the mean of its output for the embedding and for zeros."""

    def __init__(self, unet: torch.nn.Module) -> None:
        self.unet, self.handles = unet, []

    def __enter__(self) -> None:
        for name, module in self.unet.named_modules():
            if name.endswith(".attn2") and module is not None:
                self.handles.append(module.register_forward_hook(self._average, with_kwargs=True))

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    @staticmethod
    def _average(module: Any, args: tuple, kwargs: dict, output: torch.Tensor) -> torch.Tensor:
        other = {**kwargs, "encoder_hidden_states": torch.zeros_like(kwargs["encoder_hidden_states"])}
        return (output + module.forward(*args, **other)) / 2
