"""How ONNX Runtime's sessions are made and kept. The pipeline's tests check what they compute."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vcut_runtime import BackendOptions, Pipeline, open_bundle
from vcut_runtime.backends import open_backend
from vcut_runtime.backends.onnxruntime_session import thread_settings


@pytest.mark.parametrize(
    ("usable", "threads", "affinities"),
    [
        ({0, 1}, 2, "2"),
        ({3, 5, 9}, 3, "6;10"),
        ({0, 1, 2, 3}, 2, None),
        ({0, 1}, 4, None),
        ({0}, 1, None),
        ({0, 1}, None, None),
    ],
)
def test_threads_get_cores_of_their_own_where_all_are_asked_for(
    usable: set[int], threads: int | None, affinities: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: usable, raising=False)
    settings = thread_settings(threads)
    assert settings.pop("session.force_spinning_stop") == "1"
    assert settings == ({} if affinities is None else {"session.intra_op_thread_affinities": affinities})


def test_no_affinities_where_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert set(thread_settings(2)) == {"session.force_spinning_stop"}


def test_settings_reach_the_session(small_bundle: Path) -> None:
    backend: Any = open_backend(open_bundle(small_bundle), "onnxruntime-cpu", BackendOptions(threads=1))
    backend.load("condition")
    options = backend._sessions["condition"].get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_with_little_memory_a_step_and_its_shallow_one_stay_together(
    deep_bundle: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime as ort

    want = Pipeline.load(deep_bundle)(photo, seed=0, cache_interval=2).frames
    pipeline = Pipeline.load(deep_bundle)
    backend: Any = pipeline.backend
    backend._keep = False
    made: list[str] = []
    create = ort.InferenceSession
    monkeypatch.setattr(
        ort, "InferenceSession", lambda path, *a, **k: (made.append(path.name.split(".")[0]), create(path, *a, **k))[1]
    )
    assert np.array_equal(pipeline(photo, seed=0, cache_interval=2).frames, want)
    steps = ("semantic_binding", "quality_improvement")
    assert made == ["condition", *(name for step in steps for name in (step, f"{step}_shallow")), "decode"]
    assert list(backend._sessions) == ["decode"]
