"""Configurations that take turns, each side in a process of its own, and statistics of their times."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vcut_bench.compiled import Progress
from vcut_bench.peers import OURS, PeerJob
from vcut_runtime.errors import VcutError, first_line

STAGES = ("condition", "semantic_binding", "quality_improvement", "decode")


@dataclass(frozen=True)
class Configuration:
    """One row of the result: a side, and the options of its videos."""

    name: str
    title: str
    side: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Contest:
    """The processes of all sides.

    Attributes:
        progress: called with what is done, done and total.
        processes: by side, a ``PeerProcess`` each.
        skipped: why a side did not open or failed. It takes part no more. If our own side fails, there is nothing to
            compare, so its error ends the contest.
    """

    progress: Progress
    processes: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def open(self, job: PeerJob, sides: Sequence[str], start: Callable[[PeerJob], Any]) -> None:
        """Open ``sides`` one after the other with ``start``."""
        for done, side in enumerate(sides):
            self.progress("load", done, len(sides))
            with self._skipping(side):
                self.processes[side] = start(replace(job, side=side))
        self.progress("load", len(sides), len(sides))

    def close(self) -> None:
        """End all processes."""
        for process in self.processes.values():
            process.close()

    def take_turns(
        self, what: str, configurations: Sequence[Configuration], turns: int, videos: int = 1, frames: bool = False
    ) -> dict[str, list[tuple[dict[str, Any], Any]]]:
        """Make ``turns`` videos of each configuration, in turns. A turn makes the next one of ``videos`` photographs.

        Returns:
            What each video took, and its frames if they are asked for, of the configurations that made all videos.
        """
        answers: dict[str, list[tuple[dict[str, Any], Any]]] = {row.name: [] for row in configurations}
        total = turns * len(configurations)
        for turn in range(turns):
            for done, i in enumerate(turn_order(len(configurations), turn), turn * len(configurations)):
                self.progress(what, done, total)
                row = configurations[i]
                if row.side not in self.skipped:
                    with self._skipping(row.side):
                        options = {**row.options, "number": turn % videos}
                        answers[row.name].append(self.processes[row.side].run(options, frames))
        self.progress(what, total, total)
        return {row.name: answers[row.name] for row in configurations if row.side not in self.skipped}

    @contextmanager
    def _skipping(self, side: str) -> Iterator[None]:
        try:
            yield
        except VcutError as error:
            if side == OURS:
                raise
            self.skipped[side] = first_line(error)


def turn_order(count: int, turn: int) -> list[int]:
    """Return the order of ``count`` configurations in a turn: each turn begins one further on, every other backwards.

    So no configuration always follows the same one and inherits its heat or caches.
    """
    direction = -1 if turn % 2 else 1
    return [(turn + direction * i) % count for i in range(count)]


def statistics_of(values: Sequence[float]) -> dict[str, Any]:
    """Return median, 95th percentile (linear between ranks), spread and the values themselves.

    The spread is the distance between the quartiles as a share of the median.
    """
    low, median, high, p95 = map(float, np.percentile(values, [25, 50, 75, 95]))
    return {"median": median, "p95": p95, "spread": (high - low) / median if median else 0.0, "values": list(values)}


def ratios(longer: Iterable[float], shorter: Iterable[float]) -> dict[str, Any]:
    """Return median and range of the ratios of two configurations' seconds, turn by turn."""
    of_turns = [a / b for a, b in zip(longer, shorter, strict=True)]
    return {"median": statistics.median(of_turns), "range": [min(of_turns), max(of_turns)]}


def summarize(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return statistics over the videos of one configuration: whole, step loop, stages, and one step of a stage."""

    def stage(name: str, share: int = 1) -> dict[str, Any]:
        return statistics_of([turn["stages"][name] / share for turn in turns])

    device_memory = [turn["peak_device_memory_bytes"] for turn in turns if turn["peak_device_memory_bytes"] is not None]
    return {
        "video": statistics_of([turn["video"] for turn in turns]),
        "step_loop": statistics_of([step_loop(turn) for turn in turns]),
        "stages": {name: stage(name) for name in STAGES if name in turns[0]["stages"]},
        "steps": {name: {"count": count, **stage(name, count)} for name, count in turns[0]["steps"].items()},
        "peak_host_memory_bytes": max(turn["peak_host_memory_bytes"] for turn in turns),
        "peak_device_memory_bytes": max(device_memory, default=None),
    }


def step_loop(video: Mapping[str, Any]) -> float:
    """Return the seconds of both stages of steps."""
    return sum(video["stages"].get(stage, 0.0) for stage in STAGES[1:3])
