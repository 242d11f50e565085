"""The search of ``vcut tune``: the fastest schedule of a bundle whose error stays within a bound.

What a schedule takes is known before it runs: the seconds of its steps add up. Only its error must be measured. So the
search walks along the bound: more steps with less guidance, or fewer steps with more. What would take longer than the
best schedule so far is never run, and neither is a shorter guided window than one that already failed.

Candidates are screened on one video of each of two photographs. Photographs differ by several dB, and they do so by
much the same for every schedule. So one schedule is measured on all photographs first. It says how far the screening
must lie above the bound for the interval over all photographs to lie above it too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from vcut_bench.compiled import Progress
from vcut_bench.metrics import summarize
from vcut_runtime import RunOptions
from vcut_runtime.bundle.manifest import Manifest
from vcut_runtime.run_plan import choose_schedule
from vcut_runtime.schedule import QualityBias, Schedule, Solver, ays_sigmas

MOST_STEPS = 30  # diffusers' usual 25, and some
_MORE_STEPS = 2  # than a schedule needs that is never cut: windows then may be shorter
_LATEST_START = 4  # of the guided window
_NEAR = 0.3  # dB below the target, where finalists may still be better on all photographs
_SLOWER = 1.3  # than the fastest family without a cut: its windows cannot make up for more


class Family(NamedTuple):
    """Schedules that differ in their number of steps and in their guided window."""

    grid: str
    second: float | None  # noise level after the first step of Align Your Steps; None as published
    solver: Solver
    cache_interval: int

    def options(self, manifest: Manifest, steps: int, **window: Any) -> RunOptions:
        """Return the options of a schedule of this family; by default it is never cut."""
        sigmas: Any = self.grid
        if self.second is not None:
            sigmas = ays_sigmas(manifest.scheduler, steps, self.second).tolist()
        return RunOptions(
            sigmas=sigmas,
            num_inference_steps=steps,
            solver=self.solver,
            cache_interval=self.cache_interval,
            **{"cut_step": "none", **window},
        )


@dataclass(frozen=True)
class Candidate:
    """A schedule, the options that make it, and the seconds that its steps take."""

    title: str
    options: RunOptions
    schedule: Schedule
    seconds: float


@dataclass
class Search:
    """Finds schedules on the videos that it is given.

    Attributes:
        manifest: of the bundle.
        step_seconds: seconds of one step, by graph.
        error: PSNR in dB of a schedule's video; called with the schedule and the video's number.
        videos: number of videos, the seeds of an image one after the other.
        seeds: videos of an image.
        min_psnr: the bound in dB.
        progress: called with what is done, done and total.
    """

    manifest: Manifest
    step_seconds: Mapping[str, float]
    error: Callable[[Schedule, int], float]
    videos: int
    seeds: int
    min_psnr: float
    progress: Progress = lambda stage, done, total: None
    tried: dict[Schedule, Candidate] = field(default_factory=dict)
    screened: dict[Schedule, float] = field(default_factory=dict)
    target: float = 0.0  # what the screening must reach
    best: float = float("inf")  # seconds of the fastest screened candidate that reaches it

    def run(self) -> Candidate | None:
        """Return the fastest candidate whose interval over all photographs lies above the bound, None without one."""
        families = self._families()
        self._calibrate(families[0])
        steps: dict[Family, int] = {}
        for done, family in enumerate(families):
            self.progress("steps", done, len(families))
            if (needed := self._fewest_steps(family)) is not None:
                steps[family] = needed
        self.progress("steps", len(families), len(families))
        kept = [family for family in steps if self._whole(family, steps[family]).seconds <= _SLOWER * self.best]
        grids = [(family, steps[family] + more) for more in range(_MORE_STEPS + 1) for family in kept]
        for done, (family, count) in enumerate(grids):
            self.progress("guided windows", done, len(grids))
            self._shorten(family, count)
        self.progress("guided windows", len(grids), len(grids))
        near = [self.tried[rows] for rows, psnr in self.screened.items() if psnr >= self.target - _NEAR]
        return self._fastest(sorted(near, key=lambda candidate: candidate.seconds))

    def summary(self, schedule: Schedule, numbers: Sequence[int] | None = None) -> dict[str, Any]:
        """Return mean and 95 % interval of a schedule's PSNR over videos, by default those of the search."""
        values = [self.error(schedule, number) for number in numbers or range(self.videos)]
        return summarize([values[i : i + self.seeds] for i in range(0, len(values), self.seeds)])

    def front(self) -> list[Candidate]:
        """Return the screened candidates that no other one beats in both time and error, the fastest first."""
        order = sorted(self.screened, key=lambda rows: (self.tried[rows].seconds, -self.screened[rows]))
        front, highest = [], -np.inf
        for rows in order:
            if self.screened[rows] > highest:
                highest = self.screened[rows]
                front.append(self.tried[rows])
        return front

    def candidate(self, title: str, options: RunOptions) -> Candidate:
        """Return the candidate that ``options`` make."""
        schedule = choose_schedule(self.manifest, options)
        return Candidate(title, options, schedule, self.seconds(schedule))

    def seconds(self, schedule: Schedule) -> float:
        """Return the seconds of a schedule's step loop."""
        return sum(self.step_seconds[step.graph] for step in schedule)

    def _families(self) -> list[Family]:
        """Return all families, the most promising first, because what comes later has to be faster."""
        intervals = [1, 2, 3] if self.manifest.deep_features else [1]
        grids: list[tuple[str, float | None, Solver]] = [
            *(("ays", second, "dpmpp-2m") for second in (30.0, 20.0, 54.5, 14.0, None)),
            ("ays", None, "euler"),
            ("karras", None, "dpmpp-2m"),
            ("karras", None, "euler"),
        ]
        return [Family(*grid, interval) for interval in intervals for grid in grids]

    def _calibrate(self, family: Family) -> None:
        """Set ``target`` by a schedule that is screened near the bound, and forget what it ruled out."""
        self.target = self.min_psnr
        steps = self._fewest_steps(family) or MOST_STEPS
        rows = self._whole(family, steps).schedule
        self.target += self.screened[rows] - _least(self.summary(rows))
        self.best = float("inf")

    def _fastest(self, near: Sequence[Candidate]) -> Candidate | None:
        """Return the first that keeps the bound on all photographs. One that is below it on the first half is left."""
        half = range(0, max(1, self.videos // 2))
        for done, candidate in enumerate(near):
            self.progress("finalists", done, len(near))
            if np.mean([self.error(candidate.schedule, number) for number in half]) < self.min_psnr:
                continue
            if _least(self.summary(candidate.schedule)) >= self.min_psnr:
                self.progress("finalists", len(near), len(near))
                return candidate
        self.progress("finalists", len(near), len(near))
        return None

    def _whole(self, family: Family, steps: int) -> Candidate:
        return self._window(family, steps, 1, steps + 1)

    def _window(
        self, family: Family, steps: int, first: int, cut: int, quality_bias: QualityBias = "mean"
    ) -> Candidate:
        grid = family.grid if family.second is None else f"{family.grid} from {family.second:g}"
        title = f"{grid}, {steps} steps, {family.solver}, "
        title += "all guided" if (first, cut) == (1, steps + 1) else f"guided {first} to {cut - 1}"
        if family.cache_interval > 1:
            title += f", cache interval {family.cache_interval}"
        if quality_bias != "mean":
            title += f", bias {quality_bias}"
        window = {"guide_from": first, "cut_step": cut, "quality_bias": quality_bias}
        return self.candidate(title, family.options(self.manifest, steps, **window))

    def _fewest_steps(self, family: Family) -> int | None:
        """Return the fewest steps with which a family keeps the bound, None if it takes too long."""
        low, high = 2, MOST_STEPS
        while high > low and self._whole(family, high).seconds > _SLOWER * self.best:
            high -= 1
        most = self._whole(family, high)
        if most.seconds > _SLOWER * self.best or not self._keeps(most):
            return None
        while low < high:
            middle = (low + high) // 2
            if self._keeps(self._whole(family, middle)):
                high = middle
            else:
                low = middle + 1
        return high

    def _shorten(self, family: Family, steps: int) -> None:
        """Measure ever shorter guided windows, until they fail."""
        for first in range(1, min(_LATEST_START, steps) + 1):
            for cut in range(steps + 1, first, -1):
                candidate = self._window(family, steps, first, cut)
                if candidate.seconds >= self.best or self._keeps(candidate):
                    continue
                other = self._window(family, steps, first, cut, "cond")
                if not self._keeps(other):
                    break

    def _keeps(self, candidate: Candidate) -> bool:
        """Screen a candidate: the first seed of the first two images. Tell whether it reaches the target."""
        rows = candidate.schedule
        self.tried.setdefault(rows, candidate)
        if rows not in self.screened:
            numbers = range(0, self.videos, self.seeds)[:2]
            self.screened[rows] = float(np.mean([self.error(rows, number) for number in numbers]))
        keeps = self.screened[rows] >= self.target
        if keeps:
            self.best = min(self.best, candidate.seconds)
        return keeps


def _least(psnr: Mapping[str, Any]) -> float:
    """Return the lower end of the interval; of one photograph, which has none, the mean."""
    return psnr["mean"] if psnr["low"] is None else psnr["low"]
