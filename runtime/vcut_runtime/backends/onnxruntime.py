"""ONNX Runtime: the graphs as they are, on the CPU or on CUDA."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vcut_runtime.backends.backend import Offer
from vcut_runtime.backends.cpu_limits import CpuModel, check_cpu
from vcut_runtime.backends.onnxruntime_library import load_onnxruntime
from vcut_runtime.bundle import Bundle, check_hashes
from vcut_runtime.bundle.geometry import Sizes
from vcut_runtime.bundle.graph import share_stage
from vcut_runtime.bundle.manifest import Precision
from vcut_runtime.errors import UsageError, VcutError, first_line
from vcut_runtime.host import total_memory
from vcut_runtime.options import BackendOptions

NO_CUDA = (
    "on a machine with an NVIDIA driver, pip uninstall onnxruntime, then "
    "pip install 'onnxruntime-gpu[cuda,cudnn]>=1.26'"
)

WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"  # of a graph that is not loaded from a file


def offer(bundle: Bundle, name: str) -> Offer:
    """Offer ``onnxruntime-cuda`` or ``onnxruntime-cpu``.

    Raises:
        UsageError: there is no CUDA here, or the CPU has no kernels for the bundle's precision.
        VcutError: a step needs more memory than this machine has.
    """
    if name == "onnxruntime-cuda":
        missing = missing_cuda()
        if missing:
            raise UsageError(f"backend {name} is not available here: {missing}")
        reason = "ONNX Runtime has CUDA and a driver"
    else:
        check_cpu(CpuModel.of(bundle.manifest))
        reason = "runs anywhere"

    def open_graphs(options: BackendOptions) -> OnnxRuntimeBackend:
        check_hashes(bundle, bundle.manifest.onnx_files())
        return OnnxRuntimeBackend(bundle, name, options.threads)

    return Offer(name, reason, open_graphs)


class OnnxRuntimeBackend:
    """ONNX Runtime on the CPU or, where its package has it, on CUDA. The graphs' hashes have been checked."""

    def __init__(self, bundle: Bundle, name: str, threads: int | None = None) -> None:
        self.name = name
        self.notes: list[str] = []
        self._bundle = bundle
        self._device = "cuda" if name == "onnxruntime-cuda" else "cpu"
        self._threads = threads
        self._sessions: dict[str, Any] = {}
        weights = {entry.weights: bundle.manifest.weights[entry.weights] for entry in bundle.manifest.graphs.values()}
        # Each session holds its own copy of the weights; without room for all, only the running graph stays.
        self._keep = 4 * sum(entry.bytes for entry in weights.values()) < total_memory()

    def check_run(self, sizes: Sizes, graphs: Collection[str]) -> None:
        """Raise VcutError if the CPU has not the memory for a video of ``sizes``."""
        if self._device == "cpu":
            check_cpu(CpuModel.of(self._bundle.manifest), sizes, graphs)

    def step_seconds(self, graph: str, sizes: Sizes) -> float:
        """Return roughly how long a step takes; 0 if it is short, or on a GPU."""
        if self._device == "cpu":
            return CpuModel.of(self._bundle.manifest).step_seconds(graph, sizes, self._threads)
        return 0.0

    def max_decode_chunk(self) -> int | None:
        """Return None: any number of frames."""
        return None

    def load(self, graph: str) -> None:
        """Create the session of ``graph``.

        Raises:
            VcutError: ONNX Runtime refuses the graph.
        """
        if graph in self._sessions:
            return
        if not self._keep:
            self._sessions = {name: session for name, session in self._sessions.items() if share_stage(name, graph)}
        self._sessions[graph] = create_session(self._bundle, graph, self._device, self._threads)

    def upload(self, value: np.ndarray) -> Any:
        """Return an ``OrtValue`` on the backend's device."""
        ort = load_onnxruntime()
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), self._device, 0)

    def download(self, value: Any) -> np.ndarray:
        """Return an ``OrtValue`` as an array of its own: it outlives the value, and changing it changes no video."""
        return np.array(value.numpy())

    def run(self, graph: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run ``graph``; outputs stay on the device.

        Raises:
            VcutError: ONNX Runtime failed, for instance because memory is full.
        """
        self.load(graph)
        session = self._sessions[graph]
        binding = session.io_binding()
        names = [output.name for output in session.get_outputs()]
        try:
            for name, value in inputs.items():
                binding.bind_ortvalue_input(name, value)
            for name in names:
                binding.bind_output(name, self._device)
            session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise VcutError(f"ONNX Runtime failed in {graph}: {first_line(error)}") from None
        return dict(zip(names, binding.get_outputs(), strict=True))

    def mark(self) -> float:
        """Return the time: ``run`` returns when all is done."""
        return time.perf_counter()

    def wait(self, mark: float) -> None:
        """Return at once."""

    def seconds(self, start: float, end: float) -> float:
        """Return the time between two marks."""
        return end - start

    def peak_memory(self) -> int | None:
        """Return None: ONNX Runtime does not tell."""
        return None


def graph_file(bundle: Bundle, graph: str, device: str, *, plain: bool = False) -> Path:
    """Return the ONNX file that ONNX Runtime loads for ``graph`` on ``device``, see :func:`create_session`."""
    entry = bundle.manifest.graphs[graph]
    return bundle.path(entry if plain or device == "cuda" or entry.contrib is None else entry.contrib)


def create_session(
    bundle: Bundle,
    graph: str,
    device: str,
    threads: int | None = None,
    *,
    plain: bool = False,
    model: bytes | None = None,
) -> Any:
    """Return ONNX Runtime's session of ``graph`` on ``device``, ``cpu`` or ``cuda``.

    Args:
        bundle: its graphs' hashes have been checked.
        graph: its name.
        device: where it runs.
        threads: of the CPU, None for ONNX Runtime's own choice.
        plain: run the standard operators one by one as they are written, without any optimisation.
        model: a changed graph in the place of the file; its weights lie where the file's lie.

    Raises:
        VcutError: ONNX Runtime refuses the graph.
    """
    on_cuda = device == "cuda"
    ort = load_onnxruntime(cuda=on_cuda)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    for key, value in thread_settings(threads).items():
        options.add_session_config_entry(key, value)
    if threads:
        options.intra_op_num_threads = threads
    if plain:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    cuda = [("CUDAExecutionProvider", cuda_settings(bundle.manifest.precision))] if on_cuda else []
    path = graph_file(bundle, graph, device, plain=plain)
    if model is not None:
        options.add_session_config_entry(WEIGHTS_FOLDER, str(path.parent))
    try:
        session = ort.InferenceSession(model or path, options, providers=[*cuda, "CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise VcutError(f"ONNX Runtime cannot load {path.name}: {first_line(error)}") from None
    if cuda and "CUDAExecutionProvider" not in session.get_providers():
        raise VcutError("ONNX Runtime could not start CUDA: check the driver, or use --backend onnxruntime-cpu")
    return session


def thread_settings(threads: int | None) -> dict[str, str]:
    """Return session settings for ``threads`` CPU threads, None for ONNX Runtime's own choice.

    Each graph's session has its own threads. After a run they spin on their cores and slow the next graph: alternating
    full and shallow steps on two cores took half as long again. So spinning stops with the run. If ``threads`` is the
    number of usable cores, each thread is bound to one core, as ONNX Runtime does by default. Otherwise two threads can
    end up on one core and stay there.
    """
    settings = {"session.force_spinning_stop": "1"}
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if threads == len(usable) > 1:
        settings["session.intra_op_thread_affinities"] = ";".join(str(cpu + 1) for cpu in usable[1:])
    return settings


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


def missing_cuda() -> str | None:
    """Return why ONNX Runtime cannot use a GPU here, None if it can."""
    ort = load_onnxruntime()
    if "CUDAExecutionProvider" in ort.get_available_providers() and _has_cuda_driver():
        return None
    return NO_CUDA


def _has_cuda_driver() -> bool:
    """ONNX Runtime lists CUDA wherever its GPU package is; without a driver it would fail only when a graph loads."""
    import ctypes

    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    return True
