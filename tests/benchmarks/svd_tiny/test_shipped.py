"""The trained svd-tiny that comes with the package: what it is, and that its weights are of use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svd_tiny import clips
from svd_tiny.model import FRAMES, HEIGHT, WIDTH, configs
from svd_tiny.photos import PHOTOS
from svd_tiny.train_unet import collate, example, v_loss
from svd_tiny.train_vae import pixels, psnr
from vcut_export import resolve
from vcut_export.checkpoint import CONFIG_FILES, Checkpoint, weights
from vcut_runtime.schedule.named import QUICK

MOST = 16_000_000  # bytes of weights


@pytest.fixture(scope="module")
def shipped() -> Checkpoint:
    return resolve("svd-tiny")


@pytest.fixture(scope="module")
def vae(shipped: Checkpoint) -> Any:
    return weights.load_vae(shipped, "fp32", torch.float32)


def folder(checkpoint: Checkpoint) -> Path:
    return checkpoint.sources["unet"].parent


def test_the_preset_is_the_trained_model_and_random_weights_are_asked_for(shipped: Checkpoint) -> None:
    assert shipped.seed is None
    assert shipped.hub is None
    untrained = resolve("svd-tiny", random_weights=True, seed=3)
    assert (untrained.sources, untrained.seed) == ({}, 3)
    assert shipped.identity != untrained.identity
    defaults = {"height": HEIGHT, "width": WIDTH, "precision": "fp32", "operators": "cpu"}
    assert untrained.defaults == defaults
    assert {name: shipped.defaults[name] for name in defaults} == defaults
    assert set(shipped.defaults["measurements"]) == set(QUICK)  # the untrained model's schedules are untuned
    assert shipped.configs["unet"]["num_frames"] == FRAMES


def test_its_architecture_is_the_preset_s(shipped: Checkpoint) -> None:
    for component, wanted in configs().items():
        if component == "feature_extractor":
            continue  # another version of transformers writes other defaults
        own = shipped.configs[component]
        same = {key: own.get(key) for key in wanted if key != "scaling_factor"}
        assert same == {key: value for key, value in wanted.items() if key != "scaling_factor"}, component


def test_it_is_small_and_safetensors_only(shipped: Checkpoint) -> None:
    files = [file for file in folder(shipped).rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".safetensors", ".md"}
    assert {file.relative_to(folder(shipped)).as_posix() for file in files} >= set(CONFIG_FILES.values())
    assert sum(file.stat().st_size for file in files if file.suffix == ".safetensors") <= MOST
    assert "Pil" not in json.dumps(json.loads((folder(shipped) / "model_index.json").read_text()))


def test_its_card_names_every_photograph_with_its_licence(shipped: Checkpoint) -> None:
    rows = [line.split(" | ") for line in (folder(shipped) / "README.md").read_text().splitlines() if " | " in line]
    listed = {row[0].removeprefix("| "): row[1:] for row in rows}
    for photo in PHOTOS:  # all of them, not only those at hand in tests
        package, licence, use = listed[photo.name]
        assert package == photo.distribution
        assert licence.startswith(photo.licence)
        assert use.startswith("held out") == (photo.split == "held-out")


def test_the_vae_keeps_held_out_photographs(vae: Any) -> None:
    frames = torch.cat([pixels(clips.clip(i, "held-out", frames=range(1)).frames) for i in range(8)])
    with torch.no_grad():
        latents = vae.encode(frames).latent_dist.mode()
        again = vae.decode(latents, num_frames=1).sample
    assert float(psnr(again, frames).mean()) >= 27
    assert 0.8 < float((latents * vae.config.scaling_factor).std()) < 1.25


def test_the_unet_sees_its_conditions(shipped: Checkpoint, vae: Any) -> None:
    """On held-out clips it predicts better than from the noisy latents alone, as guidance wants."""
    unet = weights.load_unet(shipped, "fp32", torch.float32)
    encoder = weights.load_image_encoder(shipped, "fp32", torch.float32)
    examples = [example(vae, vae.config.scaling_factor, 0, i, "held-out") for i in range(4)]
    batch = collate(vae, examples, np.random.default_rng(0), torch.Generator().manual_seed(0))
    losses = []
    with torch.no_grad():
        for drop in (1.0, 0.0):
            noise = torch.Generator().manual_seed(1)
            loss = v_loss(unet, encoder, batch, torch.full((4,), 4.0), noise, np.full(4, drop))
            losses.append(float(loss.mean()))
    assert losses[0] < 0.7 * losses[1]
    assert losses[0] < 0.5
