"""The cut step c: the first step of the quality improvement stage. Steps are counted from 1."""

from __future__ import annotations

from typing import Literal

import numpy as np

from vcut_runtime.errors import UsageError
from vcut_runtime.schedule.grids import karras_sigmas
from vcut_runtime.schedule.rows import Schedule, Scheduler

CutStep = int | Literal["none"]

PAPER_STEPS, PAPER_CUT_STEP = 25, 17


def cut_step_of(schedule: Schedule) -> int:
    """Return the first step from which on no step is guided, 1-based; the number of steps + 1 if the last one is."""
    guided = [i for i, step in enumerate(schedule, start=1) if step.bias == "both"]
    return max(guided, default=0) + 1


def paper_cut_step(scheduler: Scheduler, steps: int) -> int:
    """Return the cut step at the noise level of the paper's: step 17 of 25."""
    level = karras_sigmas(scheduler, PAPER_STEPS)[PAPER_CUT_STEP - 1]
    return cut_step_at(karras_sigmas(scheduler, steps), float(level))


def cut_step_at(sigmas: np.ndarray, level: float) -> int:
    """Return the first step whose sigma is at or below ``level``: a cut at the same noise level.

    ``sigmas`` [steps + 1] end at 0, so without such a step it is steps + 1.
    """
    return int(np.argmax(sigmas <= level * (1 + 1e-5))) + 1


def default_cut_step(schedule: Schedule, sigmas: np.ndarray) -> int:
    """Return the cut step of a run with these ``sigmas``: at the noise level at which ``schedule`` cuts.

    If ``schedule`` is never cut, neither is the run.
    """
    cut_step = cut_step_of(schedule)
    return len(sigmas) if cut_step > len(schedule) else cut_step_at(sigmas, schedule[cut_step - 1].sigma)


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
