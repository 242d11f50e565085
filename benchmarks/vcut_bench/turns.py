"""Configurations that take turns, each side in a process of its own, and statistics of what they took."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vcut_bench.peers import OURS, PeerJob
from vcut_runtime.errors import VcutError, first_line

STAGES = ("condition", "semantic_binding", "quality_improvement", "decode")
Progress = Callable[[str, int, int], None]
Open = Callable[[PeerJob], Any]  # opens a Worker, or what stands for one


@dataclass(frozen=True)
class Configuration:
    """One row of the result: a side, and what it is asked for."""

    name: str
    title: str
    side: str
    options: Mapping[str, Any]


@dataclass
class Contest:
    """Sides that are open, and configurations of them that still take part.

    Attributes:
        rows: the configurations; one that fails leaves.
        workers: by side.
        skipped: why a side did not open, or a configuration left, by its name.
        progress: called with what is done, done and total.
    """

    rows: list[Configuration]
    progress: Progress
    workers: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def open(self, job: PeerJob, sides: Sequence[str], start: Open) -> None:
        """Open ``sides`` one after the other; configurations of those that do not open leave.

        Raises:
            VcutError: it is our own that does not.
        """
        for done, side in enumerate(sides):
            self.progress("load", done, len(sides))
            try:
                self.workers[side] = start(replace(job, side=side))
            except VcutError as error:
                self._leave(side, error)
        self.progress("load", len(sides), len(sides))
        self.rows = [row for row in self.rows if row.side in self.workers]

    def close(self) -> None:
        """End all processes."""
        for worker in self.workers.values():
            worker.close()

    def warm_up(self, count: int, folder: Path) -> dict[str, float]:
        """Make ``count`` videos of each and keep the last one's frames; return the seconds of the first, by name."""
        rows, first = list(self.rows), {}
        for done, row in enumerate(rows):
            self.progress("warm up", done, len(rows))
            for i in range(count):
                found = self._run(row, str(folder / f"{row.name}.npy") if i == count - 1 else None)
                if found is not None:
                    first.setdefault(row.name, found["video"])
        self.progress("warm up", len(rows), len(rows))
        return first

    def take_turns(self, repeats: int) -> dict[str, list[dict[str, Any]]]:
        """Make ``repeats`` videos of each, in turns; return those of the configurations that came through all."""
        turns: dict[str, list[dict[str, Any]]] = {row.name: [] for row in self.rows}
        self.progress("turns", 0, repeats)
        for turn in range(repeats):
            for row in [self.rows[i] for i in turn_order(len(self.rows), turn)]:
                if (found := self._run(row)) is not None:
                    turns[row.name].append(found)
            self.progress("turns", turn + 1, repeats)
        return {row.name: turns[row.name] for row in self.rows}

    def limit(self, side: str, repeats: int) -> dict[str, float]:
        """Return the largest throughput of each kind that ``side`` measures in ``repeats`` tries, in MACs a second."""
        best: dict[str, float] = {}
        for turn in range(repeats if side in self.workers else 0):
            self.progress(side, turn, repeats)
            try:
                found = self.workers[side].ask("run", options={}, frames=None)["macs_per_second"]
            except VcutError as error:
                self._leave(side, error)
                return {}
            best = {name: max(rate, best.get(name, 0.0)) for name, rate in found.items()}
            self.progress(side, turn + 1, repeats)
        return best

    def _run(self, row: Configuration, frames: str | None = None) -> dict[str, Any] | None:
        """Make one video; None if this configuration has left, or leaves now."""
        if row not in self.rows:
            return None
        try:
            return self.workers[row.side].ask("run", options=dict(row.options), frames=frames)
        except VcutError as error:
            self._leave(row.side, error)
            return None

    def _leave(self, side: str, error: VcutError) -> None:
        """Note why a side is out. Raises it if it is our own: there is nothing to compare then."""
        if side == OURS:
            raise error
        self.skipped[side] = first_line(error)
        self.rows = [row for row in self.rows if row.side != side]


def turn_order(count: int, turn: int) -> list[int]:
    """Return the order of ``count`` configurations in a turn: each turn begins one further on, every other backwards.

    So none always follows the same one, whose heat or caches it would inherit.
    """
    direction = -1 if turn % 2 else 1
    return [(turn + direction * i) % count for i in range(count)]


def statistics_of(values: Sequence[float]) -> dict[str, Any]:
    """Return median, 95th percentile (linear between ranks), spread and the values themselves.

    The spread is the distance between the quartiles as a share of the median.
    """
    low, high = np.percentile(values, [25, 75])
    median = statistics.median(values)
    return {
        "median": median,
        "p95": float(np.percentile(values, 95)),
        "spread": float((high - low) / median) if median else 0.0,
        "values": list(values),
    }


def ratios(longer: Iterable[float], shorter: Iterable[float]) -> dict[str, Any]:
    """Return median and range of the ratios of two configurations' seconds, turn by turn."""
    found = [a / b for a, b in zip(longer, shorter, strict=True)]
    return {"median": statistics.median(found), "range": [min(found), max(found)]}


def summarize(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return statistics over the videos of one configuration: of them, of step loops, by stage, of a stage's steps."""
    stages = [stage for stage in STAGES if stage in turns[0]["stages"]]
    steps = turns[0]["steps"]
    device_memory = [turn["peak_device_memory_bytes"] for turn in turns if turn["peak_device_memory_bytes"] is not None]
    return {
        "video": statistics_of([turn["video"] for turn in turns]),
        "step_loop": statistics_of([step_loop(turn) for turn in turns]),
        "stages": {stage: statistics_of([turn["stages"][stage] for turn in turns]) for stage in stages},
        "steps": {
            stage: {"count": count, **statistics_of([turn["stages"][stage] / count for turn in turns])}
            for stage, count in steps.items()
        },
        "peak_host_memory_bytes": max(turn["peak_host_memory_bytes"] for turn in turns),
        "peak_device_memory_bytes": max(device_memory, default=None),
    }


def step_loop(video: Mapping[str, Any]) -> float:
    """Return the seconds of both stages of steps."""
    return sum(video["stages"].get(stage, 0.0) for stage in STAGES[1:3])
