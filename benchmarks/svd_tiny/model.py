"""What `svd-tiny` is made of: diffusers' own classes, as the preset configures them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vcut_export.checkpoint import CONFIG_FILES, presets

if TYPE_CHECKING:
    import torch

FRAMES, HEIGHT, WIDTH = 12, 72, 96  # of a video
COMPONENTS = ("vae", "unet", "image_encoder")


def configs() -> dict[str, dict[str, Any]]:
    """Return diffusers' configurations by component."""
    preset = presets()["svd-tiny"]
    return {component: preset[component] for component in CONFIG_FILES}


def build(component: str, seed: int = 0) -> Any:
    """Build ``component`` with diffusers' initial weights, seeded."""
    import torch
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    config = configs()[component]
    if component == "image_encoder":
        return CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
    kind: Any = {"vae": AutoencoderKLTemporalDecoder, "unet": UNetSpatioTemporalConditionModel}[component]
    return kind.from_config(config)


def scheduler() -> Any:
    """Return SVD's scheduler: Euler, v-prediction, Karras sigmas, continuous timesteps."""
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler.from_config(configs()["scheduler"])


def image_embedding(image_encoder: Any, images: torch.Tensor) -> torch.Tensor:
    """Embed images [B, 3, H, W] in -1..1 as diffusers' pipeline does; return [B, 1, cross_attention_dim]."""
    import torch
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing

    extractor = configs()["feature_extractor"]
    mean, std = (torch.tensor(extractor[key]).view(1, 3, 1, 1) for key in ("image_mean", "image_std"))
    resized = (_resize_with_antialiasing(images, (224, 224)) + 1.0) / 2.0
    return image_encoder((resized - mean) / std).image_embeds[:, None]
