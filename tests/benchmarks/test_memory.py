"""Memory is measured of the right process, and read off the right fields."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from vcut_bench import memory
from vcut_runtime import open_bundle
from vcut_runtime.bundle.manifest import EngineEntry, EngineSet
from vcut_runtime.errors import BundleError, UsageError


def measure(bundle: Path, **options: Any) -> dict[str, Any]:
    return memory.measure(bundle, show=lambda name: nullcontext(), **options)


def test_engines_share_activations_and_need_their_own_weights() -> None:
    engines = EngineSet(
        "tensorrt-rtx", "1", "8.6", None, {"semantic_binding": _engine(50, 7), "decode": _engine(9, 60)}
    )
    memory_of = memory.device_bytes(engines)
    assert memory_of["all"] == 50 + 7 + 60
    assert memory_of["low_memory"] == 69
    assert memory_of["activations"] == {"semantic_binding": 50, "decode": 9}


def test_a_step_and_its_shallow_one_stay_together_in_low_memory() -> None:
    engines = {"semantic_binding": _engine(50, 7), "semantic_binding_shallow": _engine(40, 2), "decode": _engine(9, 48)}
    memory_of = memory.device_bytes(EngineSet("tensorrt-rtx", "1", "8.6", None, engines))
    assert memory_of["low_memory"] == 50 + 7 + 2
    assert memory_of["all"] == 50 + 7 + 2 + 48


@pytest.fixture(scope="module")
def measured(small_bundle: Path, small_checkpoint: Path) -> dict[str, Any]:
    return measure(small_bundle, reference=small_checkpoint, backend="onnxruntime-cpu", threads=1, build=False)


def test_a_bundle_beside_diffusers(measured: Any, small_bundle: Path) -> None:
    manifest = open_bundle(small_bundle).manifest
    disk = measured["disk"]
    assert disk["graphs"] + sum(disk["weights"].values()) == sum(entry.bytes for entry in manifest.onnx_files())
    for name in ("vcut run", "diffusers"):
        assert measured["host"][name]["peak_bytes"] > 50e6, measured["host"][name]
    # The runtime is without torch.
    assert measured["host"]["vcut run"]["peak_bytes"] < measured["host"]["diffusers"]["peak_bytes"]
    assert measured["host"]["vcut run"]["backend"] == "onnxruntime-cpu"


def test_sizes_from_the_architecture_are_those_of_the_files(
    measured: Any, small_bundle: Path, small_checkpoint: Path
) -> None:
    weights = memory.component_bytes(open_bundle(small_bundle).manifest)
    assert measured["disk"]["checkpoint"] == weights
    for component, count in weights.items():
        files = (small_checkpoint / component).glob("*.safetensors")
        assert sum(file.stat().st_size for file in files) == pytest.approx(count, rel=0.1)  # and a header
    assert measured["device_memory"]["diffusers_weights"] == sum(weights.values())


def test_what_cannot_run_is_listed_with_the_reason(small_bundle: Path) -> None:
    result = measure(small_bundle, backend="tensorrt", build=False)
    assert "vcut build" in result["host"]["vcut run"]["skipped"]
    assert "no smaller" in result["host"]["diffusers"]["skipped"]
    assert result["disk"]["graphs"] > 0
    _, host, _ = memory.numbers(result)
    assert ["diffusers", "", result["host"]["diffusers"]["skipped"]] in host.rows


def test_misuse_is_refused(small_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle"):
        measure(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is not a diffusers folder"):
        measure(small_bundle, reference=tmp_path)


def _engine(activations: int, weights: int) -> EngineEntry:
    return EngineEntry("e", 1, "0" * 64, "k", "g", "w", (), (), {}, activations, weights, 1, 1.0)
