"""The tables of a result of svd-tiny's evaluation, which is measured by code outside the package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vcut_bench.metrics import MAX_PSNR
from vcut_bench.numbers import Numbers

# Metric, head of its column, and digits.
_COLUMNS = (
    ("full_psnr", "to never cut", 1),
    ("truth_psnr", "to the clip", 1),
    ("input_psnr", "frame 1", 1),
    ("consistency", "consistency", 1),
    ("flow", "flow", 2),
    ("detail", "detail", 2),
)


def numbers(result: Mapping[str, Any]) -> list[Numbers]:
    """Return the metrics by model and cut step, and the motion by ``motion_bucket_id``."""
    rows = [["held-out clips", "", *_cells(result["truth"])]]
    for curve in result["curves"]:
        rows.append([curve["model"], str(curve["cut_step"]), *_cells(curve)])
    note = (
        f"Means ± standard deviation over {result['clips']} clips of held-out photographs "
        f"({', '.join(result['photographs'])}). PSNR in dB: to the never-cut video, to the clip, of the first frame to "
        "the photograph. Consistency: PSNR of a frame to the next one, warped by optical flow. Flow: pixels per frame. "
        "Detail: gradient of the last frame over the photograph's. Fréchet distance to the clips, of latents and their "
        "changes, with its 95 % interval."
    )
    motion = [
        [
            str(point["motion_bucket_id"]),
            f"{point['displacement']:.2f}",
            f"{point['flow']['mean']:.2f}",
            f"{point['change']['mean']:.1f}",
        ]
        for point in result["motion"]
    ]
    heads = [head for _, head, _ in _COLUMNS]
    return [
        Numbers("Videos of held-out photographs", ["model", "cut step", *heads, "Fréchet"], rows, note),
        Numbers(
            "Motion",
            ["motion_bucket_id", "asked for", "optical flow", "change"],
            motion,
            "Asked for and flow: pixels per frame. Change between frames: levels of 255.",
        ),
    ]


def _cells(row: Mapping[str, Any]) -> list[str]:
    cells = []
    for name, _, digits in _COLUMNS:
        value = row[name]
        equal = name.endswith("psnr") and value["mean"] >= MAX_PSNR
        cells.append("" if equal else f"{value['mean']:.{digits}f} ± {value['std']:.{digits}f}")
    distance = row.get("frechet")
    return [*cells, f"{distance['mean']:.2f} ({distance['low']:.2f} to {distance['high']:.2f})" if distance else ""]
