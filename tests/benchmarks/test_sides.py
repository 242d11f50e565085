"""Each side makes its video. A peer does what its name says; one that cannot run says why."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vcut_bench import peers, sides
from vcut_bench.metrics import psnr
from vcut_bench.peers import PeerJob
from vcut_bench.reference import draw
from vcut_bench.sides import Side, open_side
from vcut_runtime import UsageError, VcutError, open_bundle
from vcut_runtime.bundle.manifest import Manifest

STAGES = {"condition", "semantic_binding", "quality_improvement", "decode"}


@pytest.fixture(scope="module")
def job(small_bundle: Path, small_checkpoint: Path) -> PeerJob:
    return PeerJob("", str(small_bundle), "onnxruntime-cpu", 2, 3, str(small_checkpoint))


@pytest.fixture(scope="module")
def manifest(small_bundle: Path) -> Manifest:
    return open_bundle(small_bundle, hashes=False).manifest


@pytest.fixture
def unet_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Any]]:
    """Rows of each call of diffusers' UNet, and its embedding."""
    from diffusers import UNetSpatioTemporalConditionModel

    calls: list[tuple[int, Any]] = []
    forward = UNetSpatioTemporalConditionModel.forward

    def counted(self: Any, sample: Any, timestep: Any, encoder_hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append((len(sample), encoder_hidden_states))
        return forward(self, sample, timestep, encoder_hidden_states, *args, **kwargs)

    monkeypatch.setattr(UNetSpatioTemporalConditionModel, "forward", counted)
    return calls


@pytest.fixture(scope="module")
def eager(job: PeerJob) -> np.ndarray:
    """diffusers' own frames."""
    return frames_of(open_side(replace(job, side="diffusers")))


def frames_of(side: Side) -> np.ndarray:
    timed, frames = side.run()
    assert {"stages", "steps", "video", "peak_device_memory_bytes"} == set(timed)
    assert set(timed["stages"]) <= STAGES
    assert sum(timed["stages"].values()) <= timed["video"]
    assert frames is not None
    return frames


def test_diffusers_guides_every_step(
    job: PeerJob, manifest: Manifest, unet_calls: list[Any], eager: np.ndarray
) -> None:
    side = open_side(replace(job, side="diffusers"))
    timed, frames = side.run()
    assert [rows for rows, _ in unet_calls] == [2] * manifest.steps
    assert timed["steps"] == {"semantic_binding": manifest.steps}
    assert side.facts == {"backend": "torch cpu", "precision": "fp32"}
    assert frames is not None
    assert frames.shape == (manifest.frames, manifest.height, manifest.width, 3)
    assert np.array_equal(frames, eager)


def test_our_side_makes_the_bundle_s_videos(job: PeerJob, manifest: Manifest) -> None:
    side = open_side(replace(job, side="vcut"))
    cut, frames = side.run(cut_step=3)
    whole, _ = side.run(cut_step="none")
    assert cut["steps"] == {"semantic_binding": 2, "quality_improvement": 2}
    assert set(cut["stages"]) == STAGES
    assert whole["steps"] == {"semantic_binding": 4}
    assert side.facts["backend"] == "onnxruntime-cpu"
    assert frames is not None
    assert frames.shape == (manifest.frames, manifest.height, manifest.width, 3)


def test_the_schedule_on_unmodified_modules_is_the_paper_s(
    job: PeerJob, manifest: Manifest, unet_calls: list[tuple[int, Any]], small_checkpoint: Path
) -> None:
    """Against a loop that runs every cross-attention on both embeddings and averages what comes out (Eq. 4)."""
    from PIL import Image

    import reference

    timed, frames = open_side(replace(job, side="diffusers-vcut")).run()
    assert timed["steps"] == {"semantic_binding": 2, "quality_improvement": 2}
    assert [rows for rows, _ in unet_calls] == [2, 2, 1, 1]
    noise, latents = draw(manifest, job.seed)
    image = Image.fromarray(sides.input_images(manifest, ())[0])
    expected = reference.vcut_loop(
        reference.load(small_checkpoint), image, latents, noise, steps=manifest.steps, cut_step=3
    )
    assert frames is not None
    assert psnr(frames, expected) >= 50


@pytest.mark.parametrize(("name", "steps"), [("diffusers-15", 15), ("diffusers-10", 10), ("diffusers-ays", 10)])
def test_fewer_steps_and_other_noise_levels_are_diffusers_own(
    job: PeerJob, name: str, steps: int, small_checkpoint: Path, unet_calls: list[Any]
) -> None:
    video, frames = open_side(replace(job, side=name)).run()
    assert video["steps"] == {"semantic_binding": steps}
    assert [rows for rows, _ in unet_calls] == [2] * steps
    assert frames is not None
    assert frames.std() > 5


def test_the_dpm_solver_peer_is_our_solver_on_unmodified_modules(
    tiny_bundle: Callable[[str], Path], tiny_checkpoint: Path
) -> None:
    """The bundle folds TCA, so its network is diffusers'. Both get the published noise levels."""
    from vcut_runtime import Pipeline

    job = PeerJob("diffusers-dpmpp", str(tiny_bundle("fold")), "onnxruntime-cpu", 2, 3, str(tiny_checkpoint))
    video, frames = open_side(job).run()
    assert video["steps"] == {"semantic_binding": 10}
    assert frames is not None
    pipeline = Pipeline.load(job.bundle, "onnxruntime-cpu")
    noise, latents = draw(pipeline.manifest, job.seed)
    image = sides.input_images(pipeline.manifest, ())[0]
    options: dict[str, Any] = {"noise": noise, "latents": latents, "sigmas": "ays", "cut_step": "none"}
    assert psnr(pipeline(image, solver="dpmpp-2m", **options).frames, frames) >= 50
    assert psnr(pipeline(image, solver="euler", **options).frames, frames) < 45


def test_deepcache_runs_deep_blocks_at_its_interval(job: PeerJob, manifest: Manifest, eager: np.ndarray) -> None:
    from diffusers.models.unets.unet_3d_blocks import UNetMidBlockSpatioTemporal

    calls: list[int] = []
    forward = UNetMidBlockSpatioTemporal.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            UNetMidBlockSpatioTemporal,
            "forward",
            lambda self, *args, **kwargs: (calls.append(1), forward(self, *args, **kwargs))[1],
        )
        side = open_side(replace(job, side="deepcache"))
        first = frames_of(side)
        assert len(calls) == 2  # of 4 steps, the first and the fourth
        assert np.array_equal(frames_of(side), first)  # nothing of one video is left for the next
    assert side.facts["library"].startswith("DeepCache ")
    assert psnr(first, eager) < 100


