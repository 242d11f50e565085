"""Configurations that take turns, each side in a process of its own, and statistics of their times."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """Sides that are open.

    Attributes:
        configurations: all that take part at first.
        progress: called with what is done, done and total.
        processes: by side, a ``PeerProcess`` each.
        skipped: why a side did not open or failed. Its configurations are out. If our own side fails, there is nothing
            to compare, so its error ends the contest.
    """

    configurations: Sequence[Configuration]
    progress: Progress
    processes: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> list[Configuration]:
        """The configurations that still take part."""
        return [row for row in self.configurations if row.side not in self.skipped]

    def open(self, job: PeerJob, sides: Sequence[str], start: Callable[[PeerJob], Any]) -> None:
        """Open ``sides`` one after the other with ``start``."""
        for done, side in enumerate(sides):
            self.progress("load", done, len(sides))
            try:
                self.processes[side] = start(replace(job, side=side))
            except VcutError as error:
                self._skip(side, error)
        self.progress("load", len(sides), len(sides))

    def close(self) -> None:
        """End all processes."""
        for process in self.processes.values():
            process.close()

    def run(self, side: str, options: Mapping[str, Any] | None = None, frames: bool = False) -> Any:
        """Return a video of ``side`` and its frames if they are asked for; None if the side is out, or fails now."""
        if side not in self.skipped:
            try:
                return self.processes[side].run(options or {}, frames)
            except VcutError as error:
                self._skip(side, error)
        return None

    def warm_up(self, count: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Make ``count`` videos of each; return the seconds of the first and the frames of the last, by name."""
        first, frames, rows = {}, {}, self.rows
        for done, row in enumerate(rows):
            self.progress("warm up", done, len(rows))
            for i in range(count):
                if (answer := self.run(row.side, row.options, frames=i == count - 1)) is not None:
                    first.setdefault(row.name, answer[0]["video"])
                    frames[row.name] = answer[1]
        self.progress("warm up", len(rows), len(rows))
        return first, frames

    def take_turns(self, repeats: int) -> dict[str, list[dict[str, Any]]]:
        """Make ``repeats`` videos of each, in turns; return those of the configurations that made all."""
        turns: dict[str, list[dict[str, Any]]] = {row.name: [] for row in self.rows}
        self.progress("turns", 0, repeats)
        for turn in range(repeats):
            rows = self.rows
            for row in [rows[i] for i in turn_order(len(rows), turn)]:
                if (answer := self.run(row.side, row.options)) is not None:
                    turns[row.name].append(answer[0])
            self.progress("turns", turn + 1, repeats)
        return {row.name: turns[row.name] for row in self.rows}

    def best_rates(self, side: str, repeats: int) -> dict[str, float]:
        """Return the largest throughput of each kind that ``side`` measures in ``repeats`` tries, in MACs a second."""
        best: dict[str, float] = {}
        for turn in range(repeats):
            self.progress(side, turn, repeats)
            if (answer := self.run(side)) is None:
                return {}
            for name, rate in answer[0]["macs_per_second"].items():
                best[name] = max(rate, best.get(name, 0.0))
        self.progress(side, repeats, repeats)
        return best

    def _skip(self, side: str, error: VcutError) -> None:
        if side == OURS:
            raise error
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
