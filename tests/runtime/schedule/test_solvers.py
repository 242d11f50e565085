"""Solvers against diffusers' schedulers, in float64 where they allow it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_edm_dpmsolver_multistep import EDMDPMSolverMultistepScheduler

from example_manifest import SCHEDULER as SVD
from vcut_runtime.schedule import ays_sigmas, karras_sigmas, make_schedule


def variance_preserving() -> Any:
    """Latents of this scheduler are SVD's divided by sqrt(sigma^2 + 1), which is what SVD's network sees."""
    return DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=2, prediction_type="v_prediction", final_sigmas_type="zero"
    )


def variance_exploding() -> Any:
    """EDM's form, whose latents and scalings are SVD's."""
    return EDMDPMSolverMultistepScheduler(
        sigma_min=0.002, sigma_max=700.0, sigma_data=1.0, prediction_type="v_prediction", solver_order=2
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 14, 25])
@pytest.mark.parametrize("grid", [karras_sigmas, ays_sigmas])
@pytest.mark.parametrize("make", [variance_preserving, variance_exploding])
def test_dpmpp_2m_is_that_of_diffusers(make: Any, grid: Any, steps: int) -> None:
    """On a network of one line. Like diffusers, the last step is first-order, because it leads to 0."""
    sigmas = grid(SVD, steps)
    scheduler = make()
    scheduler.set_timesteps(steps)
    scheduler.sigmas = torch.from_numpy(sigmas.astype(np.float64))
    scheduler.timesteps = torch.arange(steps, dtype=torch.float64)
    scheduler.num_inference_steps = steps
    preserving = make is variance_preserving
    draw = torch.Generator().manual_seed(steps)
    x = torch.randn(2, 4, 8, 8, generator=draw, dtype=torch.float64) * SVD.noise_scale(float(sigmas[0]))
    theirs, previous = x.clone(), torch.zeros_like(x)
    if preserving:
        theirs = theirs / (float(sigmas[0]) ** 2 + 1) ** 0.5

    def network(seen: torch.Tensor, sigma: float) -> torch.Tensor:
        return torch.sin(3 * seen + np.log(sigma))

    for number, row in enumerate(make_schedule(sigmas, 1, solver="dpmpp-2m")):
        root = (row.sigma**2 + 1) ** 0.5
        v = network(x / root, row.sigma)
        denoised = x / root**2 - v * row.sigma / root
        k0, k1, k2 = row.coefficients
        x, previous = k0 * x + k1 * denoised + k2 * previous, denoised
        seen = theirs if preserving else theirs / root
        theirs = scheduler.step(network(seen, row.sigma), scheduler.timesteps[number], theirs).prev_sample
        end = float(sigmas[number + 1])
        scaled = theirs * (end**2 + 1) ** 0.5 if preserving else theirs
        scale = max(1.0, float(x.abs().max()))
        assert float((x - scaled).abs().max()) <= 1e-5 * scale


def test_lcm_jumps_to_the_prediction_and_adds_the_next_levels_noise() -> None:
    sigmas = karras_sigmas(SVD, 4)
    rows = make_schedule(sigmas, 5, solver="lcm", guided=False)
    assert [row.coefficients for row in rows] == [(0.0, 1.0, 0.0)] * 4
    assert [row.noise for row in rows] == [*sigmas[1:4].tolist(), 0.0]
    assert {(row.graph, row.bias) for row in rows} == {("quality_improvement", "cond")}