def test_tgate_stops_guiding_at_its_gate(job: PeerJob, unet_calls: list[tuple[int, Any]], eager: np.ndarray) -> None:
    side = open_side(replace(job, side="tgate"))
    timed, frames = side.run()
    assert side.facts["gate_step"] == 2
    assert [rows for rows, _ in unet_calls] == [2, 2, 1, 1]
    assert timed["steps"] == {"semantic_binding": 2, "quality_improvement": 2}
    assert frames is not None
    assert psnr(frames, eager) < 100


def test_the_unfolded_graph_is_diffusers_unet(
    job: PeerJob, unet_calls: list[tuple[int, Any]], eager: np.ndarray
) -> None:
    side = open_side(replace(job, side="onnxruntime-unfolded"))
    unet_calls.clear()  # tracing counts too
    assert psnr(frames_of(side), eager) >= 50
    assert unet_calls == []
    assert side.facts["backend"] == "onnxruntime cpu"


@pytest.mark.parametrize(("name", "package"), [("deepcache", "DeepCache"), ("tgate", "tgate")])
def test_a_missing_package_is_named(job: PeerJob, name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(peers, "find_spec", lambda module: None if module == package else find(module))
    monkeypatch.setattr(sides, "load_diffusers", lambda reference: None)
    with pytest.raises(UsageError, match=f"{package} is not installed: pip install --no-deps {package}"):
        open_side(replace(job, side=name))


def test_an_engine_needs_a_gpu(job: PeerJob, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    monkeypatch.setattr(sides, "load_diffusers", lambda reference: None)
    with pytest.raises(VcutError, match="no NVIDIA GPU"):
        open_side(replace(job, side="tensorrt-unfolded"))
