"""A GPU through cuda-python's bindings: memory, one stream, events and graph capture, nothing else.

Everything is ordered on one stream, so a buffer may be reused as soon as the call that used it has returned.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from vcut_runtime.errors import UsageError, VcutError

INSTALL = "pip install cuda-bindings"
_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
_OLD_DRIVER = 35  # cudaErrorInsufficientDriver; a machine without a driver gives it too
_NO_DEVICE = 100  # cudaErrorNoDevice


class Cuda:
    """The first visible GPU (``CUDA_VISIBLE_DEVICES`` chooses) and one stream on it.

    Raises:
        UsageError: cuda-python is not installed, or there is no GPU or driver that it can use.
    """

    def __init__(self, runtime: Any = None) -> None:
        self._rt = _bindings() if runtime is None else runtime
        self.count = self._device_count()  # of all visible GPUs
        if self.count < 1:
            raise UsageError("no NVIDIA GPU is visible: check nvidia-smi and CUDA_VISIBLE_DEVICES")
        self._call("cudaSetDevice", 0)
        attribute = self._rt.cudaDeviceAttr
        major = self._call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMajor, 0)
        minor = self._call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMinor, 0)
        self.compute_capability = f"{major}.{minor}"
        name = self._call("cudaGetDeviceProperties", 0).name
        self.name: str = name.decode() if isinstance(name, bytes) else str(name)
        driver = self._call("cudaDriverGetVersion")
        self.driver = f"{driver // 1000}.{driver % 1000 // 10}"  # the newest CUDA that the driver runs
        self.stream: int = int(self._call("cudaStreamCreate"))

    def __del__(self) -> None:
        _quietly(self._call, "cudaStreamDestroy", getattr(self, "stream", None))  # work in flight is finished

    def memory(self) -> tuple[int, int]:
        """Return free and total device memory in bytes, other programs' use included."""
        free, total = self._call("cudaMemGetInfo")
        return free, total

    def allocate(self, size: int, what: str) -> Memory:
        """Return ``size`` bytes, aligned to 256, that are given back with the object.

        Raises:
            VcutError: the GPU's memory is full; the message says for ``what``.
        """
        return Memory(self._call, int(self._call("cudaMalloc", max(size, 1), what=what, size=size)), size)

    def copy_in(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the device; it may be changed once this returns."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self.stream)

    def copy_out(self, array: np.ndarray, address: int) -> None:
        """Fill a contiguous array from the device."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self.stream)
        self.synchronize()

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy on the device."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpyAsync", target, source, size, kind, self.stream)

    def synchronize(self) -> None:
        """Wait until everything asked for so far is done."""
        self._call("cudaStreamSynchronize", self.stream)

    def event(self) -> Event:
        """Return an event recorded now, in the stream's order."""
        return Event(self._call)._record(self.stream)

    def seconds(self, start: Event, end: Event) -> float:
        """Return the GPU's time between two events, waiting for the later one."""
        self.wait(end)
        return self._call("cudaEventElapsedTime", start.handle, end.handle) / 1000

    def wait(self, event: Event) -> None:
        """Wait until the GPU has reached ``event``."""
        self._call("cudaEventSynchronize", event.handle)

    @contextmanager
    def capture(self) -> Iterator[Captured]:
        """Record the body's work on the stream as a graph to launch. The work itself is not done.

        Raises:
            VcutError: something in the body cannot be captured.
        """
        captured = Captured(self._call)
        self._call("cudaStreamBeginCapture", self.stream, self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed)
        try:
            yield captured
        except BaseException:
            self._rt.cudaStreamEndCapture(self.stream)  # the stream must leave capture mode whatever went wrong
            self._rt.cudaGetLastError()  # the library's own calls may have failed, too
            raise
        graph = self._call("cudaStreamEndCapture", self.stream)
        try:
            captured.handle = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, captured: Captured) -> None:
        """Run a captured graph."""
        self._call("cudaGraphLaunch", captured.handle, self.stream)

    def _device_count(self) -> int:
        result, *values = self._rt.cudaGetDeviceCount()
        code = int(result)
        if code == _NO_DEVICE:
            return 0
        if code == _OLD_DRIVER:
            _, driver = self._rt.cudaDriverGetVersion()
            if not driver:
                raise UsageError("no NVIDIA driver is installed: install one, or use --backend onnxruntime-cpu")
            _, needed = self._rt.cudaRuntimeGetVersion()
            raise UsageError(
                f"the NVIDIA driver is too old, it runs CUDA {driver // 1000}.{driver % 1000 // 10} and cuda-bindings "
                f"needs {needed // 1000}.{needed % 1000 // 10}: update the driver, or pip install "
                f"'cuda-bindings<{driver // 1000 + 1}'"
            )
        if code:
            raise UsageError(f"CUDA does not start ({self._describe(result)}): check nvidia-smi")
        return values[0]

    def _call(self, name: str, *arguments: Any, what: str = "", size: int = 0) -> Any:
        result, *values = getattr(self._rt, name)(*arguments)
        code = int(result)
        if code:
            self._rt.cudaGetLastError()  # CUDA would report the error again after a later call that succeeds
        if code == _OUT_OF_MEMORY:
            free, total = (int(v) for v in self._rt.cudaMemGetInfo()[1:])
            need = f" for {what} ({size / 1e9:.2f} GB)" if what else ""
            raise VcutError(
                f"the GPU is out of memory{need}, {free / 1e9:.2f} of {total / 1e9:.2f} GB are free: use --low-memory, "
                "close other programs, or export smaller sizes"
            )
        if code:
            raise VcutError(f"CUDA failed in {name} ({self._describe(result)}): run nvidia-smi to see the GPU's state")
        return values[0] if len(values) == 1 else tuple(values)

    def _describe(self, result: Any) -> str:
        text = self._rt.cudaGetErrorString(result)[1]
        return text.decode() if isinstance(text, bytes) else str(text)


class Memory:
    """Device memory; it lives as long as this object."""

    _call: Any = None  # until the object is whole: it may be interrupted as it begins

    def __init__(self, call: Callable[..., Any], address: int, size: int) -> None:
        self.address, self.size, self._call = address, size, call

    def __del__(self) -> None:
        _quietly(self._call, "cudaFree", getattr(self, "address", None))  # waits for work in flight


class Event:
    """A point in the stream."""

    _call: Any = None

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self.handle: Any = call("cudaEventCreate")

    def _record(self, stream: int) -> Event:
        self._call("cudaEventRecord", self.handle, stream)
        return self

    def __del__(self) -> None:
        _quietly(self._call, "cudaEventDestroy", getattr(self, "handle", None))


class Captured:
    """A captured CUDA graph, ready to launch."""

    _call: Any = None

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self.handle: Any = None

    def __del__(self) -> None:
        _quietly(self._call, "cudaGraphExecDestroy", getattr(self, "handle", None))


def _quietly(call: Callable[..., Any], name: str, handle: Any) -> None:
    """Destroy from a finalizer: at interpreter exit the library may be gone already."""
    if handle is not None:
        try:
            call(name, handle)
        except Exception:
            return


def _bindings() -> Any:
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise UsageError(f"TensorRT engines need cuda-python ({error}): {INSTALL}") from None
