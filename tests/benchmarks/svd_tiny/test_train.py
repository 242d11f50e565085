"""A training of few steps: it goes on where it stopped, computes what diffusers computes, and ends as a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from svd_tiny import photos
from svd_tiny.model import FRAMES, build, configs
from svd_tiny.state import Training
from svd_tiny.train import train, write_checkpoint
from svd_tiny.train_unet import Batch, draw_sigmas, v_loss
from vcut_runtime.errors import UsageError


def training(folder: Path, steps: int, *matrices: str) -> tuple[Training, nn.Linear]:
    torch.manual_seed(0)
    layer = nn.Linear(3, 1)
    modules = nn.ModuleDict({"layer": layer})
    common = {"rate": 0.05, "average": 0.9, "warmup": 2, "matrices": matrices}
    return Training("line", modules, folder, steps=steps, **common), layer


@pytest.mark.parametrize("matrices", [(), ("layer.weight",)], ids=["adamw", "muon"])
def test_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path, matrices: tuple[str, ...]) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole, layer = training(tmp_path / "whole", 10, *matrices)
    while whole.step < 10:
        take(whole, layer)
    first, part = training(tmp_path / "parts", 10, *matrices)
    while first.step < 6:
        take(first, part)
    first.save()
    second, resumed = training(tmp_path / "parts", 10, *matrices)
    assert second.step == 6
    while second.step < 10:
        take(second, resumed)
    assert torch.equal(layer.weight, resumed.weight)
    assert torch.equal(averaged(whole), averaged(second))
    assert not torch.equal(layer.weight, averaged(whole))


def test_muon_moves_convolutions_as_matrices(tmp_path: Path) -> None:
    """Its step has the size of AdamW's whatever the gradient's, and all singular values alike."""
    layer = nn.Conv2d(4, 8, 3)
    with torch.no_grad():
        layer.weight.zero_()
    modules = nn.ModuleDict({"layer": layer})
    common = {"rate": 0.05, "average": 0.9, "warmup": 1, "matrices": ["layer.weight"]}
    state = Training("convolution", modules, tmp_path, steps=10, **common)
    state.update(1e-3 * (layer.weight * torch.randn_like(layer.weight)).sum())
    step = layer.weight.detach().flatten(1)
    values = torch.linalg.svdvals(step)
    assert values.min() > 0.4 * values.max()
    assert 0.1 < float(step.square().mean().sqrt()) / (4 * 0.05) < 0.4


def averaged(state: Training) -> torch.Tensor:
    return state.averaged.state_dict()["layer.weight"]


def take(state: Training, layer: nn.Linear) -> None:
    torch.manual_seed(state.step)
    x = torch.randn(16, 3)
    state.update((layer(x) - x.sum(1, keepdim=True)).square().mean())


def test_a_run_logs_and_keeps_and_falls_to_no_rate(tmp_path: Path) -> None:
    state, layer = training(tmp_path, 40)

    def step() -> dict[str, float]:
        take(state, layer)
        return {"loss": 1.0}

    state.run(step, 20, lambda: {"error": float((averaged(state) - 1).abs().max())})
    lines = [json.loads(line) for line in (tmp_path / "line.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40]
    assert lines[1]["error"] < lines[0]["error"]
    assert next(iter(state.optimizers)).param_groups[0]["lr"] < 0.1 * state.rate
    finished: Any = state.finish()["layer"]
    assert torch.equal(finished.weight, averaged(state))
    assert not finished.weight.requires_grad


@pytest.fixture(scope="module")
def batch() -> Batch:
    torch.manual_seed(0)
    channels = configs()["unet"]["out_channels"]
    latents = torch.randn(2, FRAMES, channels, 9, 12)
    return Batch(latents, torch.rand(2, 3, 72, 96) * 2 - 1, latents[:, 0], torch.tensor([[6.0, 127.0, 0.02]] * 2))


def test_v_is_what_the_scheduler_makes_of_it(batch: Batch) -> None:
    """A UNet that knows the noise has no loss, and Euler's step takes its v to the clean latents."""
    from svd_tiny.model import scheduler

    euler = scheduler()
    euler.set_timesteps(25)
    sigma = euler.sigmas[10]
    noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(3))
    v = (noise - sigma * batch.latents) / (sigma**2 + 1).sqrt()

    def knowing(sample: torch.Tensor, time: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor]:
        assert torch.allclose(time, euler.timesteps[10].expand(2), atol=1e-4)
        scaled = euler.scale_model_input(batch.latents + sigma * noise, euler.timesteps[10])
        assert torch.allclose(sample[:, :, : scaled.shape[2]], scaled, atol=1e-4)
        return (v,)

    generator = torch.Generator().manual_seed(3)
    drop = np.array([0.0, 0.9])
    encoder = build("image_encoder")
    assert float(v_loss(knowing, encoder, batch, sigma.repeat(2), generator, drop).max()) < 1e-6
    euler._step_index = 10
    clean = euler.step(v, euler.timesteps[10], batch.latents + sigma * noise).pred_original_sample
    assert torch.allclose(clean, batch.latents, atol=1e-3)


def test_noise_levels_reach_the_first_steps_of_sampling() -> None:
    sigmas = draw_sigmas(np.random.default_rng(0), 4000)
    assert 0.05 < float((sigmas > 20).float().mean()) < 0.25
    assert float(sigmas.max()) > 300
    assert 1.2 < float(sigmas.median()) < 3.0


def test_a_checkpoint_is_diffusers_and_loads_in_fp16_and_fp32(tmp_path: Path) -> None:
    from diffusers import StableVideoDiffusionPipeline

    parts = {name: build(name) for name in ("vae", "unet", "image_encoder")}
    write_checkpoint(tmp_path / "tiny", parts, 0.75)
    files = list((tmp_path / "tiny").rglob("*.safetensors"))
    assert len(files) == 3
    assert sum(file.stat().st_size for file in files) <= 16e6
    assert not list((tmp_path / "tiny").rglob("*.bin"))
    pipeline = StableVideoDiffusionPipeline.from_pretrained(tmp_path / "tiny", torch_dtype=torch.float32)
    assert pipeline.vae.config.scaling_factor == 0.75
    assert pipeline.unet.dtype == torch.float32
    assert sum("attn2" in name.rsplit(".", 1)[-1] for name, _ in pipeline.unet.named_modules()) == 32


def test_a_missing_photograph_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = photos.Photo("gone", "no-such-package", "no_such_package/gone.png", "CC0")
    monkeypatch.setattr(photos, "PHOTOS", (*photos.PHOTOS, gone))
    with pytest.raises(UsageError, match="pip install --no-deps no-such-package"):
        train(tmp_path / "work")
    assert not (tmp_path / "work").exists()
