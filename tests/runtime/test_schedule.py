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

from vcut_runtime import Step, UsageError
from vcut_runtime.schedule import (
    Scheduler,
    added_time_ids,
    check_cut_step,
    cut_step_of,
    default_cut_step,
    guidance_scale,
    karras_sigmas,
    make_schedule,
    named_schedules,
    paper_cut_step,
    parse_cut_step,
    parse_cut_steps,
    select_bias,
)

SVD = Scheduler(
    sigma_min=0.002, sigma_max=700.0, rho=7.0, final_sigma=0.0, initial_noise_scale=(700.0**2 + 1) ** 0.5
)  # stabilityai/stable-video-diffusion-img2vid-xt
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


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 25, 50, 100, 333])
@pytest.mark.parametrize("sigmas", [(0.002, 700.0), (0.1, 80.0)])
def test_sigmas_are_those_of_diffusers(steps: int, sigmas: tuple[float, float]) -> None:
    reference = euler(*sigmas)
    reference.set_timesteps(steps)
    ours = karras_sigmas(Scheduler(*sigmas, rho=7.0, final_sigma=0.0, initial_noise_scale=1.0), steps)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, reference.sigmas.numpy())


def test_sigmas_fall_from_sigma_max_by_way_of_sigma_min_to_final_sigma() -> None:
    sigmas = karras_sigmas(SVD, 25)
    assert sigmas.shape == (26,)
    assert sigmas[0] == np.float32(SVD.sigma_max)
    assert sigmas[-2] == pytest.approx(SVD.sigma_min)
    assert sigmas[-1] == SVD.final_sigma
    assert (np.diff(sigmas) < 0).all()


@pytest.mark.parametrize("sigma_max", [700.0, 80.0, 1.0])
def test_initial_noise_scale_is_that_of_diffusers(sigma_max: float) -> None:
    from vcut_export.checkpoint import scheduler_constants

    reference = euler(sigma_max=sigma_max)
    reference.set_timesteps(25)
    scale = scheduler_constants(json.loads(reference.to_json_string())).initial_noise_scale
    assert scale == (sigma_max**2 + 1) ** 0.5
    assert np.float32(scale) == pytest.approx(float(reference.init_noise_sigma), rel=1e-6)


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


def test_every_bundle_has_the_papers_schedule_and_the_one_without_a_cut() -> None:
    schedules = named_schedules(SVD, 25, 17)
    assert list(schedules) == ["vcut", "exact"]
    assert schedules["vcut"] == make_schedule(SIGMAS, 17)
    assert schedules["exact"] == make_schedule(SIGMAS, 26)
    assert [(row.graph, row.bias) for row in schedules["exact"]] == [("semantic_binding", "both")] * 25
    assert (cut_step_of(schedules["vcut"]), cut_step_of(schedules["exact"])) == (17, 26)


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
    for rows in named_schedules(SVD, 25, 17).values():
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


def test_the_quality_bias_is_that_of_the_rows_from_the_cut_on() -> None:
    rows = make_schedule(SIGMAS, 17, quality_bias="cond")
    assert [row.bias for row in rows] == ["both"] * 16 + ["cond"] * 9


@pytest.mark.parametrize("start", [1, 2, 4, 5, 17, 18, 25])
@pytest.mark.parametrize("interval", [1, 3])
def test_a_start_step_leaves_out_rows_and_begins_with_all_layers(start: int, interval: int) -> None:
    whole = make_schedule(SIGMAS, 17, cache_interval=interval)
    first, *rest = make_schedule(SIGMAS, 17, cache_interval=interval, start_step=start)
    assert first.graph == whole[start - 1].graph.removesuffix("_shallow")
    assert (first.sigma, first.bias) == (whole[start - 1].sigma, whole[start - 1].bias)
    assert tuple(rest) == whole[start:]


@pytest.mark.parametrize(("steps", "cut_step"), [(25, 17), (10, 7), (5, 4), (50, 34)])
def test_another_number_of_steps_cuts_at_the_noise_level_of_step_17_of_25(steps: int, cut_step: int) -> None:
    level = SIGMAS[16]
    sigmas = karras_sigmas(SVD, steps)
    assert sigmas[cut_step - 1] <= level < sigmas[cut_step - 2]
    assert default_cut_step(make_schedule(SIGMAS, 17), SVD, steps) == cut_step
    assert paper_cut_step(SVD, steps) == cut_step


@settings(deadline=None)
@given(STEPS, STEPS, st.data())
def test_the_default_cut_is_the_first_step_at_or_below_the_level(steps: int, others: int, data: st.DataObject) -> None:
    schedule = make_schedule(karras_sigmas(SVD, steps), data.draw(st.integers(1, steps)))
    level = schedule[cut_step_of(schedule) - 1].sigma
    cut_step = default_cut_step(schedule, SVD, others)
    assert 1 <= cut_step <= others + 1
    sigmas = karras_sigmas(SVD, others)
    assert sigmas[cut_step - 1] <= level * (1 + 1e-5)
    assert cut_step == 1 or sigmas[cut_step - 2] > level


