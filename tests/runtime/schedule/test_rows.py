"""Schedules as rows, against diffusers' scheduler and the paper."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from example_manifest import SCHEDULER as SVD
from vcut_runtime import Step
from vcut_runtime.schedule import (
    Scheduler,
    ays_sigmas,
    cut_step_of,
    karras_sigmas,
    make_schedule,
    named_schedules,
    select_bias,
)

SIGMAS = karras_sigmas(SVD, 25)
STEPS = st.integers(1, 1000)


def euler(sigma_min: float = SVD.sigma_min, sigma_max: float = SVD.sigma_max) -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        beta_end=0.012,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        interpolation_type="linear",
        prediction_type="v_prediction",
        sigma_max=sigma_max,
        sigma_min=sigma_min,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )


@pytest.mark.parametrize("sigma_max", [700.0, 80.0, 1.0])
def test_initial_noise_scale_is_that_of_diffusers(sigma_max: float) -> None:
    from vcut_export.checkpoint import scheduler_constants

    reference = euler(sigma_max=sigma_max)
    reference.set_timesteps(25)
    scale = scheduler_constants(json.loads(reference.to_json_string())).initial_noise_scale
    assert scale == (sigma_max**2 + 1) ** 0.5
    assert np.float32(scale) == pytest.approx(float(reference.init_noise_sigma), rel=1e-6)


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
@pytest.mark.parametrize("first", [700.0, 80.0, 14.6, 1.0])
def test_other_first_sigmas_scale_the_noise_as_diffusers_does(first: float, spacing: str) -> None:
    from vcut_export.checkpoint import scheduler_constants

    reference: Any = EulerDiscreteScheduler.from_config(euler().config, timestep_spacing=spacing)
    reference.set_timesteps(sigmas=[first, first / 2, 0.0])
    ours = scheduler_constants(json.loads(reference.to_json_string())).noise_scale(first)
    assert np.float32(ours) == pytest.approx(float(reference.init_noise_sigma), rel=1e-6)


def full_steps(rows: Sequence[Step]) -> list[int]:
    """Return the numbers of the steps that run all layers."""
    return [number for number, row in enumerate(rows, start=1) if not row.graph.endswith("_shallow")]


@pytest.mark.parametrize(("cut_step", "guided"), [(1, 0), (17, 16), (20, 19), (26, 25)])
def test_steps_before_the_cut_are_guided_and_the_rest_are_conditional(cut_step: int, guided: int) -> None:
    rows = make_schedule(SIGMAS, cut_step)
    assert [row.graph for row in rows] == ["semantic_binding"] * guided + ["quality_improvement"] * (25 - guided)
    assert [row.bias for row in rows] == ["both"] * guided + ["mean"] * (25 - guided)
    assert cut_step_of(rows) == cut_step


def test_rows_follow_the_sigmas_and_add_no_noise() -> None:
    rows = make_schedule(SIGMAS, 17)
    assert [row.sigma for row in rows] == SIGMAS[:-1].tolist()
    assert [row.noise for row in rows] == [0.0] * 25


@pytest.mark.parametrize("steps", [1, 2, 7, 25, 50])
@pytest.mark.parametrize("sigma_max", [700.0, 80.0])
def test_a_row_does_what_a_step_of_diffusers_does(steps: int, sigma_max: float) -> None:
    """diffusers' scheduler gives both x0 and the next latents; the row has to make the latter from the former."""
    reference = euler(sigma_max=sigma_max)
    reference.set_timesteps(steps)
    scheduler = Scheduler(0.002, sigma_max, rho=7.0, final_sigma=0.0, initial_noise_scale=1.0)
    rows = make_schedule(karras_sigmas(scheduler, steps), 1)
    draw = torch.Generator().manual_seed(steps)
    previous = torch.randn(2, 4, 8, 8, generator=draw, dtype=torch.float64)
    for row, time in zip(rows, reference.timesteps, strict=True):
        latents = torch.randn(2, 4, 8, 8, generator=draw, dtype=torch.float64) * (row.sigma**2 + 1) ** 0.5
        velocity = torch.randn(2, 4, 8, 8, generator=draw, dtype=torch.float64)
        theirs: Any = reference.step(velocity, time, latents)
        k0, k1, k2 = row.coefficients
        ours = k0 * latents + k1 * theirs.pred_original_sample + k2 * previous
        scale = float(latents.abs().max())
        assert float((ours - theirs.prev_sample).abs().max()) <= 2e-6 * scale  # diffusers computes in float32
        previous = theirs.pred_original_sample


