"""The tables of a result of svd-tiny's evaluation, which code outside the package measures.

    python -m vcut_bench.tiny_numbers

writes the rows that matter into the model's card, ``export/vcut_export/svd_tiny/README.md``. They stand between the
lines ``<!-- results: tiny-cpu -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vcut_bench.metrics import MAX_PSNR
from vcut_bench.numbers import Numbers, markdown
from vcut_bench.results import load, origin, reading
from vcut_bench.results_page import RESULTS, newest

CARD = Path(__file__).parents[2] / "export/vcut_export/svd_tiny/README.md"
# The cut steps that the card shows, by model.
_ON_THE_CARD = {"TCA folded": ("none", 2, 10, 17, 20), "TCA removed": ("none", 17), "SCA zeroed": ("none", 17)}
_PLACE = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

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
    rows += [[row["model"], row["schedule"], *_cells(row)] for row in result.get("schedules", ())]
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
    tables = [
        Numbers(
            "Videos of held-out photographs",
            ["model", "schedule" if result.get("schedules") else "cut step", *heads, "Fréchet"],
            rows,
            note,
        ),
        Numbers(
            "Motion",
            ["motion_bucket_id", "asked for", "optical flow", "change"],
            motion,
            "Asked for and flow: pixels per frame. Change between frames: levels of 255.",
        ),
    ]
    return [table for table in tables if table.rows]


def fill_card(card: str, results: Path = RESULTS) -> str:
    """Return the model's card with the tables of the newest result between its markers.

    Raises:
        UsageError: there is no such result, or it is damaged.
    """

    def section(match: re.Match[str]) -> str:
        path = newest(match[2], results)
        result = load(path)
        with reading(path):
            curves = [c for c in result["curves"] if c["cut_step"] in _ON_THE_CARD.get(c["model"], ())]
            facts = origin(result)
            measured = f"*Measured:* {'; '.join(facts[name] for name in ('size', 'device', 'versions', 'date'))}"
            parts = [*map(markdown, numbers({**result, "curves": curves})), measured]
        return match[1] + "\n\n".join(parts) + "\n" + match[3]

    return _PLACE.sub(section, card)


def _cells(row: Mapping[str, Any]) -> list[str]:
    cells = []
    for name, _, digits in _COLUMNS:
        value = row[name]
        equal = name.endswith("psnr") and value["mean"] >= MAX_PSNR
        cells.append("" if equal else f"{value['mean']:.{digits}f} ± {value['std']:.{digits}f}")
    distance = row.get("frechet")
    return [*cells, f"{distance['mean']:.2f} ({distance['low']:.2f} to {distance['high']:.2f})" if distance else ""]


if __name__ == "__main__":
    CARD.write_text(fill_card(CARD.read_text("utf-8")), "utf-8")
