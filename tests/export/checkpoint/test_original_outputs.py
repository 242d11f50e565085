"""A single file computes what the original networks compute. Their outputs are recorded, see ``record_original.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models import tiny
from original_weights import FRAMES, draw, inputs
from vcut_export.checkpoint import WEIGHTED, Checkpoint
from vcut_export.checkpoint.configs import architecture, presets
from vcut_export.checkpoint.original import diffusers_tensors, original_unet
from vcut_export.checkpoint.tensors import LazyTensors
from vcut_export.checkpoint.weights import empty, load_component

RECORDED = np.load(Path(__file__).with_name("original.npz"))
CONDITIONER_VAE = "conditioner.embedders.3."


def names(size: str) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every weight in the original's single file of ``size``, small or full."""
    networks = json.loads(str(RECORDED[size]))
    return {f"{prefix}{key}": tuple(shape) for prefix, keys in networks.items() for key, shape in keys.items()}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A single file with the weights of the recorded networks."""
    path = tmp_path_factory.mktemp("original") / "svd.safetensors"
    save_file({name: draw(name, shape) for name, shape in names("small").items()}, path)
    return path


def original(file: Path) -> Checkpoint:
    small = tiny()
    configs = {**small.configs, "unet": original_unet(small.configs["unet"])}
    return replace(small, configs=configs, seed=None, sources=dict.fromkeys(WEIGHTED, file))


def load(file: Path, component: str) -> Any:
    return load_component(original(file), component, "fp32", torch.float32)


def error(output: torch.Tensor, name: str) -> float:
    """Return the largest error relative to the output's largest magnitude."""
    expected = torch.from_numpy(RECORDED[name])
    assert output.shape == expected.shape
    return float((output - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def unet_error(unet: Any) -> float:
    given = inputs()
    output = unet(given["sample"], given["timestep"], given["embedding"], given["added_time_ids"], return_dict=False)[0]
    return error(output, "unet")


def test_the_unet(file: Path) -> None:
    assert unet_error(load(file, "unet")) < 1e-5


def test_the_unet_has_the_original_s_epsilon(file: Path) -> None:
    checkpoint = replace(original(file), configs=tiny().configs)  # diffusers' own
    assert unet_error(load_component(checkpoint, "unet", "fp32", torch.float32)) > 1e-3


@torch.no_grad()
def test_the_temporal_decoder(file: Path) -> None:
    frames = load(file, "vae").decode(inputs()["latents"], num_frames=FRAMES).sample
    assert error(frames, "frames") < 1e-5


@torch.no_grad()
def test_photographs_are_encoded_by_the_conditioner_s_vae(file: Path) -> None:
    latents = load(file, "vae").encode(inputs()["image"]).latent_dist.mode()
    assert error(latents, "conditioner_latents") < 1e-5


@torch.no_grad()
def test_without_the_conditioner_s_vae_the_first_stage_encodes(file: Path, tmp_path: Path) -> None:
    kept = {name: shape for name, shape in names("small").items() if not name.startswith(CONDITIONER_VAE)}
    pruned = tmp_path / "pruned.safetensors"
    save_file({name: draw(name, shape) for name, shape in kept.items()}, pruned)
    latents = load(pruned, "vae").encode(inputs()["image"]).latent_dist.mode()
    assert error(latents, "first_stage_latents") < 1e-5


@torch.no_grad()
def test_the_image_encoder(file: Path) -> None:
    assert error(load(file, "image_encoder")(inputs()["pixels"]).image_embeds, "embedding") < 1e-5


@pytest.mark.parametrize("component", WEIGHTED)
def test_every_weight_of_the_full_size_file_has_its_place(component: str) -> None:
    configs = architecture(presets()["svd-xt"])
    checkpoint = replace(tiny(), configs=configs)
    expected = {name: tuple(value.shape) for name, value in empty(checkpoint, component).named_parameters()}
    with torch.device("meta"):
        readers = {name: lambda shape=shape: torch.empty(shape) for name, shape in names("full").items()}
        tensors = diffusers_tensors(component, LazyTensors(readers), configs[component])
        shapes: Mapping[str, tuple[int, ...]] = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == expected