def test_the_last_step_gives_what_it_predicts() -> None:
    schedules = [*named_schedules(SVD, 25, 17).values(), make_schedule(ays_sigmas(SVD, 3), 4, solver="lcm")]
    for rows in schedules:
        assert rows[-1].noise == 0
        assert rows[-1].coefficients == (0.0, 1.0, 0.0)


@settings(deadline=None)
@given(STEPS, st.data())
def test_euler_rows_take_a_weighted_mean(steps: int, data: st.DataObject) -> None:
    rows = make_schedule(karras_sigmas(SVD, steps), data.draw(st.integers(1, steps + 1)))
    assert len(rows) == steps
    for row in rows:
        k0, k1, k2 = row.coefficients
        assert 0.0 <= k0 < 1.0
        assert k0 + k1 == pytest.approx(1.0)
        assert k2 == 0.0


@pytest.mark.parametrize(
    ("cut_step", "interval", "full"),
    [
        (26, 1, range(1, 26)),
        (26, 3, range(1, 26, 3)),
        (17, 3, [*range(1, 17, 3), 17, 20, 23]),
        (18, 5, [1, 6, 11, 16, 18, 23]),
        (1, 2, range(1, 26, 2)),
        (17, 100, [1, 17]),
    ],
)
def test_each_stage_begins_with_all_layers_and_runs_them_again_every_so_many_steps(
    cut_step: int, interval: int, full: Sequence[int]
) -> None:
    rows = make_schedule(SIGMAS, cut_step, cache_interval=interval)
    assert full_steps(rows) == list(full)
    plain = make_schedule(SIGMAS, cut_step)
    assert [row.graph.removesuffix("_shallow") for row in rows] == [row.graph for row in plain]
    assert [(row.sigma, row.bias, row.coefficients) for row in rows] == [
        (row.sigma, row.bias, row.coefficients) for row in plain
    ]


def test_without_guidance_every_step_is_conditional() -> None:
    rows = make_schedule(SIGMAS, 17, guided=False)
    assert {row.graph for row in rows} == {"quality_improvement"}
    assert [row.bias for row in rows] == ["cond"] * 16 + ["mean"] * 9
    assert [row.bias for row in make_schedule(SIGMAS, 26, guided=False)] == ["cond"] * 25
    assert full_steps(make_schedule(SIGMAS, 17, guided=False, cache_interval=5)) == [1, 6, 11, 16, 17, 22]


@pytest.mark.parametrize(("guide_from", "cut_step"), [(2, 17), (8, 20), (25, 26), (5, 26)])
def test_steps_before_the_guided_window_are_conditional_with_the_conditional_bias(
    guide_from: int, cut_step: int
) -> None:
    rows = make_schedule(SIGMAS, cut_step, guide_from=guide_from, cache_interval=3)
    before, guided, after = guide_from - 1, cut_step - guide_from, 26 - cut_step
    assert [row.bias for row in rows] == ["cond"] * before + ["both"] * guided + ["mean"] * after
    assert [row.graph.startswith("semantic_binding") for row in rows] == [row.bias == "both" for row in rows]
    first = {1, guide_from, cut_step}
    assert all(number in full_steps(rows) for number in first if number <= 25)
    plain = make_schedule(SIGMAS, cut_step)
    assert [(row.sigma, row.coefficients) for row in rows] == [(row.sigma, row.coefficients) for row in plain]


def test_the_quality_bias_is_that_of_the_rows_from_the_cut_on() -> None:
    rows = make_schedule(SIGMAS, 17, quality_bias="cond")
    assert [row.bias for row in rows] == ["both"] * 16 + ["cond"] * 9


def test_mean_bias_is_equation_4_and_cond_bias_the_second_row() -> None:
    sca_bias = np.random.default_rng(0).standard_normal((2, 96), dtype=np.float32)
    unconditional, conditional = sca_bias[:1], sca_bias[1:]
    mean, cond = select_bias(sca_bias, "mean"), select_bias(sca_bias, "cond")
    assert mean.dtype == cond.dtype == np.float32
    np.testing.assert_allclose(mean, (unconditional + conditional) / 2, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(cond, conditional)
    assert select_bias(sca_bias, "both") is sca_bias
