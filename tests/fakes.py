"""A GPU and a TensorRT made of host memory, so that everything around them runs on any machine.

``FakeCuda`` has the functions of ``cuda.bindings.runtime`` that the runtime uses; device memory is host memory, every
copy is checked against live allocations, and captured work is really deferred. ``fake_tensorrt`` has the API of both
TensorRTs; its engines are JSON that names an ONNX graph, run by ONNX Runtime on that memory, and they refuse what a
real engine would compute garbage from: missing or misaligned addresses, freed memory, an activation memory too small,
weights that are not loaded. Nothing here is timed or measured.
"""

from __future__ import annotations

import ctypes
import enum
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from vcut_runtime import BackendOptions, Pipeline, open_bundle
from vcut_runtime.backends.cuda import Cuda
from vcut_runtime.backends.tensorrt import TensorRtBackend
from vcut_runtime.backends.tensorrt_library import Library
from vcut_runtime.bundle.graph import sized
from vcut_runtime.bundle.manifest import Manifest, decode


class Result(enum.IntEnum):
    """Return codes, as numbers: ``int(result)`` is all that the runtime reads."""

    success = 0
    invalid = 1
    out_of_memory = 2
    old_driver = 35
    no_device = 100
    capture_failed = 901


class FakeCuda:
    """``cuda.bindings.runtime`` over host memory."""

    cudaDeviceAttr = SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
    )
    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice="in", cudaMemcpyDeviceToHost="out", cudaMemcpyDeviceToDevice="device"
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeRelaxed="relaxed")

    def __init__(self, capability: str = "8.6", total: int = 24 << 30, name: str = "Fake A10") -> None:
        self.capability, self.total, self.name = capability, total, name
        self.live: dict[int, np.ndarray] = {}  # allocations by address
        self.sizes: dict[int, int] = {}
        self.weights = 0  # bytes that engines took
        self.allocations = 0
        self.cleared = 0  # times that the last error was taken back
        self.capturing: list[Callable[[], None]] | None = None
        self.capture_works = True
        self.launches = 0
        self.streams = 0
        self.clock = 0.0  # moves with work, so that events have something to tell

    @property
    def used(self) -> int:
        return sum(self.sizes.values()) + self.weights

    def cudaGetDeviceCount(self) -> tuple:
        return Result.success, 1

    def cudaSetDevice(self, device: int) -> tuple:
        return (Result.success,)

    def cudaDeviceGetAttribute(self, attribute: str, device: int) -> tuple:
        return Result.success, int(self.capability.split(".")[attribute == "minor"])

    def cudaGetDeviceProperties(self, device: int) -> tuple:
        return Result.success, SimpleNamespace(name=self.name.encode())

    def cudaDriverGetVersion(self) -> tuple:
        return Result.success, 13000

    def cudaRuntimeGetVersion(self) -> tuple:
        return Result.success, 13050

    def cudaGetErrorString(self, error: Result) -> tuple:
        return Result.success, error.name.encode()

    def cudaGetLastError(self) -> tuple:
        self.cleared += 1
        return (Result.success,)

    def cudaStreamCreate(self) -> tuple:
        self.streams += 1
        return Result.success, 7

    def cudaStreamDestroy(self, stream: int) -> tuple:
        self.streams -= 1
        return (Result.success,)

    def cudaStreamSynchronize(self, stream: int) -> tuple:
        return (Result.invalid if self.capturing is not None else Result.success,)

    def cudaMemGetInfo(self) -> tuple:
        return Result.success, self.total - self.used, self.total

    def cudaMalloc(self, size: int) -> tuple:
        if self.used + size > self.total:
            return Result.out_of_memory, None
        room = np.full(size + 256, 0xFF, dtype=np.uint8)  # NaN, where someone reads what nobody wrote
        address = -(-room.ctypes.data // 256) * 256
        self.live[address], self.sizes[address] = room, size
        self.allocations += 1
        return Result.success, address

    def cudaFree(self, address: int) -> tuple:
        del self.live[address], self.sizes[address]
        return (Result.success,)

    def check(self, address: int, size: int) -> None:
        """Fail unless these bytes lie in one live allocation."""
        assert any(start <= address and address + size <= start + length for start, length in self.sizes.items()), (
            f"{size} bytes at {address} are not allocated"
        )

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: str, stream: int) -> tuple:
        if kind != "in":
            self.check(source, size)
        if kind != "out":
            self.check(target, size)
        self.do(lambda: ctypes.memmove(target, source, size))
        return (Result.success,)

    def do(self, work: Callable[[], Any]) -> None:
        """Do work now, or note it while a graph is captured."""
        if self.capturing is None:
            self.clock += 0.001
            work()
        else:
            self.capturing.append(work)

    def cudaEventCreate(self) -> tuple:
        return Result.success, SimpleNamespace(time=None)

    def cudaEventRecord(self, event: Any, stream: int) -> tuple:
        event.time = self.clock
        return (Result.success,)

    def cudaEventSynchronize(self, event: Any) -> tuple:
        assert event.time is not None
        return (Result.success,)

    def cudaEventElapsedTime(self, start: Any, end: Any) -> tuple:
        return Result.success, (end.time - start.time) * 1000

    def cudaEventDestroy(self, event: Any) -> tuple:
        return (Result.success,)

    def cudaStreamBeginCapture(self, stream: int, mode: str) -> tuple:
        self.capturing = []
        return (Result.success,)

    def cudaStreamEndCapture(self, stream: int) -> tuple:
        work, self.capturing = self.capturing, None
        return (Result.success, work) if self.capture_works else (Result.capture_failed, None)

    def cudaGraphInstantiate(self, graph: list, flags: int) -> tuple:
        return Result.success, list(graph)

    def cudaGraphDestroy(self, graph: list) -> tuple:
        return (Result.success,)

    def cudaGraphExecDestroy(self, graph: list) -> tuple:
        return (Result.success,)

    def cudaGraphLaunch(self, graph: list, stream: int) -> tuple:
        self.launches += 1
        for work in graph:
            self.do(work)
        return (Result.success,)


