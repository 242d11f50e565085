"""The tables of a latency result: step loops beside the peers, seconds by stage, and peers beside like settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vcut_bench.numbers import Numbers
from vcut_bench.peers import OURS, PEERS
from vcut_bench.turns import STAGES, ratios


def numbers(result: Mapping[str, Any]) -> list[Numbers]:
    """Return the step loops beside the peers, seconds by stage, peers beside like settings, and who was skipped."""
    rows = {name: row for name, row in result["configurations"].items() if "skipped" not in row}
    skipped = [[row["title"], row["skipped"]] for row in result["configurations"].values() if "skipped" in row]
    tables = [
        Numbers(
            "Step loop",
            ["", "step loop", "spread", "over diffusers", "range", "PSNR", "converged", "limit"],
            [_loop_cells(row) for row in rows.values()],
            "c is the cut step: the first step without guidance. Times are medians; the spread is the distance between "
            "the quartiles. Ratios compare the videos of one turn. PSNR compares the frames with those of diffusers' "
            "25 steps, and with the converged video: many steps, never cut. The last column is the share of the limit, "
            "the fastest matrix product or convolution on this device.",
        ),
        Numbers(
            "Seconds by stage, and peak memory",
            ["", "condition", "guided", "cond.", "decode", "video", "guided step", "cond. step", "GB"],
            [_stage_cells(row) for row in rows.values()],
            "Peers that guide every step have no conditional steps. Memory is that of the GPU, or on a CPU of the "
            "process.",
        ),
        Numbers(
            "Like for like",
            ["peer", "error", "slower by", "range", "than this schedule", "error"],
            _like_for_like(rows),
            "Each peer beside the fastest schedule of vcut whose error is not larger. Errors are PSNR to the converged "
            "video.",
        ),
        Numbers("Skipped", ["peer", "reason"], skipped),
    ]
    return [table for table in tables if table.rows]


def label(row: Mapping[str, Any]) -> str:
    """Return a configuration's title without its count of steps."""
    return str(row["title"]).split(":")[0]


def _loop_cells(row: Mapping[str, Any]) -> list[str]:
    loop, speedup, share = row["step_loop"], row.get("speedup_over_diffusers"), row.get("roofline_share")
    return [
        label(row),
        f"{loop['median']:.2f} s",
        f"{100 * loop['spread']:.0f} %",
        *_ratio_cells(speedup),
        _decibels(row["psnr"]),
        _decibels(row.get("converged_psnr")),
        "" if share is None else f"{100 * share:.0f} %",
    ]


def _stage_cells(row: Mapping[str, Any]) -> list[str]:
    stages = [row["stages"].get(stage, {}).get("median") for stage in STAGES]
    steps = [row["steps"].get(stage, {}).get("median") for stage in STAGES[1:3]]
    memory = row["peak_device_memory_bytes"] or row["peak_host_memory_bytes"]
    return [label(row), *(_short(value) for value in (*stages, row["video"]["median"], *steps, memory / 1e9))]


def _like_for_like(rows: Mapping[str, Any]) -> list[list[str]]:
    """Return each peer beside the fastest of ours that is as near to the converged video."""

    def error(row: Mapping[str, Any]) -> float:
        return -math.inf if row.get("converged_psnr") is None else row["converged_psnr"]

    ours = [row for name, row in rows.items() if name.startswith(f"{OURS} ")]
    pairs = []
    for theirs in (rows[name] for name in PEERS if name in rows):
        as_near = [row for row in ours if error(row) >= error(theirs) > -math.inf]
        if as_near:
            best = min(as_near, key=lambda row: row["step_loop"]["median"])
            ratio = ratios(theirs["step_loop"]["values"], best["step_loop"]["values"])
            cells = [_decibels(error(theirs)), *_ratio_cells(ratio), label(best), _decibels(error(best))]
            pairs.append([label(theirs), *cells])
    return pairs


def _ratio_cells(ratio: Mapping[str, Any] | None) -> list[str]:
    return ["", ""] if ratio is None else [f"{ratio['median']:.2f} x", "{:.2f} to {:.2f}".format(*ratio["range"])]


def _decibels(psnr: float | None) -> str:
    return "" if psnr is None else "equal" if psnr >= 100 else f"{psnr:.1f} dB"


def _short(value: float | None) -> str:
    """Return a number in at most five characters."""
    if value is None:
        return ""
    return f"{value:.{3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0}f}"
