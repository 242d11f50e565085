"""What runs the graphs. A backend keeps values where it computes; only ``upload`` and ``download`` copy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from vcut_runtime.bundle import Bundle
from vcut_runtime.errors import UsageError, VcutError
from vcut_runtime.manifest import Manifest

BACKENDS = ("onnxruntime-cuda", "onnxruntime-cpu")  # in order of preference
NO_CUDA = "on a machine with an NVIDIA driver, pip uninstall onnxruntime, then pip install onnxruntime-gpu"


class Backend(Protocol):
    """Loads and runs the graphs of one bundle."""

    name: str

    def upload(self, value: np.ndarray) -> Any:
        """Copy an array to where the graphs run."""
        ...

    def download(self, value: Any) -> np.ndarray:
        """Copy a value back."""
        ...

    def run(self, graph: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run ``graph`` on uploaded inputs, loading it if it is not loaded yet."""
        ...

    def load(self, graph: str) -> None:
        """Load ``graph`` now rather than at its first run."""
        ...


def available_backends() -> list[str]:
    """Return the backends that this machine and installation can run, best first."""
    import onnxruntime as ort

    cuda = "CUDAExecutionProvider" in ort.get_available_providers() and _has_cuda_driver()
    return [name for name in BACKENDS if name != "onnxruntime-cuda" or cuda]


def open_backend(bundle: Bundle, name: str = "auto", threads: int | None = None) -> Backend:
    """Choose a backend for ``bundle``.

    Raises:
        UsageError: the name is unknown, or what it needs is not here.
    """
    if name != "auto" and name not in BACKENDS:
        raise UsageError(f"unknown backend {name!r}: choose auto, {' or '.join(BACKENDS)}")
    here = available_backends()
    if name != "auto" and name not in here:
        raise UsageError(f"backend {name} is not available here: {NO_CUDA}")
    chosen = here[0] if name == "auto" else name
    if chosen == "onnxruntime-cpu":
        check_cpu(bundle.manifest)
    return OnnxRuntimeBackend(bundle, chosen, threads)


class OnnxRuntimeBackend:
    """ONNX Runtime on the CPU or, where its package has it, on CUDA."""

    def __init__(self, bundle: Bundle, name: str, threads: int | None = None) -> None:
        self.name = name
        self._bundle = bundle
        self._device = "cuda" if name == "onnxruntime-cuda" else "cpu"
        self._threads = threads
        self._sessions: dict[str, Any] = {}
        weights = {entry.weights: bundle.manifest.weights[entry.weights] for entry in bundle.manifest.graphs.values()}
        # Each session holds its own copy of the weights; without room for all, only the running graph stays.
        self._keep = 4 * sum(entry.bytes for entry in weights.values()) < _total_memory()

    def load(self, graph: str) -> None:
        """Create the session of ``graph``.

        Raises:
            VcutError: ONNX Runtime refuses the graph.
        """
        if graph in self._sessions:
            return
        if not self._keep:
            self._sessions.clear()
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        if self._threads:
            options.intra_op_num_threads = self._threads
        cuda = ["CUDAExecutionProvider"] if self._device == "cuda" else []
        path = self._bundle.path(self._bundle.manifest.graphs[graph])
        try:
            session = ort.InferenceSession(path, options, providers=[*cuda, "CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise VcutError(f"ONNX Runtime cannot load {path.name}: {_first_line(error)}") from None
        if cuda and "CUDAExecutionProvider" not in session.get_providers():
            raise VcutError("ONNX Runtime could not start CUDA: check the driver, or use --backend onnxruntime-cpu")
        self._sessions[graph] = session

    def upload(self, value: np.ndarray) -> Any:
        """Return an ``OrtValue`` on the backend's device."""
        import onnxruntime as ort

        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), self._device, 0)

    def download(self, value: Any) -> np.ndarray:
        """Return an ``OrtValue`` as an array."""
        return value.numpy()

    def run(self, graph: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run ``graph``; outputs stay on the device.

        Raises:
            VcutError: ONNX Runtime failed, for instance for want of memory.
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
            raise VcutError(f"ONNX Runtime failed in {graph}: {_first_line(error)}") from None
        return dict(zip(names, binding.get_outputs(), strict=True))


def attention_bytes(manifest: Manifest) -> int:
    """Return the bytes of the largest attention score matrix of a guided step, which ONNX Runtime's CPU writes out."""
    _, height, width = manifest.latent_shape
    heads = manifest.model.configs.get("unet", {}).get("num_attention_heads", 5)  # diffusers' default for level 1
    first = heads[0] if isinstance(heads, list) and heads else heads
    count = first if isinstance(first, int) else 1
    return 2 * manifest.frames * count * (height * width) ** 2 * 4


def check_cpu(manifest: Manifest) -> None:
    """Refuse what ONNX Runtime on the CPU of this machine cannot run.

    Raises:
        UsageError: the bundle's precision has no CPU kernels.
        VcutError: a step needs more memory than the machine has.
    """
    if manifest.precision == "bf16":
        raise UsageError(
            "a bf16 bundle needs a GPU, ONNX Runtime has no bf16 kernels for the CPU: "
            "export with --precision fp32 or fp16 to run here"
        )
    need, have = attention_bytes(manifest), _total_memory()
    if need > have:
        raise VcutError(
            f"a step of this bundle needs {need / 2**30:.0f} GiB for attention on the CPU, this machine has "
            f"{have / 2**30:.0f} GiB: run it on a GPU, or export with a smaller --height, --width or --frames"
        )


def _has_cuda_driver() -> bool:
    """ONNX Runtime lists CUDA wherever its GPU package is; without a driver it would fail only when a graph loads."""
    import ctypes

    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _total_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        return 1 << 62


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
