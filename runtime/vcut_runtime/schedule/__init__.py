"""Schedules: a video's denoising steps as rows of data. :func:`make_schedule` makes the rows, a pipeline plays them.

``rows`` makes them from noise levels (``grids``), a solver (``solvers``) and a guided window (``cut_step``). ``named``
are those that every bundle carries.
"""

from vcut_runtime.schedule.cut_step import (
    PAPER_CUT_STEP,
    PAPER_STEPS,
    CutStep,
    check_cut_step,
    cut_step_at,
    cut_step_of,
    default_cut_step,
    paper_cut_step,
    parse_cut_step,
    parse_cut_steps,
)
from vcut_runtime.schedule.grids import (
    GRIDS,
    MOST_STEPS,
    ays_sigmas,
    check_sigmas,
    choose_sigmas,
    falls,
    karras_sigmas,
    parse_sigmas,
)
from vcut_runtime.schedule.named import DEFAULT_SCHEDULE, FIXED_SCHEDULES, named_schedules
from vcut_runtime.schedule.rows import Bias, QualityBias, Schedule, Scheduler, Step, make_schedule, select_bias
from vcut_runtime.schedule.solvers import SOLVERS, Solver, euler

__all__ = [
    "DEFAULT_SCHEDULE",
    "FIXED_SCHEDULES",
    "GRIDS",
    "MOST_STEPS",
    "PAPER_CUT_STEP",
    "PAPER_STEPS",
    "SOLVERS",
    "Bias",
    "CutStep",
    "QualityBias",
    "Schedule",
    "Scheduler",
    "Solver",
    "Step",
    "ays_sigmas",
    "check_cut_step",
    "check_sigmas",
    "choose_sigmas",
    "cut_step_at",
    "cut_step_of",
    "default_cut_step",
    "euler",
    "falls",
    "karras_sigmas",
    "make_schedule",
    "named_schedules",
    "paper_cut_step",
    "parse_cut_step",
    "parse_cut_steps",
    "parse_sigmas",
    "select_bias",
]
