"""How ONNX Runtime's sessions are made and kept. The pipeline's tests check what they compute."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from PIL import Image

from vcut_runtime import BackendOptions, BundleError, Pipeline, open_bundle
from vcut_runtime.backends import open_backend
from vcut_runtime.backends.onnxruntime_session import thread_settings
from vcut_runtime.bundle import Bundle, sha256


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


def rename_output(model: ModelProto) -> None:
    (last,) = [node for node in model.graph.node if model.graph.output[0].name in node.output]
    last.output[0] = model.graph.output[0].name = "pictures"


def turn_dimension(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].ClearField("value")


def add_input(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def drop_output(model: ModelProto) -> None:
    """Give one name for another: there is an output, of another type."""
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("latents", TensorProto.FLOAT, ["n", 4, 16, 16]))


@pytest.mark.parametrize(
    ("change", "name"),
    [(rename_output, "frames"), (turn_dimension, "latents"), (add_input, "more"), (drop_output, "frames")],
)
def test_a_graph_that_is_not_as_the_manifest_says(
    bundle_copy: Path, change: Callable[[ModelProto], None], name: str
) -> None:
    """Its hash is right: its author has sealed the manifest."""
    path = bundle_copy / "onnx/decode.onnx"
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    backend = open_backend(_resealed(bundle_copy), "onnxruntime-cpu")
    with pytest.raises(BundleError, match=f"decode.onnx does not have the '{name}' that the manifest gives decode"):
        backend.load("decode")


def _resealed(root: Path) -> Bundle:
    manifest = msgspec.json.decode((root / "manifest.json").read_bytes())
    path = root / "onnx/decode.onnx"
    manifest["graphs"]["decode"] |= {"bytes": path.stat().st_size, "sha256": sha256(path)}
    (root / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return open_bundle(root)


def test_graphs_with_free_sizes_are_as_their_manifest_says(dynamic_bundle: Path) -> None:
    backend = open_backend(open_bundle(dynamic_bundle), "onnxruntime-cpu")
    for graph in ("condition", "semantic_binding", "quality_improvement_shallow", "decode"):
        backend.load(graph)
