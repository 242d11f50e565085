"""ONNX Runtime's execution providers: which device runs the graphs, with which options, and what it leaves out."""

from __future__ import annotations

import ctypes
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

from vcut_runtime.backends.onnxruntime_library import load_onnxruntime
from vcut_runtime.bundle.manifest import Precision
from vcut_runtime.errors import UsageError

NO_CUDA = (
    "on a machine with an NVIDIA driver, pip uninstall onnxruntime, then "
    "pip install 'onnxruntime-gpu[cuda,cudnn]>=1.26'"
)
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_SUFFIX = "ExecutionProvider"
RECORD_PLACEMENT = ("session.record_ep_graph_assignment_info", "1")  # a session's setting, for ``misplaced``
TRIED = ("OpenVINOExecutionProvider",)  # svd-tiny on a CPU, onnxruntime-openvino 1.24.1: 82 dB to ONNX Runtime's CPU
# Azure calls a service. The others build engines from graphs, which the backends tensorrt and tensorrt-rtx do.
_LEFT_OUT = ("Azure", "Tensorrt", "NvTensorRTRTX", "NvTensorRtRtx")
# Operators that compute. The small change around them may run on the CPU.
_HEAVY = ("Attention", "Conv", "Gemm", "GroupNormalization", "LayerNormalization", "MatMul", "Resize", "Softmax")


@dataclass(frozen=True)
class Provider:
    """One execution provider.

    Attributes:
        name: ONNX Runtime's, such as ``CUDAExecutionProvider``.
        device: where inputs and outputs lie, ``cuda`` or ``cpu``.
        settings: its options.
    """

    name: str
    device: str
    settings: dict[str, str]

    @classmethod
    def of(cls, backend: str, precision: Precision) -> Provider:
        """Return the provider of the backend ``onnxruntime-<provider>``.

        Raises:
            UsageError: the installed package does not have it, or there is no driver.
        """
        word = backend.removeprefix("onnxruntime-")
        if word == "cpu":
            return ON_CPU
        if word == "cuda":
            if missing := missing_cuda():
                raise UsageError(f"backend {backend} is not available here: {missing}")
            return cls(CUDA, "cuda", cuda_settings(precision))
        others = other_providers()
        if word not in others:
            known = ", ".join(f"onnxruntime-{name}" for name in ("cpu", *others))
            raise UsageError(
                f"the installed ONNX Runtime has no provider for backend {backend}: choose {known}, or install the "
                f"package of that provider in the place of onnxruntime"
            )
        return cls(others[word], "cpu", {})


ON_CPU = Provider(CPU, "cpu", {})


def other_providers() -> dict[str, str]:
    """Return the installed package's providers except those of the CPU and of CUDA: full names by short names."""
    names = (name.removesuffix(_SUFFIX) for name in load_onnxruntime().get_available_providers())
    return {name.lower(): name + _SUFFIX for name in names if name not in (*_LEFT_OUT, "CPU", "CUDA")}


def cuda_settings(precision: Precision) -> dict[str, str]:
    """Return the options of ONNX Runtime's CUDA provider.

    Its memory grows by what is asked for, and not to the next power of two. Convolutions are chosen by heuristic:
    trying all of them takes minutes for each new size. fp32 is not rounded to TF32, so that it means what it says.
    """
    return {
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0" if precision == "fp32" else "1",
    }


def misplaced(session: Any, provider: str) -> tuple[Counter[str], Counter[str]]:
    """Return the operators of a session that do not run on ``provider``: those that compute, and all others.

    The session must have been made with ``RECORD_PLACEMENT``. An ONNX Runtime before 1.24 does not tell.
    """
    heavy: Counter[str] = Counter()
    light: Counter[str] = Counter()
    if hasattr(session, "get_provider_graph_assignment_info"):
        for part in session.get_provider_graph_assignment_info():
            if part.ep_name != provider:
                for node in part.get_nodes():
                    (heavy if node.op_type in _HEAVY else light)[node.op_type] += 1
    return heavy, light


def missing_cuda() -> str | None:
    """Return why ONNX Runtime cannot use a GPU here, None if it can.

    ONNX Runtime lists CUDA wherever its GPU package is. Without a driver it would fail only when a graph loads.
    """
    if CUDA in load_onnxruntime().get_available_providers() and _driver() is not None:
        return None
    return NO_CUDA


def gpu_memory() -> int:
    """Return the memory of the first visible NVIDIA GPU in bytes, as its driver says; 0 without one."""
    driver, device, size = _driver(), ctypes.c_int(), ctypes.c_size_t()
    if driver is None or driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return 0
    return 0 if driver.cuDeviceTotalMem_v2(ctypes.byref(size), device) else size.value


def _driver() -> Any:
    """Return NVIDIA's driver library, None if there is none."""
    try:
        return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None