class FakeEngine:
    """An engine file's content brought to life; it counts what is done to it in ``trt.events``."""

    def __init__(self, trt: Any, content: dict, deferred: bool) -> None:
        self.trt, self.content, self.cuda = trt, content, trt.cuda
        self.name = content["graph"]
        self.weights_loaded = False
        if not deferred:
            self._take()
        self.device_memory_size_v2 = content["activation_bytes"]
        self.tensors = [*content["inputs"], *content["outputs"]]
        self.num_io_tensors = len(self.tensors)
        if trt.rtx:
            self.create_runtime_config = lambda: FakeRuntimeConfig(trt)
            self.load_weights = self._load
            self.unload_weights = self._unload

    def _take(self) -> None:
        self.cuda.weights += self.content["weight_bytes"]
        self.weights_loaded = True
        self.trt.resident.add(self.name)
        self.trt.most_resident = max(self.trt.most_resident, len(self.trt.resident))

    def _drop(self) -> None:
        if self.weights_loaded:
            self.cuda.weights -= self.content["weight_bytes"]
            self.weights_loaded = False
            self.trt.resident.discard(self.name)

    def _load(self, blob: Any) -> bool:
        assert json.loads(bytes(blob)) == self.content, "the weights of another engine"
        self.trt.events.append(("load_weights", self.name))
        self._take()
        return True

    def _unload(self) -> bool:
        self.trt.events.append(("unload_weights", self.name))
        self._drop()
        return True

    def __del__(self) -> None:
        self._drop()

    def get_tensor_name(self, index: int) -> str:
        return self.tensors[index]["name"]

    def _tensor(self, name: str) -> dict:
        return next(t for t in self.tensors if t["name"] == name)

    def get_tensor_shape(self, name: str) -> tuple:
        return tuple(-1 if isinstance(d, str) else d for d in self._tensor(name)["shape"])

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(
            name={"float32": "FLOAT", "float16": "HALF", "uint8": "UINT8"}[self._tensor(name)["dtype"]]
        )

    def create_execution_context(self, how: Any) -> FakeContext:
        return FakeContext(self, how)


