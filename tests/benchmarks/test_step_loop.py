"""The benchmark measures what it says: both sides run, and the loop is counted, not what surrounds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vcut_bench import step_loop


def test_vcut_counts_both_stages(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vcut_runtime

    calls: list[tuple[int, int | None]] = []

    class Fake:
        def __call__(self, image: Any, *, num_inference_steps: int, cut_step: int | None, seed: int) -> Any:
            calls.append((num_inference_steps, cut_step))
            timings = {"load": 100.0, "condition": 50.0, "semantic_binding": 2.0, "quality_improvement": 1.0}
            return type("Video", (), {"timings": timings})

    monkeypatch.setattr(vcut_runtime.Pipeline, "load", lambda *_: Fake())
    assert step_loop.measure_vcut(small_bundle, np.zeros((32, 32, 3), np.uint8), 17) == 3.0
    assert calls == [(2, 2)] + [(25, 17)] * step_loop.LOOPS


def test_diffusers_runs_25_guided_steps(small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import UNetSpatioTemporalConditionModel

    batches: list[int] = []
    forward = UNetSpatioTemporalConditionModel.forward

    def counted(self: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        batches.append(len(sample))
        return forward(self, sample, *args, **kwargs)

    monkeypatch.setattr(UNetSpatioTemporalConditionModel, "forward", counted)
    monkeypatch.setattr(step_loop, "LOOPS", 1)
    seconds = step_loop.measure_diffusers(small_checkpoint, np.zeros((32, 32, 3), np.uint8), 3)
    assert seconds > 0
    assert batches == [2] * (2 + 25)
