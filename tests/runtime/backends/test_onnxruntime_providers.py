"""Tests of execution providers: their names, the nodes that they leave to the CPU, and the GPU's memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vcut_runtime import UsageError, VcutError, open_bundle
from vcut_runtime.backends import choose, open_backend, verdicts
from vcut_runtime.backends import onnxruntime as module
from vcut_runtime.backends import onnxruntime_providers as providers
from vcut_runtime.backends.onnxruntime_library import load_onnxruntime
from vcut_runtime.backends.onnxruntime_providers import CPU, CUDA, Provider, gpu_memory, misplaced, other_providers


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with OpenVINO and all that is left out."""
    names = [f"{word}ExecutionProvider" for word in ("Tensorrt", "CUDA", "OpenVINO", "NvTensorRTRTX", "Azure", "CPU")]
    monkeypatch.setattr(load_onnxruntime(), "get_available_providers", lambda: names)


def session(*parts: tuple[str, list[str]]) -> Any:
    def part(name: str, operators: list[str]) -> Any:
        nodes = [SimpleNamespace(op_type=operator) for operator in operators]
        return SimpleNamespace(ep_name=name, get_nodes=lambda: nodes)

    return SimpleNamespace(
        get_provider_graph_assignment_info=lambda: [part(*described) for described in parts],
        get_providers=lambda: [CUDA, CPU],
    )


@pytest.mark.usefixtures("offered")
def test_other_providers_are_backends_by_their_names(small_bundle: Path) -> None:
    assert other_providers() == {"openvino": "OpenVINOExecutionProvider"}
    assert Provider.of("onnxruntime-openvino", "fp32") == Provider("OpenVINOExecutionProvider", "cpu", {})
    bundle = open_bundle(small_bundle)
    assert "made the same video" in choose(bundle, "onnxruntime-openvino").reason
    assert list(verdicts(bundle))[-1] == "onnxruntime-openvino"
    with pytest.raises(UsageError, match="no provider for backend onnxruntime-dml: choose onnxruntime-cpu"):
        choose(bundle, "onnxruntime-dml")


def test_what_is_left_to_the_cpu_is_counted() -> None:
    heavy, light = misplaced(session((CUDA, ["Conv", "Add"]), (CPU, ["Conv", "Shape"]), (CPU, ["Shape"])), CUDA)
    assert (heavy, light) == ({"Conv": 1}, {"Shape": 2})
    assert misplaced(SimpleNamespace(), CUDA) == ({}, {})  # an older ONNX Runtime does not tell


def test_this_onnxruntime_tells_where_nodes_run(small_bundle: Path) -> None:
    backend: Any = open_backend(open_bundle(small_bundle), "onnxruntime-cpu")
    backend.load("decode")
    assert misplaced(backend._sessions["decode"], CPU) == ({}, {})
    heavy, light = misplaced(backend._sessions["decode"], CUDA)
    assert heavy["Conv"] > 0
    assert light


def test_work_that_cuda_leaves_to_the_cpu_is_refused(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "missing_cuda", lambda: None)
    backend: Any = open_backend(open_bundle(small_bundle), "onnxruntime-cuda")
    assert backend.notes == ["these graphs are made for a CPU: for a GPU, export with --operators gpu"]
    backend._check_placement("decode", session((CPU, ["Shape", "Gather"])))
    assert backend.notes[1:] == [f"{CUDA} leaves 2 small nodes of decode to the CPU"]
    with pytest.raises(VcutError, match="leaves 2 Attention, 1 Conv of decode to the CPU: update onnxruntime-gpu"):
        backend._check_placement("decode", session((CPU, ["Attention", "Conv", "Attention"])))


@pytest.mark.usefixtures("offered")
def test_a_graph_that_another_provider_cannot_load_runs_on_the_cpu(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ort = load_onnxruntime()
    create = ort.InferenceSession

    def refuse(path: Path, options: Any, providers: list[Any]) -> Any:
        if providers != [CPU]:
            raise RuntimeError("Exception during initialization:\nno such operator\n\n")
        return create(path, options, providers=providers)

    monkeypatch.setattr(ort, "InferenceSession", refuse)
    backend: Any = open_backend(open_bundle(small_bundle), "onnxruntime-openvino")
    backend.load("decode")
    (note,) = backend.notes
    assert note.startswith("OpenVINOExecutionProvider cannot load decode, it runs on the CPU: ")
    assert note.endswith(": no such operator")


def test_bf16_is_refused_on_cuda(
    edit_manifest: Callable[[Callable[[dict], object]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "missing_cuda", lambda: None)
    bundle = open_bundle(edit_manifest(lambda manifest: manifest.update(precision="bf16")))
    with pytest.raises(UsageError, match="no bf16 kernel of Resize for CUDA: export with --precision fp16"):
        choose(bundle, "onnxruntime-cuda")


@pytest.mark.parametrize("gpu", [False, True])
def test_sessions_are_kept_where_their_weights_fit(
    gpu: bool, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(small_bundle)
    sizes = {name: entry.bytes for name, entry in bundle.manifest.weights.items()}
    monkeypatch.setattr(providers, "missing_cuda", lambda: None)
    if gpu:  # each session has the weights of its graph, and half of the memory is for the rest
        need = 2 * sum(sizes[graph.weights] for graph in bundle.manifest.graphs.values())
    else:
        need = 4 * sum(sizes.values())
    for memory, kept in ((need, False), (need + 1, True)):
        monkeypatch.setattr(module, "gpu_memory", lambda memory=memory: memory if gpu else 0)
        monkeypatch.setattr(module, "total_memory", lambda memory=memory: 0 if gpu else memory)
        backend: Any = open_backend(bundle, "onnxruntime-cuda")
        assert backend._keep == kept


def test_the_driver_tells_the_gpus_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        failing = ""

        def _call(self, name: str) -> int:
            return 100 if name == self.failing else 0

        def cuInit(self, flags: int) -> int:
            return self._call("cuInit")

        def cuDeviceGet(self, device: Any, number: int) -> int:
            return self._call("cuDeviceGet")

        def cuDeviceTotalMem_v2(self, size: Any, device: ctypes.c_int) -> int:
            size._obj.value = 24 << 30
            return self._call("cuDeviceTotalMem_v2")

    driver = Driver()
    monkeypatch.setattr(providers, "_driver", lambda: driver)
    assert gpu_memory() == 24 << 30
    for name in ("cuInit", "cuDeviceGet", "cuDeviceTotalMem_v2"):
        driver.failing = name
        assert gpu_memory() == 0
    monkeypatch.setattr(providers, "_driver", lambda: None)
    assert gpu_memory() == 0