@settings(deadline=None)
@given(STEPS, st.data())
def test_the_same_number_of_steps_keeps_the_cut_step(steps: int, data: st.DataObject) -> None:
    cut_step = data.draw(st.integers(1, steps + 1))
    schedule = make_schedule(karras_sigmas(SVD, steps), cut_step)
    assert default_cut_step(schedule, SVD, steps) == cut_step


@settings(deadline=None)
@given(STEPS, STEPS)
def test_cutting_always_and_never_stay_so_with_other_steps(steps: int, others: int) -> None:
    sigmas = karras_sigmas(SVD, steps)
    assert default_cut_step(make_schedule(sigmas, 1), SVD, others) == 1
    assert default_cut_step(make_schedule(sigmas, steps + 1), SVD, others) == others + 1


@pytest.mark.parametrize(("cut_step", "checked"), [(1, 1), (17, 17), (26, 26), ("none", 26)])
def test_cut_step_within_the_steps_passes(cut_step: Any, checked: int) -> None:
    assert check_cut_step(cut_step, 25) == checked


@pytest.mark.parametrize("cut_step", [-1, 0, 27, 1000])
def test_cut_step_outside_the_steps_is_refused(cut_step: int) -> None:
    with pytest.raises(UsageError, match=rf"^cut step {cut_step} is outside 1\.\.26: .*choose") as caught:
        check_cut_step(cut_step, 25)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "cut_steps"),
    [
        ("17", [17]),
        ("none", ["none"]),
        (" NONE , 3 ", ["none", 3]),
        ("none,10,12..15", ["none", 10, 12, 13, 14, 15]),
        ("3..3", [3]),
        ("12..14,13..16,none,none", [12, 13, 14, 15, 16, "none"]),
    ],
)
def test_cut_steps_are_numbers_ranges_and_none(text: str, cut_steps: list[int | str]) -> None:
    assert parse_cut_steps(text) == cut_steps


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'' is not a number"),
        ("soon", "'soon' is not a number"),
        ("3,,4", "'' is not a number"),
        ("3..", "'3..' is not a number"),
        ("..3", "'..3' is not a number"),
        ("3...5", "'3...5' is not a number"),
        ("none..3", "'none..3' is not a number"),
        ("1.5", "'1.5' is not a number"),
        ("5..3", "'5..3' is not a range of cut steps"),
        ("1..100000000000", "is not a range of cut steps"),
        ("1..100000000000000000000000000", "is not a range of cut steps"),
    ],
)
def test_other_cut_steps_are_refused_on_one_line(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says.replace(".", r"\.")) as caught:
        parse_cut_steps(text)
    assert len(str(caught.value).splitlines()) == 1


@given(st.text(max_size=20))
def test_any_text_is_a_list_of_cut_steps_or_refused(text: str) -> None:
    try:
        cut_steps = parse_cut_steps(text)
    except UsageError:
        return
    assert cut_steps
    assert all(cut_step == "none" or isinstance(cut_step, int) for cut_step in cut_steps)


def test_one_cut_step_is_a_number_or_none() -> None:
    assert (parse_cut_step("17"), parse_cut_step(" None ")) == (17, "none")


@pytest.mark.parametrize("text", ["1,2", "3..4", "none,1"])
def test_several_cut_steps_are_refused_where_one_is_needed(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not one step: give a number, or none"):
        parse_cut_step(text)


@pytest.mark.parametrize(("low", "high", "frames"), [(1, 3, 14), (1, 3, 25), (2.5, 7.5, 25), (3, 1, 4), (1, 3, 1)])
def test_guidance_scale_is_torch_linspace(low: float, high: float, frames: int) -> None:
    ours = guidance_scale(low, high, frames)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, torch.linspace(low, high, frames).numpy(), rtol=1e-6)


def test_added_time_ids_are_fps_less_one_motion_and_noise() -> None:
    ids = added_time_ids(7, 127, 0.02)
    assert ids.dtype == np.float32
    np.testing.assert_array_equal(ids, np.array([[6, 127, 0.02]], dtype=np.float32))


def test_mean_bias_is_equation_4_and_cond_bias_the_second_row() -> None:
    sca_bias = np.random.default_rng(0).standard_normal((2, 96), dtype=np.float32)
    unconditional, conditional = sca_bias[:1], sca_bias[1:]
    mean, cond = select_bias(sca_bias, "mean"), select_bias(sca_bias, "cond")
    assert mean.dtype == cond.dtype == np.float32
    np.testing.assert_allclose(mean, (unconditional + conditional) / 2, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(cond, conditional)
    assert select_bias(sca_bias, "both") is sca_bias
