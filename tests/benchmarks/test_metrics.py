"""Metrics against their definitions, written out here, and at their edges."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest

from conftest import psnr as independent_psnr
from vcut_bench import metrics
from vcut_runtime import UsageError

SHAPE = (4, 24, 32, 3)


@pytest.fixture
def video() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.fixture
def other(video: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(1).integers(-20, 21, SHAPE)
    return np.clip(video + noise, 0, 255).astype(np.uint8)


def test_psnr_is_that_of_all_frames_together(video: np.ndarray, other: np.ndarray) -> None:
    assert metrics.psnr(other, video) == pytest.approx(independent_psnr(other, video))
    assert metrics.psnr(video, video) == metrics.MAX_PSNR
    one_level = video.copy()
    one_level[0, 0, 0, 0] ^= 1
    assert 80 < metrics.psnr(one_level, video) < metrics.MAX_PSNR
    black, white = np.zeros(SHAPE, np.uint8), np.full(SHAPE, 255, np.uint8)
    assert metrics.psnr(black, white) == 0.0


def test_ssim_is_wang_et_als_mean_over_frames(video: np.ndarray, other: np.ndarray) -> None:
    from scipy.ndimage import gaussian_filter

    def one(a: np.ndarray, b: np.ndarray) -> float:
        def blur(x: np.ndarray) -> np.ndarray:
            return gaussian_filter(x, 1.5, truncate=3.5)

        mean_a, mean_b = blur(a), blur(b)
        var_a, var_b, both = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        index = (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
        return float(index[5:-5, 5:-5].mean())

    pairs = [
        (a[..., c].astype(float), b[..., c].astype(float)) for a, b in zip(video, other, strict=True) for c in range(3)
    ]
    assert metrics.ssim(other, video) == pytest.approx(np.mean([one(a, b) for a, b in pairs]), rel=1e-6)
    assert metrics.ssim(video, video) == pytest.approx(1)
    with pytest.raises(UsageError, match="too small for SSIM"):
        metrics.ssim(video[:, :10], video[:, :10])


def test_temporal_error_sees_changes_and_no_offsets(video: np.ndarray) -> None:
    dark = (video // 2).astype(np.uint8)
    assert metrics.temporal_error(dark + 10, dark) == 0  # a constant offset changes no change
    flicker = dark.copy()
    flicker[1::2] += 10
    assert metrics.temporal_error(flicker, dark) == pytest.approx(10)
    assert metrics.temporal_error(dark[:1], flicker[:1]) == 0


def test_what_needs_no_reference(video: np.ndarray) -> None:
    still = np.repeat(video[:1], 4, axis=0)
    assert metrics.alone(still, video[0]) == {"input_psnr": metrics.MAX_PSNR, "motion": 0.0}
    moving = np.stack([np.full((8, 8, 3), level, np.uint8) for level in (0, 255, 250)])
    assert metrics.motion(moving) == pytest.approx((255 + 5) / 2)  # in levels, not wrapped around
    assert metrics.motion(moving[:1]) == 0


def test_the_interval_is_over_images() -> None:
    summary = metrics.summarize([[1.0, 3.0], [5.0, 7.0]])
    assert summary == {"mean": 4.0, "std": pytest.approx(np.std([1, 3, 5, 7])), "n": 4, "low": 2.0, "high": 6.0}
    assert metrics.summarize([[1.0, 3.0]]) == {"mean": 2.0, "std": 1.0, "n": 2, "low": None, "high": None}
    draw = np.random.default_rng(2)
    groups = [[value] for value in draw.standard_normal(400)]
    summary = metrics.summarize(groups)
    assert summary["low"] is not None
    assert summary["high"] is not None
    assert summary["high"] - summary["low"] == pytest.approx(2 * 1.96 / np.sqrt(400), rel=0.15)
    assert metrics.summarize(groups) == summary  # the same numbers every time


def test_lpips_says_which_file_goes_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    expected = f"alexnet-owt-7be5be79.pth, into {tmp_path / 'checkpoints'}"
    assert "pip install lpips torchvision and put" in str(metrics.missing_lpips())
    assert expected in str(metrics.missing_lpips())
    with pytest.raises(UsageError, match="LPIPS cannot run: pip install"):
        metrics.load_lpips()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/alexnet-owt-7be5be79.pth").touch()
    assert metrics.missing_lpips() == "pip install lpips torchvision"
    monkeypatch.setattr(metrics, "find_spec", lambda name: object())
    assert metrics.missing_lpips() is None


def test_lpips_gets_frames_in_minus_one_to_one(
    monkeypatch: pytest.MonkeyPatch, video: np.ndarray, other: np.ndarray
) -> None:
    """The package itself is stood in for: what it is given and what is made of its answers is ours."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self, net: str, verbose: bool) -> None:
            super().__init__()
            assert net == "alex"

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            assert a.shape == b.shape == (1, 3, *SHAPE[1:3])
            assert -1 <= float(a.min()) < -0.9
            assert 0.9 < float(a.max()) <= 1
            return (a - b).abs().mean().reshape(1, 1, 1, 1)

    package = types.ModuleType("lpips")
    package.__dict__["LPIPS"] = Network
    monkeypatch.setitem(sys.modules, "lpips", package)
    monkeypatch.setattr(metrics, "missing_lpips", lambda: None)
    errors = metrics.compare(other, video, metrics.load_lpips())
    expected = np.abs(other.astype(float) - video).mean() / 127.5
    assert errors["lpips"] == pytest.approx(expected, rel=1e-5)
    assert "lpips" not in metrics.compare(other, video)
