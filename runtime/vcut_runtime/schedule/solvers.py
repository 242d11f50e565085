"""Solvers: each gives the coefficients of a step, and the noise that is added after it, from the noise levels alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

Solver = Literal["euler", "dpmpp-2m", "lcm"]
Coefficients = tuple[float, float, float]


def euler(sigmas: Sequence[float], step: int) -> tuple[Coefficients, float]:
    """Euler, as diffusers' ``EulerDiscreteScheduler``: SVD's own solver.

    Args:
        sigmas: noise levels [steps + 1].
        step: 1-based; it leads from ``sigmas[step - 1]`` to ``sigmas[step]``.

    Returns:
        k0, k1, k2, and the standard deviation of fresh noise.
    """
    ratio = sigmas[step] / sigmas[step - 1]
    return (ratio, 1.0 - ratio, 0.0), 0.0


def dpmpp_2m(sigmas: Sequence[float], step: int) -> tuple[Coefficients, float]:
    """DPM-Solver++ (2M) with data prediction (Lu et al. 2022, algorithm 2): it also uses the step before.

    The first step has no step before it, and a step to 0 has no finite length. Both are Euler steps.
    """
    if step == 1 or sigmas[step] == 0:
        return euler(sigmas, step)
    last = math.log(sigmas[step - 2] / sigmas[step - 1])
    length = math.log(sigmas[step - 1] / sigmas[step])
    reach, ratio = -math.expm1(-length), length / last
    return (sigmas[step] / sigmas[step - 1], reach * (1.0 + ratio / 2), -reach * ratio / 2), 0.0


def lcm(sigmas: Sequence[float], step: int) -> tuple[Coefficients, float]:
    """The consistency sampler of AnimateLCM-SVD (Wang et al. 2024): jump to the prediction, then add noise again."""
    return (0.0, 1.0, 0.0), sigmas[step]


SOLVERS: Mapping[str, Callable[[Sequence[float], int], tuple[Coefficients, float]]] = {
    "euler": euler,
    "dpmpp-2m": dpmpp_2m,
    "lcm": lcm,
}
