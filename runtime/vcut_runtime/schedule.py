"""Schedules: a video's denoising steps as rows of data. :func:`make_schedule` makes the rows, a pipeline plays them.

A step graph does not know its sampler. It predicts ``denoised`` (x0) at noise level ``sigma`` and returns
``next_latents = k0 * latents + k1 * denoised + k2 * previous_denoised``; a row gives it ``sigma`` and the coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from vcut_runtime.errors import UsageError

Bias = Literal["both", "mean", "cond"]
QualityBias = Literal["mean", "cond"]
CutStep = int | Literal["none"]

PAPER_STEPS, PAPER_CUT_STEP = 25, 17
DEFAULT_SCHEDULE = "vcut"


class Scheduler(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Constants of the model's noise schedule (Karras et al. 2022, v-prediction)."""

    sigma_min: float
    sigma_max: float
    rho: float
    final_sigma: float
    initial_noise_scale: float  # standard deviation of the first latents


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
    coefficients: tuple[float, float, float]
    noise: float = 0.0


Schedule = tuple[Step, ...]


def make_schedule(
    sigmas: Sequence[float] | np.ndarray,
    cut_step: int,
    *,
    cache_interval: int = 1,
    guided: bool = True,
    quality_bias: QualityBias = "mean",
    start_step: int = 1,
) -> Schedule:
    """Return the rows of one video.

    Args:
        sigmas: noise levels [steps + 1], see :func:`karras_sigmas`.
        cut_step: the first quality improvement step, 1-based; steps + 1 never cuts.
        cache_interval: the first step of each stage runs all layers, and so does every ``cache_interval``-th step
            after it. The steps between are shallow.
        guided: use classifier-free guidance before the cut. Without it those steps are conditional, with the
            conditional bias.
        quality_bias: the bias from the cut on.
        start_step: leave out the steps before this one. It runs all layers, because there is nothing to reuse.
    """
    rows = []
    for step in range(start_step, len(sigmas)):
        binding = step < cut_step
        since = step - 1 if binding else step - cut_step
        graph = "semantic_binding" if binding and guided else "quality_improvement"
        if since % cache_interval and step > start_step:
            graph += "_shallow"
        bias: Bias = quality_bias if not binding else "both" if guided else "cond"
        sigma = float(sigmas[step - 1])
        rows.append(Step(sigma, graph, bias, euler_coefficients(sigma, float(sigmas[step]))))
    return tuple(rows)


def euler_coefficients(sigma: float, sigma_next: float) -> tuple[float, float, float]:
    """Return k0, k1, k2 of an Euler step from ``sigma`` to ``sigma_next`` (diffusers' ``EulerDiscreteScheduler``)."""
    ratio = sigma_next / sigma
    return ratio, 1.0 - ratio, 0.0


def karras_sigmas(scheduler: Scheduler, steps: int) -> np.ndarray:
    """Return the noise levels [steps + 1], float32, from ``sigma_max`` to ``final_sigma`` (Karras et al., eq. 5)."""
    ramp = np.linspace(0, 1, steps)
    low, high = scheduler.sigma_min ** (1 / scheduler.rho), scheduler.sigma_max ** (1 / scheduler.rho)
    sigmas = (high + ramp * (low - high)) ** scheduler.rho
    return np.append(sigmas, scheduler.final_sigma).astype(np.float32)


def named_schedules(scheduler: Scheduler, steps: int, cut_step: int) -> dict[str, Schedule]:
    """Return the schedules that every bundle carries: ``vcut``, cut at ``cut_step``, and ``exact``, never cut."""
    sigmas = karras_sigmas(scheduler, steps)
    return {"vcut": make_schedule(sigmas, cut_step), "exact": make_schedule(sigmas, steps + 1)}


def cut_step_of(schedule: Schedule) -> int:
    """Return the first step from which on no step is guided, 1-based; the number of steps + 1 if the last one is."""
    guided = [i for i, step in enumerate(schedule, start=1) if step.bias == "both"]
    return max(guided, default=0) + 1


def paper_cut_step(scheduler: Scheduler, steps: int) -> int:
    """Return the cut step at the noise level of the paper's: step 17 of 25."""
    level = karras_sigmas(scheduler, PAPER_STEPS)[PAPER_CUT_STEP - 1]
    return cut_step_at(karras_sigmas(scheduler, steps), float(level))


def cut_step_at(sigmas: np.ndarray, level: float) -> int:
    """Return the first step, 1-based, whose sigma is at or below ``level``: a cut at the same noise level."""
    return int(np.argmax(sigmas <= level * (1 + 1e-5))) + 1


def default_cut_step(schedule: Schedule, scheduler: Scheduler, steps: int) -> int:
    """Return the cut step of a run of ``steps`` steps: at the noise level at which ``schedule`` cuts."""
    cut_step = cut_step_of(schedule)
    if steps == len(schedule):
        return cut_step
    if cut_step > len(schedule):
        return steps + 1
    return cut_step_at(karras_sigmas(scheduler, steps), schedule[cut_step - 1].sigma)


def check_cut_step(cut_step: CutStep, steps: int) -> int:
    """Return the cut step as a number; ``"none"`` never cuts and is ``steps + 1``.

    Raises:
        UsageError: it is outside 1..steps+1.
    """
    if cut_step == "none":
        return steps + 1
    if not 1 <= cut_step <= steps + 1:
        raise UsageError(
            f"cut step {cut_step} is outside 1..{steps + 1}: with {steps} steps choose one in that range, "
            f"or none ({steps + 1}) to guide every step"
        )
    return cut_step


def parse_cut_step(text: str) -> CutStep:
    """Return ``17`` as a number and ``none`` as it is.

    Raises:
        UsageError: it is neither.
    """
    cut_steps = parse_cut_steps(text)
    if len(cut_steps) != 1:
        raise UsageError(f"cut step {text!r} is not one step: give a number, or none to guide every step")
    return cut_steps[0]


def parse_cut_steps(text: str) -> list[CutStep]:
    """Return ``none,10,12..24`` as a list, each cut step once.

    Raises:
        UsageError: it does not have this form.
    """
    cut_steps: list[CutStep] = []
    for word in (part.strip().lower() for part in text.split(",")):
        if word == "none":
            cut_steps.append("none")
            continue
        first, dots, last = word.partition("..")
        try:
            steps = range(int(first), int(last if dots else first) + 1)
        except ValueError:
            raise UsageError(f"cut step {word!r} is not a number: give a step, or none to guide every step") from None
        if not 0 < steps.stop - steps.start <= 1000:
            raise UsageError(f"{word!r} is not a range of cut steps: write it as 12..24")
        cut_steps.extend(steps)
    return list(dict.fromkeys(cut_steps))


def guidance_scale(minimum: float, maximum: float, frames: int) -> np.ndarray:
    """Return the per-frame guidance scale [frames], float32, linear from the first frame to the last."""
    return np.linspace(minimum, maximum, frames, dtype=np.float32)


def added_time_ids(fps: int, motion_bucket_id: float, noise_aug_strength: float) -> np.ndarray:
    """Return the micro-conditioning [1, 3]; SVD was trained on ``fps - 1``."""
    return np.array([[fps - 1, motion_bucket_id, noise_aug_strength]], dtype=np.float32)


def select_bias(sca_bias: np.ndarray, bias: Bias) -> np.ndarray:
    """Return the rows of ``sca_bias`` [2, N] that a step gets: [2, N] for ``both``, else [1, N]."""
    if bias == "both":
        return sca_bias
    return sca_bias.mean(axis=0, keepdims=True) if bias == "mean" else sca_bias[1:]
