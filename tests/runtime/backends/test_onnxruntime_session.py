"""How ONNX Runtime's sessions take memory. What a full-size step takes is measured in ``vcut_bench.full_size``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vcut_runtime.backends import cpu_limits
from vcut_runtime.backends.onnxruntime_providers import ON_CPU
from vcut_runtime.backends.onnxruntime_session import create_session
from vcut_runtime.bundle import open_bundle
from vcut_runtime.comparison import inputs_of, sample_inputs


def test_large_steps_trade_time_for_memory_and_compute_the_same(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, graph = open_bundle(small_bundle), "quality_improvement"
    inputs = inputs_of(graph, sample_inputs(bundle.manifest, bundle.manifest.sizes), bundle.manifest)
    small = create_session(bundle, graph, ON_CPU)
    monkeypatch.setattr(cpu_limits, "_LARGE", 0)
    large = create_session(bundle, graph, ON_CPU)

    def settings(session: Any) -> list[bool]:
        options = session.get_session_options()
        return [options.enable_cpu_mem_arena, options.enable_mem_pattern, options.enable_mem_reuse]

    assert settings(small) == [True, True, True]
    assert settings(large) == [True, False, False]
    for ours, theirs in zip(small.run(None, inputs), large.run(None, inputs), strict=True):
        assert np.array_equal(ours, theirs)
