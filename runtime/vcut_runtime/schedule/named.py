"""The schedules that every bundle carries."""

from __future__ import annotations

from typing import NamedTuple

from vcut_runtime.schedule.cut_step import cut_step_at
from vcut_runtime.schedule.grids import ays_sigmas, karras_sigmas
from vcut_runtime.schedule.rows import Schedule, Scheduler, make_schedule

DEFAULT_SCHEDULE = "vcut"
FIXED_SCHEDULES = (DEFAULT_SCHEDULE, "exact")  # they mean the same in every bundle


class Quick(NamedTuple):
    """A quick schedule: Align Your Steps and DPM-Solver++ (2M).

    Attributes:
        steps: number of denoising steps.
        second: noise level after the first step, see ``ays_sigmas``.
        guide_from: the first guided step.
        cut_below: the cut is the first step at or below this noise level.
    """

    steps: int
    second: float
    guide_from: int
    cut_below: float


QUICK = {"balanced": Quick(8, 20.0, 1, 0.5), "fast": Quick(7, 30.0, 2, 0.5)}


def named_schedules(scheduler: Scheduler, steps: int, cut_step: int) -> dict[str, Schedule]:
    """Return the schedules by name.

    ``vcut`` is the paper's, cut at ``cut_step``. ``exact`` is never cut: diffusers' own steps. ``balanced`` and
    ``fast`` were found on svd-tiny, so for other models they are a first guess that ``vcut tune`` improves.
    """
    sigmas = karras_sigmas(scheduler, steps)
    return {
        DEFAULT_SCHEDULE: make_schedule(sigmas, cut_step),
        "exact": make_schedule(sigmas, steps + 1),
        **{name: _quick(scheduler, quick) for name, quick in QUICK.items()},
    }


def _quick(scheduler: Scheduler, quick: Quick) -> Schedule:
    sigmas = ays_sigmas(scheduler, quick.steps, quick.second)
    cut_step = cut_step_at(sigmas, quick.cut_below)
    return make_schedule(sigmas, cut_step, guide_from=quick.guide_from, solver="dpmpp-2m")
