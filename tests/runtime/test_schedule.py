"""The numpy schedule against diffusers and the paper."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from vcut_export.checkpoint import scheduler_constants
from vcut_runtime import UsageError
from vcut_runtime.manifest import Scheduler
from vcut_runtime.schedule import (
    Chunk,
    added_time_ids,
    check_cut_step,
    decode_chunks,
    guidance_scale,
    karras_sigmas,
    plan_steps,
    scale_cut_step,
    stage_bias,
)

SVD = Scheduler(
    sigma_min=0.002, sigma_max=700.0, rho=7.0, final_sigma=0.0, initial_noise_scale=(700.0**2 + 1) ** 0.5
)  # stabilityai/stable-video-diffusion-img2vid-xt
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
    reference = euler(sigma_max=sigma_max)
    reference.set_timesteps(25)
    scale = scheduler_constants(json.loads(reference.to_json_string())).initial_noise_scale
    assert scale == (sigma_max**2 + 1) ** 0.5
    assert np.float32(scale) == pytest.approx(float(reference.init_noise_sigma), rel=1e-6)


@pytest.mark.parametrize(("cut_step", "semantic"), [(1, 0), (17, 16), (20, 19), (26, 25)])
def test_steps_before_the_cut_bind_semantics_and_the_rest_improve_quality(cut_step: int, semantic: int) -> None:
    stages = [step.stage for step in plan_steps(SVD, 25, cut_step)]
    assert stages == ["semantic_binding"] * semantic + ["quality_improvement"] * (25 - semantic)


def test_steps_count_from_one_and_follow_the_sigmas() -> None:
    steps = plan_steps(SVD, 25, 17)
    sigmas = karras_sigmas(SVD, 25).tolist()
    assert [step.index for step in steps] == list(range(1, 26))
    assert [step.sigma for step in steps] == sigmas[:-1]
    assert [step.sigma_next for step in steps] == sigmas[1:]


@pytest.mark.parametrize(
    ("cut_step", "interval", "deep"),
    [
        (26, 1, range(1, 26)),
        (26, 3, range(1, 26, 3)),
        (17, 3, [*range(1, 17, 3), 17, 20, 23]),
        (18, 5, [1, 6, 11, 16, 18, 23]),
        (1, 2, range(1, 26, 2)),
        (17, 100, [1, 17]),
    ],
)
def test_each_stage_begins_with_all_layers_and_then_every_so_many_steps(
    cut_step: int, interval: int, deep: list[int]
) -> None:
    steps = plan_steps(SVD, 25, cut_step, interval)
    assert [step.index for step in steps if not step.shallow] == list(deep)


@pytest.mark.parametrize(("cut_step", "checked"), [(1, 1), (17, 17), (26, 26), (None, 26)])
def test_cut_step_within_the_steps_passes(cut_step: int | None, checked: int) -> None:
    assert check_cut_step(cut_step, 25) == checked


@pytest.mark.parametrize("cut_step", [-1, 0, 27, 1000])
def test_cut_step_outside_the_steps_is_refused(cut_step: int) -> None:
    with pytest.raises(UsageError, match=rf"^cut step {cut_step} is outside 1\.\.26: .*choose") as caught:
        check_cut_step(cut_step, 25)
    assert len(str(caught.value).splitlines()) == 1


@settings(deadline=None)
@given(STEPS, STEPS, st.data())
def test_scaled_cut_step_guides_the_nearest_share(steps: int, new_steps: int, data: st.DataObject) -> None:
    cut_step = data.draw(st.integers(1, steps + 1))
    scaled = scale_cut_step(cut_step, steps, new_steps)
    assert 1 <= scaled <= new_steps + 1
    assert (scaled - 1) / new_steps == pytest.approx((cut_step - 1) / steps, abs=0.5 / new_steps + 1e-9)


@settings(deadline=None)
@given(STEPS, st.data())
def test_same_number_of_steps_keeps_the_cut_step(steps: int, data: st.DataObject) -> None:
    cut_step = data.draw(st.integers(1, steps + 1))
    assert scale_cut_step(cut_step, steps, steps) == cut_step


@settings(deadline=None)
@given(STEPS, STEPS)
def test_always_and_never_cutting_survive_scaling(steps: int, new_steps: int) -> None:
    assert scale_cut_step(1, steps, new_steps) == 1
    assert scale_cut_step(steps + 1, steps, new_steps) == new_steps + 1


def test_seventeen_of_25_becomes_seven_of_10() -> None:
    assert scale_cut_step(17, 25, 10) == 7


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
    mean, cond = stage_bias(sca_bias, "mean"), stage_bias(sca_bias, "cond")
    assert mean.dtype == cond.dtype == np.float32
    np.testing.assert_allclose(mean, (unconditional + conditional) / 2, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(cond, conditional)


@given(frames=st.integers(1, 60), size=st.integers(1, 60), overlap=st.integers(0, 8), full=st.booleans())
def test_decode_chunks_keep_every_frame_once_with_its_context(frames: int, size: int, overlap: int, full: bool) -> None:
    if size < frames and size <= 2 * overlap:
        with pytest.raises(UsageError, match=f"at least {2 * overlap + 1} at a time"):
            decode_chunks(frames, size, overlap)
        return
    chunks = decode_chunks(frames, size, overlap, full=full)
    assert [i for c in chunks for i in range(c.keep_from, c.keep_to)] == list(range(frames))
    for chunk in chunks:
        assert 0 <= chunk.start <= chunk.keep_from < chunk.keep_to <= chunk.stop <= frames
        assert chunk.stop - chunk.start == min(size, frames) or (not full and chunk.stop == frames)
        assert chunk.keep_from - chunk.start >= overlap or chunk.start == 0
        assert chunk.stop - chunk.keep_to >= overlap or chunk.stop == frames


def test_decode_chunks_of_a_few_frames() -> None:
    assert decode_chunks(25, 25, 3) == [Chunk(0, 25, 0, 25)]
    assert decode_chunks(7, 4, 1) == [Chunk(0, 4, 0, 3), Chunk(2, 6, 3, 5), Chunk(3, 7, 5, 7)]
    assert decode_chunks(5, 2, 0, full=False) == [Chunk(0, 2, 0, 2), Chunk(2, 4, 2, 4), Chunk(4, 5, 4, 5)]
    assert decode_chunks(7, 4, 1, full=False) == [Chunk(0, 4, 0, 3), Chunk(2, 6, 3, 5), Chunk(4, 7, 5, 7)]
    assert decode_chunks(5, 2, 0) == [Chunk(0, 2, 0, 2), Chunk(2, 4, 2, 4), Chunk(3, 5, 4, 5)]
