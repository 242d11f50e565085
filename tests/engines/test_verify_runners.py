"""What ``vcut verify`` can run here, and why not the rest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import vcut_engines.verify_runners as verify_runners
from vcut_engines.verify import verify
from vcut_runtime import UsageError, VcutError, open_bundle
from vcut_runtime.bundle import Bundle
from vcut_runtime.bundle.manifest import EngineSet


def test_without_polygraphy_the_fix_is_named(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(verify_runners, "importlib", SimpleNamespace(import_module=missing))
    with pytest.raises(UsageError, match=r"Polygraphy is not installed: pip install 'vcut\[verify\]'"):
        verify(small_bundle)


def test_a_reference_without_room_is_refused(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_runners, "total_memory", lambda: 1000)
    with pytest.raises(VcutError, match=r"reference of semantic_binding needs .* --graphs condition,decode"):
        verify(small_bundle)


def test_numpy_is_a_reference_in_fp32_alone(small_bundle: Path) -> None:
    opened = open_bundle(small_bundle)
    half = Bundle(opened.root, msgspec.structs.replace(opened.manifest, precision="fp16"))
    polygraphy: Any = SimpleNamespace()
    with pytest.raises(UsageError, match="numpy rounds every operator in fp16"):
        verify_runners.reference_side(half, "numpy", polygraphy)
    assert verify_runners.reference_side(half, "onnxruntime", polygraphy).name == "reference"


def test_any_provider_of_onnx_runtime_is_verified_as_itself(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {"openvino": "OpenVINOExecutionProvider"}
    monkeypatch.setattr("vcut_runtime.backends.onnxruntime_providers.other_providers", lambda: others)
    polygraphy: Any = SimpleNamespace(onnxrt=None)
    (side,), _ = verify_runners.find_sides(open_bundle(small_bundle), "onnxruntime-openvino", polygraphy)
    assert "--onnxrt --providers OpenVINOExecutionProvider" in side.command("decode")
    with pytest.raises(UsageError, match="no provider for backend onnxruntime-qnn"):
        verify_runners.find_sides(open_bundle(small_bundle), "onnxruntime-qnn", polygraphy)


def test_engines_run_with_polygraphys_runner_of_tensorrt(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is played by a recorder: which engine is loaded, and for which of the two TensorRTs."""
    opened = open_bundle(small_bundle)
    entry: Any = SimpleNamespace(file="engines/decode.engine")
    sets = {
        "rtx-any": EngineSet("tensorrt-rtx", "1", None, None, {"decode": entry}),
        "trt-8.6": EngineSet("tensorrt", "1", "8.6", None, {"decode": entry}),
        "trt-9.0": EngineSet("tensorrt", "1", "9.0", None, {"decode": entry}),
    }
    bundle = Bundle(opened.root, msgspec.structs.replace(opened.manifest, engines=sets))
    verdicts = {"rtx-any": "yes", "trt-8.6": "yes", "trt-9.0": "no: another GPU"}
    monkeypatch.setattr(verify_runners, "target_verdict", lambda _, target: verdicts[target])
    polygraphy: Any = SimpleNamespace(config=SimpleNamespace(USE_TENSORRT_RTX=None), onnxrt=None)
    sides, refusals = verify_runners.find_sides(bundle, "auto", polygraphy)
    assert [side.name for side in sides] == ["trt-8.6", "onnxruntime-cpu"]
    assert refusals["trt-9.0"] == "another GPU"
    assert refusals["rtx-any"] == "Polygraphy runs one TensorRT at a time: give --backend tensorrt-rtx"

    (side,), _ = verify_runners.find_sides(bundle, "tensorrt-rtx", polygraphy)
    assert not side.markable
    assert side.environment == ("POLYGRAPHY_USE_TENSORRT_RTX=1",)
    assert side.arguments == ("--model-type", "engine", "--trt")
    modules = {
        "polygraphy.backend.trt": SimpleNamespace(
            TrtRunner=lambda engine, name: (engine, name), EngineFromBytes=lambda content: content
        ),
        "polygraphy.backend.common": SimpleNamespace(BytesFromPath=lambda path: path),
    }
    monkeypatch.setattr(verify_runners, "importlib", SimpleNamespace(import_module=modules.__getitem__))
    assert side.runner("decode", None) == (str(small_bundle / "engines/decode.engine"), "rtx-any")
    assert polygraphy.config.USE_TENSORRT_RTX is True
