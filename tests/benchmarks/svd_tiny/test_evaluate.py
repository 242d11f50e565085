"""The measures of the trained model, on videos whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from svd_tiny import evaluate
from svd_tiny.clips import clip
from vcut_bench import plots, tables
from vcut_runtime.errors import UsageError


def sums(rows: np.ndarray) -> dict[str, np.ndarray]:
    wide = np.concatenate([np.ones((len(rows), 1)), rows], axis=1)
    return {"moments": wide.T @ wide}


def test_flow_is_the_motion_that_a_clip_was_made_with() -> None:
    still, slow, fast = (clip(3, displacement=d) for d in (0.0, 0.5, 1.5))
    flows = [evaluate.optical_flow(found.frames)[0] for found in (still, slow, fast)]
    assert flows[0] < 0.05
    assert flows[1] == pytest.approx(slow.displacement, rel=0.35)
    assert flows[2] == pytest.approx(fast.displacement, rel=0.35)


def test_flicker_is_not_consistent() -> None:
    frames = clip(3, displacement=0.5).frames
    brighter = 20 * (np.arange(len(frames)) % 2)[:, None, None, None]
    flickering = np.clip(frames + brighter, 0, 255).astype(np.uint8)
    assert evaluate.optical_flow(frames)[1] > evaluate.optical_flow(flickering)[1] + 5


def test_frechet_distance_of_gaussians() -> None:
    """Of independent features it is the sum of (m - m')^2 + (s - s')^2."""
    draw = np.random.default_rng(0)
    a, b = ([sums(draw.normal(mean, std, (4000, 3))) for _ in range(8)] for mean, std in ((0.0, 1.0), (1.0, 2.0)))
    found = evaluate.frechet(a, b)
    assert found["mean"] == pytest.approx(3 * (1 + 1), rel=0.05)
    assert found["low"] < found["mean"] < found["high"]
    assert evaluate.frechet(a, a)["mean"] == pytest.approx(0, abs=1e-6)


def test_gradient_falls_with_blur() -> None:
    image = clip(3, frames=range(1)).frames[0]
    assert evaluate.gradient(np.full_like(image, 7)) == 0
    blurred = ((image.astype(int) + np.roll(image, 1, 0) + np.roll(image, 1, 1)) // 3).astype(np.uint8)
    assert evaluate.gradient(blurred) < 0.9 * evaluate.gradient(image)


def test_both_kinds_of_bundle_are_wanted(small_bundle: Path) -> None:
    with pytest.raises(UsageError, match="--tca fold and --tca remove"):
        evaluate.evaluate([small_bundle])


def test_a_result_becomes_tables_and_figures(tmp_path: Path) -> None:
    def point(mean: float) -> dict[str, float]:
        return {"mean": mean, "std": 2.0, "n": 4, "low": mean - 1, "high": mean + 1}

    truth = {
        "full_psnr": 100.0,
        "truth_psnr": 100.0,
        "input_psnr": 100.0,
        "consistency": 32.0,
        "flow": 0.4,
        "detail": 1,
    }
    found = {
        "full_psnr": 100.0,
        "truth_psnr": 20.0,
        "input_psnr": 26.0,
        "consistency": 30.0,
        "flow": 0.5,
        "detail": 0.9,
    }
    cut = {**found, "full_psnr": 35.0}
    frechet = {"mean": 3.0, "low": 2.0, "high": 4.0}
    result = {
        "benchmark": "tiny",
        **dict.fromkeys(("model", "precision", "device", "date", "command"), "x"),
        "versions": {},
        "shape": {"frames": 12, "height": 72, "width": 96},
        "steps": 25,
        "clips": 4,
        "photographs": ["coffee"],
        "curves": [
            {"model": model, "cut_step": c, "frechet": frechet, **{name: point(value) for name, value in row.items()}}
            for model in ("TCA folded", "TCA removed")
            for c, row in ((None, found), (17, cut))
        ],
        "truth": {name: point(value) for name, value in truth.items()},
        "motion": [
            {"motion_bucket_id": b, "displacement": b / 255, "flow": point(b / 255), "change": point(1.0)}
            for b in (0, 128, 255)
        ],
    }
    (tmp_path / "tiny.json").write_text(json.dumps(result))
    text = tables.fill("<!-- results: tiny.json -->\n<!-- end -->", tmp_path)
    cells = "20.0 ± 2.0 | 26.0 ± 2.0 | 30.0 ± 2.0 | 0.50 ± 2.00 | 0.90 ± 2.00 | 3.00 (2.00 to 4.00) |"
    assert f"| TCA folded | none |  | {cells}\n" in text
    assert f"| TCA removed | 17 | 35.0 ± 2.0 | {cells}\n" in text
    assert "| optical flow | 0.00 | 0.50 | 1.00 |" in text
    figures = plots.plots(result)
    assert figures[-1].title == "Motion against motion_bucket_id"
    assert ["TCA folded", "none", "3", "2 to 4"] in [list(row) for row in figures[0].rows]
    assert not any(row[1] == "none" for figure in figures if "never cut" in figure.title for row in figure.rows)
