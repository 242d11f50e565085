"""Shared steps change nothing: each take is the pipeline's own video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vcut_bench.takes import CONVERGED_STEPS, Takes, converged_schedule
from vcut_bench.work import load_pixels
from vcut_runtime import Pipeline, RunOptions
from vcut_runtime.run_plan import choose_schedule
from vcut_runtime.schedule import Schedule


@pytest.fixture(scope="module")
def pipeline(deep_bundle: Path) -> Pipeline:
    return Pipeline.load(deep_bundle, "onnxruntime-cpu")


@pytest.fixture(scope="module")
def arrays(pipeline: Pipeline) -> dict[str, Any]:
    manifest, draw = pipeline.manifest, np.random.default_rng(5)
    colours = (draw.random((3, 4, 3)) * 255).astype(np.uint8)
    shape = (1, manifest.frames, *manifest.geometry.latent_shape())
    return {
        "image": load_pixels(colours, manifest.height, manifest.width, "stretch"),
        "noise": draw.standard_normal((1, 3, manifest.height, manifest.width), dtype=np.float32),
        "latents": draw.standard_normal(shape, dtype=np.float32),
    }


def rows(pipeline: Pipeline, **options: Any) -> Schedule:
    return choose_schedule(pipeline.manifest, RunOptions(num_inference_steps=5, **options))


def test_takes_are_the_pipelines_videos_and_shared_steps_run_once(
    pipeline: Pipeline, arrays: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    schedules = [
        rows(pipeline, cut_step="none"),
        rows(pipeline, cut_step=5),  # shares 4 steps
        rows(pipeline, cut_step=3),  # shares 2
        rows(pipeline, cut_step=3),  # shares all
        rows(pipeline, cut_step=3, guide_from=2),  # shares none
        rows(pipeline, cut_step=4, solver="dpmpp-2m"),  # shares none: the one before began without guidance
        rows(pipeline, cut_step=5, solver="dpmpp-2m"),  # shares 3
        rows(pipeline, cut_step="none", cache_interval=2),
        rows(pipeline, cut_step=5, cache_interval=2),  # full, shallow, full, shallow, and then it differs
    ]
    want = [pipeline(**arrays, schedule=schedule).frames for schedule in schedules]
    takes = Takes(pipeline, arrays["image"], arrays["noise"], arrays["latents"])
    run, ran = pipeline.backend.run, []
    monkeypatch.setattr(pipeline.backend, "run", lambda graph, inputs: (ran.append(graph), run(graph, inputs))[1])
    counts = []
    for schedule, frames in zip(schedules, want, strict=True):
        ran.clear()
        assert np.array_equal(takes.frames(schedule), frames)
        counts.append(sum(graph not in ("condition", "decode") for graph in ran))
    assert counts == [5, 1, 3, 0, 5, 5, 2, 5, 1]


def test_noise_of_stochastic_samplers_is_the_same_in_every_take(pipeline: Pipeline, arrays: dict[str, Any]) -> None:
    takes = Takes(pipeline, arrays["image"], arrays["noise"], arrays["latents"])
    lcm = choose_schedule(pipeline.manifest, RunOptions(solver="lcm"))
    first = takes.frames(lcm)
    takes.frames(rows(pipeline, cut_step=3))
    assert np.array_equal(takes.frames(lcm), first)


def test_more_steps_come_nearer_to_the_converged_video(pipeline: Pipeline, arrays: dict[str, Any]) -> None:
    takes = Takes(pipeline, arrays["image"], arrays["noise"], arrays["latents"])
    schedule = converged_schedule(pipeline.manifest)
    assert (len(schedule), {row.bias for row in schedule}) == (CONVERGED_STEPS, {"both"})
    converged = takes.frames(schedule).astype(float)
    fine: dict[str, Any] = {"sigmas": "ays", "solver": "dpmpp-2m", "cut_step": "none"}
    errors = []
    for options in (
        {"num_inference_steps": 4, "cut_step": "none"},
        {"num_inference_steps": 12, **fine},
        {**fine, "num_inference_steps": 30},
    ):
        own: dict[str, Any] = options
        frames = takes.frames(choose_schedule(pipeline.manifest, RunOptions(**own)))
        errors.append(np.square(frames - converged).mean())
    assert errors[0] > errors[1] > errors[2]
