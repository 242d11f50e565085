"""Grids: the noise levels of a schedule, by name or as a list of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vcut_runtime.errors import UsageError

if TYPE_CHECKING:
    from vcut_runtime.schedule.rows import Scheduler

MOST_STEPS = 1000
# "Align Your Steps" (Sabour et al. 2024): 10 steps, optimised for SVD.
_AYS = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)
_LCM_TRAINING_STEPS, _LCM_RHO = 40, 7.0


def karras_sigmas(scheduler: Scheduler, steps: int) -> np.ndarray:
    """Return the noise levels [steps + 1], float32, from ``sigma_max`` to ``final_sigma`` (Karras et al., eq. 5)."""
    return _rounded(np.append(_karras(scheduler, np.linspace(0, 1, steps), scheduler.rho), scheduler.final_sigma))


def ays_sigmas(scheduler: Scheduler, steps: int, second: float | None = None) -> np.ndarray:
    """Return the noise levels [steps + 1], float32, of "Align Your Steps" (Sabour et al. 2024) for SVD.

    The 11 published levels are interpolated log-linearly to steps + 1. The last one becomes ``final_sigma``. With
    ``second`` the first step leads there, and only the levels below it are interpolated: with few steps, the low levels
    need them more.
    """
    published, logs = np.linspace(0, 1, len(_AYS)), np.log(_AYS)
    if second is None or steps == 1:
        sigmas = np.exp(np.interp(np.linspace(0, 1, steps + 1), published, logs))
    else:
        place = np.interp(-np.log(second), -logs, published)
        sigmas = np.append(_AYS[0], np.exp(np.interp(np.linspace(place, 1, steps), published, logs)))
    return _rounded(np.append(sigmas[:-1], scheduler.final_sigma))


def lcm_sigmas(scheduler: Scheduler, steps: int) -> np.ndarray:
    """Return the noise levels [steps + 1], float32, of AnimateLCM-SVD's sampler.

    It was trained on 40 Karras levels. ``steps`` of them are used, at even distances from the first on.

    Raises:
        UsageError: there are more than 40 steps.
    """
    if steps > _LCM_TRAINING_STEPS:
        raise UsageError(f"the grid lcm has {_LCM_TRAINING_STEPS} levels, {steps} steps are too many: give 2 to 8")
    every = _LCM_TRAINING_STEPS // steps
    sigmas = _karras(scheduler, np.arange(steps) * every / (_LCM_TRAINING_STEPS - 1), _LCM_RHO)
    return _rounded(np.append(sigmas, 0.0))


class Grid(NamedTuple):
    """A named grid."""

    make: Callable[[Scheduler, int], np.ndarray]
    steps: int | None  # if a run does not say how many; None: the bundle's


GRIDS: Mapping[str, Grid] = {
    "karras": Grid(karras_sigmas, None),
    "ays": Grid(ays_sigmas, len(_AYS) - 1),
    "lcm": Grid(lcm_sigmas, 4),
}


def choose_sigmas(
    scheduler: Scheduler, sigmas: str | Sequence[float] | None, solver: str, steps: int | None, usual_steps: int
) -> np.ndarray:
    """Return the noise levels [steps + 1], float32, of a run.

    Args:
        scheduler: the model's constants.
        sigmas: name of a grid, or the levels; by default the grid that the solver was made for.
        solver: its name.
        steps: denoising steps, None if the run does not say.
        usual_steps: the steps of grids that have no number of their own.

    Raises:
        UsageError: they do not fit together.
    """
    if sigmas is None:
        sigmas = "lcm" if solver == "lcm" else "karras"
    if isinstance(sigmas, str):
        grid = GRIDS[sigmas]
        levels = grid.make(scheduler, steps or grid.steps or usual_steps)
        if not falls(levels):
            raise UsageError(
                f"the bundle's scheduler constants give no falling noise levels of {sigmas}: choose other --sigmas"
            )
        return levels
    if steps is not None and steps != len(sigmas) - 1:
        raise UsageError(f"these sigmas make {len(sigmas) - 1} steps, not {steps}: leave out the number of steps")
    return np.array(sigmas, dtype=np.float32)


def falls(levels: np.ndarray) -> bool:
    """Tell whether noise levels [steps + 1] are finite in float32 and fall, all of them positive but the last."""
    with np.errstate(over="ignore", invalid="ignore"):
        levels = np.asarray(levels, dtype=np.float64).astype(np.float32)
        return bool(np.isfinite(levels).all() and (levels[:-1] > 0).all() and (np.diff(levels) < 0).all())


def check_sigmas(sigmas: str | Sequence[float] | np.ndarray) -> str | tuple[float, ...]:
    """Return the name of a grid, or noise levels as a tuple.

    Raises:
        UsageError: the name is unknown, or the levels do not fall from a positive number to 0.
    """
    if isinstance(sigmas, str):
        if sigmas not in GRIDS:
            raise UsageError(f"unknown sigmas {sigmas!r}: choose {', '.join(GRIDS)}, or give numbers that fall to 0")
        return sigmas
    try:
        levels = np.asarray(sigmas, dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError(f"sigmas are not numbers: choose {', '.join(GRIDS)}, or give numbers that fall to 0") from None
    if levels.ndim != 1 or not 2 <= len(levels) <= MOST_STEPS + 1:
        raise UsageError(f"sigmas are {levels.size} numbers: give 2 to {MOST_STEPS + 1}, the last of them 0")
    with np.errstate(over="ignore"):
        rounded = levels.astype(np.float32)
    if not np.isfinite(rounded).all():
        raise UsageError("sigmas has a number that is not finite in float32: give levels such as 700,54.5,0")
    if rounded[-1] != 0:
        raise UsageError(f"sigmas end at {levels[-1]:g}, and the video would stay noisy: end them with 0")
    if not falls(levels):
        raise UsageError("sigmas must be positive and fall from step to step: sort them, and give 0 only as the last")
    return tuple(levels.tolist())


def parse_sigmas(text: str) -> str | tuple[float, ...]:
    """Return the name of a grid, or ``700,54.5,0`` as numbers; see :func:`check_sigmas`."""
    if "," not in text:
        return check_sigmas(text.strip())
    try:
        levels = [float(word) for word in text.split(",")]
    except ValueError:
        raise UsageError(f"sigmas {text!r} are not numbers: write them as 700,54.5,0") from None
    return check_sigmas(levels)


def _karras(scheduler: Scheduler, ramp: np.ndarray, rho: float) -> np.ndarray:
    with np.errstate(all="ignore"):  # impossible constants give no levels, see ``falls``
        low, high = np.power([scheduler.sigma_min, scheduler.sigma_max], 1 / rho)
        return (high + ramp * (low - high)) ** rho


def _rounded(sigmas: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return sigmas.astype(np.float32)
