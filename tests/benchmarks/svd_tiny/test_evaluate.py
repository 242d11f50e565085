"""The measures of the trained model, on videos whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from svd_tiny import evaluate
from svd_tiny.clips import clip
from vcut_runtime.errors import UsageError


def sums(rows: np.ndarray) -> dict[str, np.ndarray]:
    wide = np.concatenate([np.ones((len(rows), 1)), rows], axis=1)
    return {"moments": wide.T @ wide}


def test_flow_is_the_motion_that_a_clip_was_made_with() -> None:
    still, slow, fast = (clip(3, displacement=d) for d in (0.0, 0.5, 1.5))
    flows = [evaluate.optical_flow(clip.frames)[0] for clip in (still, slow, fast)]
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
    distance = evaluate.frechet(a, b)
    assert distance["mean"] == pytest.approx(3 * (1 + 1), rel=0.05)
    assert distance["low"] < distance["mean"] < distance["high"]
    assert evaluate.frechet(a, a)["mean"] == pytest.approx(0, abs=1e-6)


def test_gradient_falls_with_blur() -> None:
    image = clip(3, frames=range(1)).frames[0]
    assert evaluate.gradient(np.full_like(image, 7)) == 0
    blurred = ((image.astype(int) + np.roll(image, 1, 0) + np.roll(image, 1, 1)) // 3).astype(np.uint8)
    assert evaluate.gradient(blurred) < 0.9 * evaluate.gradient(image)


def test_both_kinds_of_bundle_are_wanted(small_bundle: Path) -> None:
    with pytest.raises(UsageError, match="--tca fold and --tca remove"):
        evaluate.evaluate([small_bundle])
    with pytest.raises(UsageError, match="with --schedules the first alone"):
        evaluate.evaluate([small_bundle], schedules=["fast"])  # it removes TCA
