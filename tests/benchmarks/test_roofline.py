"""The limit is the best time of a product; the share is work over time over limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from vcut_bench import roofline
from vcut_runtime import open_bundle


def test_the_best_of_all_tries_counts() -> None:
    times = iter([0.0, 0.0, 4.0, 4.0, 6.0, 6.0, 9.0, 9.0, 12.0])
    calls: list[int] = []
    rate = roofline.best_rate(100, lambda: calls.append(1), seconds=10, clock=lambda: next(times))
    assert rate == 50.0  # 100 MACs in the 2 s of the second try
    assert len(calls) == 4


def test_the_share_counts_each_stage_s_steps() -> None:
    macs = {"semantic_binding": 100, "quality_improvement": 50}
    assert roofline.share(macs, {"semantic_binding": 16, "quality_improvement": 9}, 4.1, 1000.0) == pytest.approx(0.5)
    assert roofline.share(macs, {"semantic_binding": 25}, 2.5, 2000.0) == pytest.approx(0.5)


def test_rates_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_SECONDS", 0.01)
    measured = {name: rate() for name, rate in roofline.rates("cpu", "fp32").items()}
    assert set(measured) == {"matmul, torch", "convolution, torch", "matmul, onnxruntime"}
    assert all(1e8 < rate < 1e14 for rate in measured.values())


def test_macs_are_those_of_the_bundle_s_sizes(small_bundle: Path) -> None:
    macs = roofline.macs_per_step(open_bundle(small_bundle, hashes=False).manifest)
    assert set(macs) == {"vcut", "original"}
    for stage in ("semantic_binding", "quality_improvement"):
        assert 0 < macs["vcut"][stage] < macs["original"][stage]
    ratio = macs["original"]["semantic_binding"] / macs["original"]["quality_improvement"]
    assert ratio == pytest.approx(2, rel=1e-3)
