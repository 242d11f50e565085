"""The rows of a schedule, and the function that makes them.

A step graph does not know its sampler. It predicts ``denoised`` (x0) at noise level ``sigma`` and returns
``next_latents = k0 * latents + k1 * denoised + k2 * previous_denoised``; a row gives it ``sigma`` and the coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from vcut_runtime.schedule.solvers import SOLVERS, Coefficients, Solver

Bias = Literal["both", "mean", "cond"]
QualityBias = Literal["mean", "cond"]


class Scheduler(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Constants of the model's noise schedule (Karras et al. 2022, v-prediction)."""

    sigma_min: float
    sigma_max: float
    rho: float
    final_sigma: float
    initial_noise_scale: float  # standard deviation of the first latents of a schedule that begins at sigma_max

    def noise_scale(self, sigma: float) -> float:
        """Return the standard deviation of the first latents of a schedule that begins at ``sigma``.

        It is diffusers' ``init_noise_sigma``: the root of sigma^2 + 1, or sigma itself, as the model has it.
        """
        if math.isclose(sigma, self.sigma_max, rel_tol=1e-6):
            return self.initial_noise_scale
        return math.sqrt(max(0.0, sigma**2 + self.initial_noise_scale**2 - self.sigma_max**2))


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One denoising step.

    Attributes:
        sigma: noise level of the latents that the step takes.
        graph: the step graph that runs.
        bias: rows of ``sca_bias`` that it gets: ``both``, their ``mean`` (the paper's Eq. 4) or row 1 (``cond``).
        coefficients: k0, k1, k2 of the update.
        noise: standard deviation of the fresh noise that the runtime adds after the step.
    """

    sigma: float
    graph: str
    bias: Bias
    coefficients: Coefficients
    noise: float = 0.0


Schedule = tuple[Step, ...]


def make_schedule(
    sigmas: Sequence[float] | np.ndarray,
    cut_step: int,
    *,
    guide_from: int = 1,
    solver: Solver = "euler",
    cache_interval: int = 1,
    guided: bool = True,
    quality_bias: QualityBias = "mean",
) -> Schedule:
    """Return the rows of one video. It has three stages, and the first and the last may be empty.

    Args:
        sigmas: noise levels [steps + 1], see :mod:`vcut_runtime.schedule.grids`.
        cut_step: the first quality improvement step, 1-based; steps + 1 never cuts.
        guide_from: the first guided step, 1-based. The steps before it are conditional, with the conditional bias.
        solver: what makes the coefficients, see :mod:`vcut_runtime.schedule.solvers`.
        cache_interval: the first step of each stage runs all layers, and so does every ``cache_interval``-th step
            after it. The steps between are shallow.
        guided: use classifier-free guidance in the guided window. Without it these steps are conditional, with the
            conditional bias.
        quality_bias: the bias from the cut on.
    """
    levels = [float(sigma) for sigma in sigmas]
    rows = []
    for step in range(1, len(levels)):
        bias: Bias
        if step >= cut_step:
            first, bias = cut_step, quality_bias
        elif step >= guide_from:
            first, bias = guide_from, "both" if guided else "cond"
        else:
            first, bias = 1, "cond"
        graph = "semantic_binding" if bias == "both" else "quality_improvement"
        if (step - first) % cache_interval:
            graph += "_shallow"
        coefficients, noise = SOLVERS[solver](levels, step)
        rows.append(Step(levels[step - 1], graph, bias, coefficients, noise))
    return tuple(rows)


def select_bias(sca_bias: np.ndarray, bias: Bias) -> np.ndarray:
    """Return the rows of ``sca_bias`` [2, N] that a step gets: [2, N] for ``both``, else [1, N]."""
    if bias == "both":
        return sca_bias
    return sca_bias.mean(axis=0, keepdims=True) if bias == "mean" else sca_bias[1:]