class FakeRuntimeConfig:
    """TensorRT-RTX's; setting the graph strategy makes the context count as replaying by itself."""

    def __init__(self, trt: Any) -> None:
        self.trt = trt
        self.strategy: Any = None
        self.cuda_graph_strategy = "disabled"
        self.dynamic_shapes_kernel_specialization_strategy = "lazy"
        self.cache: FakeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> FakeCache:
        return FakeCache()

    def set_runtime_cache(self, cache: FakeCache) -> None:
        self.cache = cache


class FakeCache:
    """Kernels as text: a context that finds its graph in it compiles nothing."""

    def __init__(self) -> None:
        self.compiled: set[str] = set()

    def deserialize(self, blob: bytes) -> bool:
        self.compiled = set(json.loads(blob))
        return True

    def serialize(self) -> bytes:
        return json.dumps(sorted(self.compiled)).encode()


_SESSIONS: dict[str, Any] = {}


def _session(graph: str, path: Path) -> Any:
    """Load each graph once per test run; copies of a bundle hold the same ones."""
    import onnxruntime as ort

    if graph not in _SESSIONS:
        _SESSIONS[graph] = ort.InferenceSession(path)
    return _SESSIONS[graph]


class FakeContext:
    """Runs the graph that its engine names on the memory it was given."""

    def __init__(self, engine: FakeEngine, how: Any) -> None:
        self.engine, self.trt, self.cuda = engine, engine.trt, engine.cuda
        self.config = how if isinstance(how, FakeRuntimeConfig) else None
        strategy = self.config.strategy if self.config else how
        assert strategy == "user managed", "a context with memory of its own"
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple] = {}
        self.memory = (0, 0)
        path = Path(engine.content["onnx"])
        self.session = _session(hashlib.sha256(path.read_bytes()).hexdigest(), path)
        cache = self.config.cache if self.config else None
        if cache is not None and engine.name not in cache.compiled:
            self.trt.events.append(("compile", engine.name))
            cache.compiled.add(engine.name)

    def set_device_memory(self, address: int, size: int) -> None:
        self.memory = (address, size)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address % 256 == 0

    def set_input_shape(self, name: str, shape: tuple) -> bool:
        sides = self.engine.content["profile"][name]
        fits = all(low <= d <= high for low, d, high in zip(sides["min"], shape, sides["max"], strict=True))
        if fits:
            self.shapes[name] = tuple(shape)
        return fits

    def get_tensor_shape(self, name: str) -> tuple:
        tensor, free = self.engine._tensor(name), self._dimensions()
        return self.shapes.get(name, tuple(free.get(d, -1) if isinstance(d, str) else d for d in tensor["shape"]))

    def _dimensions(self) -> dict[str, int]:
        """The free dimensions that the inputs' shapes give: a pixel of latents is ``factor`` pixels."""
        free: dict[str, int] = {}
        for name, shape in self.shapes.items():
            for dimension, size in zip(self.engine._tensor(name)["shape"], shape, strict=True):
                if isinstance(dimension, str):
                    assert free.setdefault(dimension, size) == size, f"{name} has another {dimension} than the others"
        factor = self.engine.content["factor"]
        for large, small in (("H", "h"), ("W", "w")):
            if large in free:
                free.setdefault(small, free[large] // factor)
            elif small in free:
                free[large] = free[small] * factor
        return free

    def execute_async_v3(self, stream: int) -> bool:
        engine = self.engine
        if self.trt.fail_with and engine.name == self.trt.fail_in:
            self.trt.logger.log(SimpleNamespace(name="ERROR"), self.trt.fail_with)
            return False
        assert engine.weights_loaded, f"{engine.name} runs without its weights"
        self.trt.events.append(("enqueue", engine.name))
        addresses, shapes, (memory, size) = dict(self.addresses), dict(self.shapes), self.memory
        wanted = {tensor["name"]: self.get_tensor_shape(tensor["name"]) for tensor in engine.content["outputs"]}
        assert size >= engine.device_memory_size_v2

        def work() -> None:
            self.cuda.check(memory, size)
            arrays = {}
            for tensor in engine.content["inputs"]:
                arrays[tensor["name"]] = self._view(tensor, shapes, addresses).copy()
            ctypes.memset(memory, 0xEE, min(size, 4096))  # activations: nobody else's bytes may lie here
            outputs: Any = self.session.run(None, arrays)
            for info, value in zip(self.session.get_outputs(), outputs, strict=True):
                assert value.shape == wanted[info.name]
                self.cuda.check(addresses[info.name], value.nbytes)
                data = np.ascontiguousarray(value)
                ctypes.memmove(addresses[info.name], data.ctypes.data, data.nbytes)
            self.trt.ran.append(engine.name)

        self.cuda.do(work)
        return True

    def _view(self, tensor: dict, shapes: dict, addresses: dict) -> np.ndarray:
        shape = shapes.get(tensor["name"], tuple(tensor["shape"]))
        dtype = np.dtype(tensor["dtype"])
        size = int(np.prod(shape)) * dtype.itemsize
        self.cuda.check(addresses[tensor["name"]], size)
        buffer: Any = (ctypes.c_char * size).from_address(addresses[tensor["name"]])
        return np.frombuffer(buffer, dtype=dtype).reshape(shape)


def fake_tensorrt(cuda: FakeCuda, library: str = "tensorrt-rtx") -> Any:
    """Return a module like ``tensorrt`` or ``tensorrt_rtx`` whose engines run on ``cuda``.

    ``events`` lists what was asked of it and ``ran`` the graphs that ran, in order; ``most_resident`` is the largest
    number of engines whose weights were on the GPU at once.
    """
    trt = SimpleNamespace(
        __version__="1.2.3",
        cuda=cuda,
        rtx=library == "tensorrt-rtx",
        events=[],
        ran=[],
        resident=set(),
        most_resident=0,
        fail_with="",
        fail_in="",
        logger=None,
        ILogger=type("ILogger", (), {}),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
        CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph"),
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
    )

    class Runtime:
        def __init__(self, logger: Any) -> None:
            trt.logger = logger
            if trt.rtx:
                self.defer_weights_loading = False

        def deserialize_cuda_engine(self, blob: Any) -> FakeEngine | None:
            content = json.loads(bytes(blob))
            if "refuse" in content:
                trt.logger.log(SimpleNamespace(name="ERROR"), content["refuse"])
                return None
            trt.events.append(("deserialize", content["graph"]))
            return FakeEngine(trt, content, getattr(self, "defer_weights_loading", False))

    trt.Runtime = Runtime
    return trt


def add_fake_engines(
    bundle: Path,
    library: str = "tensorrt-rtx",
    *,
    capability: str | None = "8.6",
    version: str = "1.2.3",
    activation_bytes: int = 1 << 20,
    weight_bytes: int = 1 << 20,
    decode_frames: int | None = None,
    **content: Any,
) -> str:
    """Put engines for :func:`fake_tensorrt` into a bundle's manifest and return their target.

    ``decode`` needs twice the activation memory of the other graphs.
    """
    path = bundle / "manifest.json"
    manifest, geometry = json.loads(path.read_text()), decode(path.read_bytes()).geometry
    least = geometry.values(geometry.smallest, 1)
    most = geometry.values(geometry.largest, decode_frames or geometry.decode_chunk)
    target = f"{library}-{'portable' if capability is None else 'sm' + capability.replace('.', '')}"
    engines = {}
    for name, graph in manifest["graphs"].items():
        activation = activation_bytes * (2 if name == "decode" else 1)
        profile = {}
        for tensor in graph["inputs"]:
            if any(isinstance(d, str) for d in tensor["shape"]):
                low, high = (list(sized(tensor["shape"], at)) for at in (least, most))
                profile[tensor["name"]] = {"min": low, "opt": high, "max": high}
        body = {
            "graph": name,
            # The file that ONNX Runtime's CPU runs, so that videos are equal to the last bit.
            "onnx": str((bundle / (graph["contrib"] or graph)["file"]).resolve()),
            "inputs": graph["inputs"],
            "outputs": graph["outputs"],
            "profile": profile,
            "factor": geometry.vae_scale_factor,
            "activation_bytes": activation,
            "weight_bytes": weight_bytes,
            **content,
        }
        data = json.dumps(body).encode()
        file = bundle / "engines" / target / f"{name}.engine"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        engines[name] = {
            "file": file.relative_to(bundle).as_posix(),
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "key": "fake",
            "graph": graph["sha256"],
            "weights": manifest["weights"][graph["weights"]]["sha256"],
            "inputs": graph["inputs"],
            "outputs": graph["outputs"],
            "profile": profile,
            "activation_bytes": activation,
            "weight_bytes": weight_bytes,
            "layers": 1,
            "build_seconds": 0.0,
        }
    manifest["engines"][target] = {
        "library": library,
        "version": version,
        "compute_capability": capability,
        "gpu": None,
        "engines": engines,
    }
    path.write_text(json.dumps(manifest))
    return target


class Machine:
    """A bundle with engines, a GPU, and a library; :meth:`pipeline` loads it."""

    def __init__(
        self, bundle: Path, library: str = "tensorrt-rtx", gpu: FakeCuda | None = None, **engines: Any
    ) -> None:
        self.bundle, self.library = bundle, library
        self.target = add_fake_engines(bundle, library, **engines)
        self.gpu = gpu or FakeCuda()
        self.trt = fake_tensorrt(self.gpu, library)

    def pipeline(self, **options: Any) -> Pipeline:
        opened = open_bundle(self.bundle)
        library = Library(self.library, self.trt, "1.2.3")  # pyright: ignore[reportArgumentType]
        backend = TensorRtBackend(opened, self.target, library, Cuda(self.gpu), BackendOptions(**options))
        return Pipeline(opened, backend)

    def count(self, kind: str, graph: str | None = None) -> int:
        return sum(k == kind and graph in (None, g) for k, g in self.trt.events)


class Recorder:
    """A backend without graphs. It keeps the inputs of each run, and fills the outputs with the number of the run."""

    name = "recorder"
    on_host = True

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.notes: list[str] = []
        self.runs: list[tuple[str, dict[str, np.ndarray]]] = []

    def upload(self, value: np.ndarray) -> np.ndarray:
        return np.array(value)

    def download(self, value: np.ndarray) -> np.ndarray:
        return value

    def run(self, graph: str, inputs: Any) -> dict[str, np.ndarray]:
        self.runs.append((graph, dict(inputs)))
        n = len(inputs["latents"]) if graph == "decode" else 0
        return {
            tensor.name: np.full(sized(tensor.shape, {"n": n}), len(self.runs), tensor.dtype)
            for tensor in self.manifest.graphs[graph].outputs
        }

    def close(self) -> None: ...
    def load(self, graph: str) -> None: ...
    def wait(self, mark: Any) -> None: ...
    def check_run(self, sizes: Any, graphs: Any) -> None: ...
    def step_seconds(self, graph: str, sizes: Any) -> float:
        return 0.0

    def mark(self) -> float:
        return 0.0

    def seconds(self, start: float, end: float) -> float:
        return end - start

    def peak_memory(self) -> int | None:
        return None

    def max_decode_chunk(self) -> int | None:
        return None
