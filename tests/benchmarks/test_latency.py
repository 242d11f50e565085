"""The latency benchmark runs every side and counts the step loop."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from vcut_bench import latency
from vcut_runtime import open_bundle


def test_stages_and_loop_of_vcut(small_bundle: Path) -> None:
    found = latency.measure_vcut(small_bundle, "onnxruntime-cpu", repeats=2, never_cut=False)
    assert found["backend"] == "onnxruntime-cpu"
    stages = found["stages"]
    assert found["step_loop"] == [
        a + b for a, b in zip(stages["semantic_binding"], stages["quality_improvement"], strict=False)
    ]
    assert len(found["step_loop"]) == 2
    assert "quality_improvement" not in latency.measure_vcut(small_bundle, "onnxruntime-cpu", 1, True)["stages"]


def test_diffusers_takes_every_step_guided(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import UNetSpatioTemporalConditionModel

    batches: list[int] = []
    forward = UNetSpatioTemporalConditionModel.forward
    monkeypatch.setattr(
        UNetSpatioTemporalConditionModel,
        "forward",
        lambda self, sample, *args, **kwargs: (batches.append(len(sample)), forward(self, sample, *args, **kwargs))[1],
    )
    manifest = open_bundle(small_bundle, hashes=False).manifest
    found = latency.measure_diffusers(manifest, 1, compiled=False)
    assert batches == [2] * (2 * manifest.steps)
    assert found["step_loop"][0] > 0


def test_a_side_that_cannot_run_says_why(small_bundle: Path) -> None:
    result = latency.measure(small_bundle, "tensorrt", 1, False, lambda name: contextlib.nullcontext())
    assert set(result["configurations"]) == {"vcut", "vcut never cut"}
    assert "no tensorrt engines" in result["configurations"]["vcut"]["skipped"]
    assert result["speedup_over"] == {}
