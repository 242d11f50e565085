"""Train `svd-tiny` as SVD was trained, in two parts that can stop at any time and go on with the same command.

    python -m svd_tiny.train --work WORK [--output FOLDER] [--vae-steps 1700] [--unet-steps 2500]

WORK keeps what goes on, and the logs ``vae.jsonl`` and ``unet.jsonl`` with the curves; FOLDER becomes a diffusers
checkpoint with fp16 weights, which every command takes as ``--model FOLDER``. The photographs come from packages, see
``photos``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch

VAE_STEPS, UNET_STEPS = 1700, 2500  # of the weights that are shipped


def train(
    work: Path,
    output: Path | None = None,
    *,
    vae_steps: int = VAE_STEPS,
    unet_steps: int = UNET_STEPS,
    seed: int = 0,
) -> None:
    """Train, or go on training, and write the checkpoint to ``output``."""
    from svd_tiny.photos import PHOTOS, load
    from svd_tiny.train_unet import train_unet
    from svd_tiny.train_vae import latent_scale, train_vae

    for photo in PHOTOS:
        load(photo.name)  # what is missing is said at once
    work.mkdir(parents=True, exist_ok=True)
    vae = train_vae(work, vae_steps, min(300, vae_steps), seed)
    scale = latent_scale(vae)
    unet, image_encoder = train_unet(work, vae, scale, unet_steps, seed).values()
    if output is not None:
        write_checkpoint(output, {"vae": vae, "unet": unet, "image_encoder": image_encoder}, scale)


def write_checkpoint(output: Path, components: dict[str, torch.nn.Module], scale: float) -> None:
    """Write a diffusers folder with fp16 safetensors; ``scale`` becomes the VAE's ``scaling_factor``."""
    import torch
    from diffusers import StableVideoDiffusionPipeline
    from transformers import CLIPImageProcessor

    from svd_tiny.model import configs, scheduler

    parts: dict[str, Any] = dict(components)
    parts["vae"].register_to_config(scaling_factor=scale)
    parts["scheduler"] = scheduler()
    parts["feature_extractor"] = CLIPImageProcessor(**configs()["feature_extractor"])
    pipeline = StableVideoDiffusionPipeline(**parts).to(torch.float16)
    pipeline.save_pretrained(output, safe_serialization=True)
    index = output / "model_index.json"  # a class that every version of transformers has
    index.write_text(index.read_text().replace("CLIPImageProcessorPil", "CLIPImageProcessor"))
    for file in output.rglob("*.safetensors"):
        file.chmod(0o644)


def main(
    work: Annotated[Path, typer.Option(help="Folder of what a training keeps.")],
    output: Annotated[Path | None, typer.Option(help="Write a diffusers checkpoint here.")] = None,
    vae_steps: Annotated[int, typer.Option(min=1, help="Steps of the VAE.")] = VAE_STEPS,
    unet_steps: Annotated[int, typer.Option(min=1, help="Steps of UNet and image encoder.")] = UNET_STEPS,
    seed: Annotated[int, typer.Option(help="Of weights, clips and noise.")] = 0,
) -> None:
    """Train svd-tiny, or go on training it."""
    train(work, output, vae_steps=vae_steps, unet_steps=unet_steps, seed=seed)


if __name__ == "__main__":
    from vcut_runtime.terminal import run_app

    _app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    _app.command()(main)
    run_app(_app, "svd_tiny.train")
