"""The tables of svd-tiny's evaluation, and the model's card that shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vcut_bench.results_page import newest
from vcut_bench.tiny_numbers import CARD, fill_card, numbers
from vcut_runtime.errors import UsageError


def point(mean: float) -> dict[str, float]:
    return {"mean": mean, "std": 2.0, "n": 4, "low": mean - 1, "high": mean + 1}


def result() -> dict[str, Any]:
    same = {"full_psnr": 100.0, "truth_psnr": 100.0, "input_psnr": 100.0, "consistency": 32.0, "flow": 0.4, "detail": 1}
    whole = same | {"truth_psnr": 20.0, "input_psnr": 26.0, "consistency": 30.0, "flow": 0.5, "detail": 0.9}
    frechet = {"mean": 3.0, "low": 2.0, "high": 4.0}
    return {
        "benchmark": "tiny",
        **dict.fromkeys(("model", "precision", "device", "date", "command"), "x"),
        "versions": {"vcut": "0.1.0"},
        "shape": {"frames": 12, "height": 72, "width": 96},
        "steps": 25,
        "clips": 4,
        "photographs": ["coffee"],
        "curves": [
            {"model": model, "cut_step": cut, "frechet": frechet, **{name: point(mean) for name, mean in row.items()}}
            for model in ("TCA folded", "TCA removed")
            for cut, row in (("none", whole), (16, whole), (17, {**whole, "full_psnr": 35.0}))
        ],
        "truth": {name: point(mean) for name, mean in same.items()},
        "motion": [
            {"motion_bucket_id": b, "displacement": b / 255, "flow": point(b / 255), "change": point(1.0)}
            for b in (0, 128, 255)
        ],
    }


def test_a_result_becomes_two_tables() -> None:
    videos, motion = numbers(result())
    cells = ["20.0 ± 2.0", "26.0 ± 2.0", "30.0 ± 2.0", "0.50 ± 2.00", "0.90 ± 2.00", "3.00 (2.00 to 4.00)"]
    assert videos.rows[0] == ["held-out clips", "", "", "", "", "32.0 ± 2.0", "0.40 ± 2.00", "1.00 ± 2.00", ""]
    assert ["TCA folded", "none", "", *cells] in videos.rows
    assert ["TCA removed", "17", "35.0 ± 2.0", *cells] in videos.rows
    assert all(len(row) == len(table.head) for table in (videos, motion) for row in table.rows)
    assert ["128", "0.50", "0.50", "1.0"] in motion.rows


def test_the_card_shows_the_rows_that_matter(tmp_path: Path) -> None:
    (tmp_path / "tiny-2026-01-02.json").write_text(json.dumps(result()))
    text = fill_card("before\n<!-- results: tiny -->\nstale\n<!-- end -->\nafter", tmp_path)
    assert text.startswith("before\n<!-- results: tiny -->\n**")
    assert text.endswith("\n<!-- end -->\nafter")
    assert "stale" not in text
    assert "12 frames of 72x96" in text
    assert "| TCA folded | none |" in text
    assert "| TCA removed | 17 | 35.0 ± 2.0 |" in text
    assert "| 16 |" not in text
    assert fill_card(text, tmp_path) == text
    with pytest.raises(UsageError, match="no other-DATE"):
        fill_card("<!-- results: other -->\n<!-- end -->", tmp_path)


def test_the_card_shows_the_kept_result() -> None:
    card = CARD.read_text("utf-8")
    assert fill_card(card) == card, "run 'make tables'"
    shown = json.loads(newest("tiny-cpu").read_text())
    for curve in shown["curves"]:
        name, cut = curve["model"], curve["cut_step"]
        important = cut in (("none", 2, 10, 17, 20) if name == "TCA folded" else ("none", 17))
        assert (f"| {name} | {cut} |" in card) == important
