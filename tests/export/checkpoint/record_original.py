"""Records what the original networks give, in ``original.npz``, for ``test_original_outputs.py``.

The networks are those of Stability AI's ``generative-models`` (MIT licence) and OpenCLIP (MIT licence). Nothing of them
is part of this project. To record anew:

    git clone https://github.com/Stability-AI/generative-models
    pip install --no-deps open_clip_torch einops
    PYTHONPATH=tests python tests/export/checkpoint/record_original.py generative-models
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import tiny
from original_weights import CHANNELS, FRAMES, draw, inputs
from vcut_export.checkpoint.configs import Configs, architecture, presets


def main(repository: Path) -> None:
    """Build the networks, small with weights and full-size without, and write outputs, names and shapes."""
    _import_without_training_code(repository)
    small, full = tiny().configs, architecture(presets()["svd-xt"])
    with torch.device("meta"):
        names = {name: _shapes(module) for name, module in _networks(full).items()}
    networks = _networks(small)
    for name, module in networks.items():
        for key, parameter in module.named_parameters():
            parameter.data = draw(f"{name}{key}", tuple(parameter.shape))
    outputs: dict[str, Any] = {key: value.numpy() for key, value in _outputs(networks).items()}
    shapes = {name: _shapes(module) for name, module in networks.items()}
    np.savez_compressed(
        Path(__file__).with_name("original.npz"),
        small=np.array(json.dumps(shapes)),
        full=np.array(json.dumps(names)),
        **outputs,
    )


def _shapes(module: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in module.state_dict().items()}


def _networks(configs: Configs) -> dict[str, torch.nn.Module]:
    """Return the original networks by their prefix in a single file."""
    decoder: Any = importlib.import_module("sgm.modules.autoencoding.temporal_ae").VideoDecoder
    encoder: Any = importlib.import_module("sgm.modules.diffusionmodules.model").Encoder
    video: Any = importlib.import_module("sgm.modules.diffusionmodules.video_model").VideoUNet
    transformer: Any = importlib.import_module("open_clip.transformer").VisionTransformer
    unet, vae, clip = configs["unet"], configs["vae"], configs["image_encoder"]
    widths, levels = unet["block_out_channels"], vae["block_out_channels"]
    video_unet = video(
        in_channels=unet["in_channels"],
        model_channels=widths[0],
        out_channels=unet["out_channels"],
        num_res_blocks=unet["layers_per_block"],
        attention_resolutions=[4, 2, 1],
        channel_mult=[width // widths[0] for width in widths],
        num_head_channels=widths[0] // unet["num_attention_heads"][0],
        context_dim=unet["cross_attention_dim"],
        num_classes="sequential",
        adm_in_channels=unet["projection_class_embeddings_input_dim"],
        extra_ff_mix_layer=True,
        use_spatial_context=True,
        merge_strategy="learned_with_images",
        video_kernel_size=[3, 1, 1],
        use_linear_in_transformer=True,
        spatial_transformer_attn_type="softmax",
        transformer_depth=1,
    )
    autoencoder: dict[str, Any] = {
        "attn_type": "vanilla",
        "double_z": True,
        "z_channels": vae["latent_channels"],
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": levels[0],
        "ch_mult": [width // levels[0] for width in levels],
        "num_res_blocks": vae["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    visual = transformer(
        image_size=clip["image_size"],
        patch_size=clip["patch_size"],
        width=clip["hidden_size"],
        layers=clip["num_hidden_layers"],
        heads=clip["num_attention_heads"],
        mlp_ratio=clip["intermediate_size"] / clip["hidden_size"],
        output_dim=clip["projection_dim"],
    )
    channels = 2 * vae["latent_channels"]
    modules = {
        "model.diffusion_model.": video_unet,
        "first_stage_model.encoder.": encoder(**autoencoder),
        "first_stage_model.decoder.": decoder(video_kernel_size=[3, 1, 1], **autoencoder),
        "conditioner.embedders.0.open_clip.model.visual.": visual,
        "conditioner.embedders.3.encoder.encoder.": encoder(**autoencoder),
        "conditioner.embedders.3.encoder.quant_conv.": torch.nn.Conv2d(channels, channels, 1),
    }
    return {name: module.eval() for name, module in modules.items()}


@torch.no_grad()
def _outputs(networks: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return what each network gives; the UNet gets its conditions as the original pipeline hands them over."""
    embed: Any = importlib.import_module("sgm.modules.diffusionmodules.openaimodel").Timestep
    given = inputs()
    rows = len(given["sample"])
    ids = embed(CHANNELS)(given["added_time_ids"].flatten()).reshape(rows, -1)
    unet = networks["model.diffusion_model."](
        given["sample"].flatten(0, 1),
        timesteps=given["timestep"].expand(rows * FRAMES),
        context=given["embedding"].repeat_interleave(FRAMES, 0),
        y=ids.repeat_interleave(FRAMES, 0),
        num_video_frames=FRAMES,
        image_only_indicator=torch.zeros(rows, FRAMES),
    )
    conditioned = networks["conditioner.embedders.3.encoder.encoder."](given["image"])
    conditioned = networks["conditioner.embedders.3.encoder.quant_conv."](conditioned)
    return {
        "unet": unet.unflatten(0, (rows, FRAMES)),
        "conditioner_latents": conditioned.chunk(2, 1)[0],
        "first_stage_latents": networks["first_stage_model.encoder."](given["image"]).chunk(2, 1)[0],
        "frames": networks["first_stage_model.decoder."](given["latents"], timesteps=FRAMES),
        "embedding": networks["conditioner.embedders.0.open_clip.model.visual."](given["pixels"]),
    }


def _import_without_training_code(repository: Path) -> None:
    """Let ``sgm`` and ``open_clip`` import single modules: their ``__init__`` import training code."""
    importlib.import_module("transformers")  # looks for torchvision, whose stand-in comes next
    importlib.import_module("diffusers")
    root = repository / "sgm"
    specification = importlib.util.find_spec("open_clip")
    assert specification is not None
    assert specification.submodule_search_locations is not None
    places = {"sgm": root, "open_clip": Path(specification.submodule_search_locations[0])}
    places |= {f"sgm.{name.replace('/', '.')}": root / name for name in ("modules", "modules/diffusionmodules")}
    places["sgm.modules.autoencoding"] = root / "modules/autoencoding"
    for name, path in places.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(path)]
    for name in ("torchvision", "torchvision.ops", "torchvision.ops.misc"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
    sys.modules["torchvision.ops.misc"].__dict__["FrozenBatchNorm2d"] = torch.nn.Module


if __name__ == "__main__":
    main(Path(sys.argv[1]))
