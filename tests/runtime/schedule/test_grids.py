"""Noise levels, against diffusers and the published tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_utils import AysSchedules

from example_manifest import SCHEDULER as SVD
from vcut_runtime import UsageError
from vcut_runtime.schedule import GRIDS, Scheduler, ays_sigmas, check_sigmas, choose_sigmas, karras_sigmas, parse_sigmas


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 25, 50, 100, 333])
@pytest.mark.parametrize("sigmas", [(0.002, 700.0), (0.1, 80.0)])
def test_sigmas_are_those_of_diffusers(steps: int, sigmas: tuple[float, float]) -> None:
    low, high = sigmas
    betas: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    reference = EulerDiscreteScheduler(
        **betas,
        use_karras_sigmas=True,
        sigma_min=low,
        sigma_max=high,
        prediction_type="v_prediction",
        timestep_type="continuous",
    )
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


def test_ten_steps_of_ays_are_the_published_ones() -> None:
    np.testing.assert_array_equal(ays_sigmas(SVD, 10), np.float32(AysSchedules["StableDiffusionVideoSigmas"]))


def test_other_steps_of_ays_are_between_the_published_ones_in_log() -> None:
    twenty, ten = ays_sigmas(SVD, 20).astype(np.float64), ays_sigmas(SVD, 10).astype(np.float64)
    np.testing.assert_allclose(twenty[::2], ten, rtol=1e-6)
    np.testing.assert_allclose(twenty[1:18:2], np.sqrt(ten[:-2] * ten[1:-1]), rtol=1e-6)
    assert twenty[19] == pytest.approx(np.sqrt(0.034 * 0.002), rel=1e-6)  # the last published level is 0.002


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 40])
def test_every_grid_falls_from_the_models_first_level_to_0(grid: str, steps: int) -> None:
    sigmas = GRIDS[grid].make(SVD, steps)
    assert sigmas.dtype == np.float32
    assert (len(sigmas), sigmas[0], sigmas[-1]) == (steps + 1, 700.0, 0.0)
    assert check_sigmas(sigmas) == tuple(sigmas.tolist())


def test_lcm_takes_levels_of_its_40() -> None:
    of_40 = karras_sigmas(SVD, 40)
    np.testing.assert_array_equal(GRIDS["lcm"].make(SVD, 4), [*of_40[[0, 10, 20, 30]], 0.0])
    np.testing.assert_array_equal(GRIDS["lcm"].make(SVD, 6)[:-1], of_40[[0, 6, 12, 18, 24, 30]])
    with pytest.raises(UsageError, match="the grid lcm has 40 levels, 41 steps are too many: give 2 to 8"):
        GRIDS["lcm"].make(SVD, 41)


@pytest.mark.parametrize(
    ("sigmas", "solver", "steps", "made"),
    [
        (None, "euler", None, karras_sigmas(SVD, 25)),
        (None, "dpmpp-2m", 7, karras_sigmas(SVD, 7)),
        (None, "lcm", None, GRIDS["lcm"].make(SVD, 4)),
        ("karras", "lcm", 3, karras_sigmas(SVD, 3)),
        ("ays", "euler", None, ays_sigmas(SVD, 10)),
        ((5.0, 1.0, 0.0), "euler", None, [5.0, 1.0, 0.0]),
        ((5.0, 1.0, 0.0), "euler", 2, [5.0, 1.0, 0.0]),
    ],
)
def test_a_run_gets_the_grid_that_it_names_or_its_solvers(
    sigmas: Any, solver: str, steps: int | None, made: Any
) -> None:
    np.testing.assert_array_equal(choose_sigmas(SVD, sigmas, solver, steps, 25), np.float32(made))


def test_numbers_and_another_number_of_steps_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="these sigmas make 2 steps, not 3: leave out the number of steps"):
        choose_sigmas(SVD, (5.0, 1.0, 0.0), "euler", 3, 25)


def test_sigmas_of_the_command_line() -> None:
    assert parse_sigmas("ays") == "ays"
    assert parse_sigmas(" 700, 54.5,0 ") == (700.0, 54.5, 0.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "unknown sigmas '': choose karras, ays, lcm, or give numbers that fall to 0"),
        ("exponential", "unknown sigmas 'exponential': choose karras"),
        ("700", "unknown sigmas '700'"),
        ("700,x,0", "sigmas '700,x,0' are not numbers: write them as 700,54.5,0"),
        ("700,,0", "are not numbers"),
        ("700,1", "sigmas end at 1, and the video would stay noisy: end them with 0"),
        ("1,2,0", "must be positive and fall from step to step"),
        ("2,2,0", "must be positive and fall from step to step"),
        ("2,-1,0", "must be positive and fall from step to step"),
        ("2,0,0", "must be positive and fall from step to step"),
        ("2,1e-50,0", "must be positive and fall from step to step"),
        ("2,1.00000001,1,0", "must be positive and fall from step to step"),
        ("nan,1,0", "not finite in float32"),
        ("1e39,1,0", "not finite in float32"),
        ("inf,0", "not finite in float32"),
        (",".join(map(str, range(1002, -1, -1))), "sigmas are 1003 numbers: give 2 to 1001, the last of them 0"),
    ],
)
def test_other_sigmas_are_refused_on_one_line(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_sigmas(text)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("sigmas", [[], [0.0], [[1.0, 0.0]], ["a", "b"], [object(), 0], 3.0])
def test_arrays_that_are_no_sigmas_are_refused(sigmas: Any) -> None:
    with pytest.raises(UsageError, match="sigmas are"):
        check_sigmas(sigmas)
