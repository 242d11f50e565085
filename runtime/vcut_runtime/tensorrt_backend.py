"""TensorRT engines on a GPU: one set of buffers, one activation memory, one CUDA graph per step."""

from __future__ import annotations

import hashlib
import itertools
import math
import mmap
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vcut_runtime.bundle import Bundle
from vcut_runtime.cuda import Captured, Cuda, Event, Memory
from vcut_runtime.errors import BundleError, UsageError, VcutError
from vcut_runtime.graphs import FEATURES, dimensions, sized, take_turns
from vcut_runtime.machine import cache_folder, file_name, first_line
from vcut_runtime.manifest import SHALLOW, EngineEntry, EngineSet, Profile, Sizes, TensorSpec
from vcut_runtime.tensorrt_library import TITLES, Library, Log

STEPS = (*SHALLOW, *SHALLOW.values())  # run many times with the same shapes: worth a CUDA graph
_RESERVE = 512 << 20  # kernels, the CUDA context's growth, and what the desktop may take meanwhile
_ALIGNMENT = 256  # of addresses, for TensorRT


@dataclass(eq=False)
class DeviceArray:
    """An array on the GPU. One that a graph gave is valid until that graph runs again, deep features until any step."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    owner: Any = None  # what keeps the memory alive
    serial: int = field(default_factory=itertools.count().__next__)  # tells one value from the next at its address

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class _Block:
    """Memory that goes back to the pool when nothing refers to it any more."""

    def __init__(self, pool: _Pool, memory: Memory) -> None:
        self.pool, self.memory = pool, memory
        self.address = memory.address

    def __del__(self) -> None:
        self.pool.unused[self.memory.size].append(self.memory)


class _Pool:
    """Memory for uploads, by powers of two: a second video allocates nothing, and one of another size little."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.unused: defaultdict[int, list[Memory]] = defaultdict(list)

    def take(self, size: int, what: str) -> _Block:
        size = max(_ALIGNMENT, 1 << (size - 1).bit_length())
        unused = self.unused[size]
        return _Block(self, unused.pop() if unused else self.cuda.allocate(size, what))


@dataclass
class _Loaded:
    """An engine ready to run."""

    engine: Any
    context: Any
    serialized: memoryview
    inputs: dict[str, tuple[TensorSpec, Memory]]
    outputs: dict[str, tuple[TensorSpec, Memory]]
    bound: dict[str, int] = field(default_factory=dict)  # the value that each input buffer holds a copy of
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of the dynamic inputs and of the outputs
    runs: int = 0
    deferred: bool = False  # its weights can leave the GPU and come back
    resident: bool = True  # they are there
    own_graph: bool = False  # the library captures and replays by itself
    captured: Captured | None = None
    cache: Any = None  # TensorRT-RTX's runtime cache


class TensorRtBackend:
    """Runs the engines ``target`` of a bundle.

    Args:
        bundle: an opened bundle.
        target: which of its engine sets.
        library: the library that built it.
        cuda: the GPU.
        low_memory: keep the weights of one stage at a time on the GPU; None: only if not all fit.
        cuda_graphs: capture each step once and launch it whole from then on.

    Raises:
        BundleError: engines are missing.
        VcutError: not even one engine at a time fits.
    """

    def __init__(
        self,
        bundle: Bundle,
        target: str,
        library: Library,
        cuda: Cuda,
        *,
        low_memory: bool | None = None,
        cuda_graphs: bool = True,
    ) -> None:
        self.name = library.name
        self.target = target
        self.notes: list[str] = []
        self._bundle, self._library, self._cuda = bundle, library, cuda
        self._set: EngineSet = bundle.manifest.engines[target]
        missing = [name for name in bundle.manifest.graph_names if name not in self._set.engines]
        if missing:
            raise BundleError(f"the engines {target} lack {missing[0]}: run 'vcut build {bundle.root}'")
        self._free_before, _ = cuda.memory()
        self._least_free = self._free_before
        self.low_memory = self._decide_low_memory(low_memory)
        self._cuda_graphs = cuda_graphs and not self.low_memory
        if self.low_memory and cuda_graphs:
            self.notes.append("CUDA graphs are off: in low memory mode the weights move between steps")
        self._errors: list[str] = []
        # The library's objects keep the logger, and nobody's collector sees through them: it must not know this object.
        self._logger = library.logger(_collector(self._errors))
        self._runtime = library.module.Runtime(self._logger)
        self._pool = _Pool(cuda)
        self._activation: Memory | None = None
        self._features: Memory | None = None
        self._loaded: dict[str, _Loaded] = {}

    def check_sizes(self, sizes: Sizes) -> None:
        """Return at once: engines are built for all sizes that their bundle allows."""

    def max_decode_chunk(self) -> int | None:
        """Return how many frames the decode engine takes at most."""
        profile = self._set.engines["decode"].profile.get("latents")
        return self._bundle.manifest.decode_frames if profile is None else profile.max[0]

    def load(self, graph: str) -> None:
        """Bring ``graph`` to the GPU; in low memory mode other stages' weights leave it first.

        Raises:
            BundleError: the engine is not the one that was built.
            VcutError: the library refuses it, or memory is short.
        """
        if self.low_memory:
            for name in list(self._loaded):
                if name != graph and not take_turns(name, graph):
                    self._unload(name)
        found = self._loaded.get(graph)
        if found is not None and found.resident:  # every step comes by here, and asking for memory takes its time
            return
        if found is None:
            self._loaded[graph] = self._open(graph)
        else:
            if not found.engine.load_weights(found.serialized):
                raise self._failed(f"cannot load the weights of {graph} again")
            found.resident = True
        self._sample_memory()

    def upload(self, value: np.ndarray) -> DeviceArray:
        """Return a copy on the GPU."""
        value = np.ascontiguousarray(value)
        block = self._pool.take(value.nbytes, "an input")
        self._cuda.copy_in(block.address, value)
        return DeviceArray(block.address, value.shape, value.dtype, block)

    def download(self, value: DeviceArray) -> np.ndarray:
        """Return a copy on the host."""
        result = np.empty(value.shape, value.dtype)
        self._cuda.copy_out(result, value.address)
        return result

    def run(self, graph: str, inputs: Mapping[str, DeviceArray]) -> dict[str, DeviceArray]:
        """Ask the GPU to run ``graph`` and return at once; outputs are overwritten by its next run.

        Deep features have one memory for all graphs, where shallow steps find what the last full step wrote.

        Raises:
            VcutError: TensorRT failed.
        """
        self.load(graph)
        loaded = self._loaded[graph]
        self._bind(graph, loaded, inputs)
        self._enqueue(graph, loaded)
        loaded.runs += 1
        if loaded.runs == 1:
            self._cuda.synchronize()  # what the first run compiled and allocated counts
            self._sample_memory()
            self._keep_cache(graph, loaded)
        return {
            name: DeviceArray(memory.address, loaded.shapes[name], _dtype(spec), memory)
            for name, (spec, memory) in loaded.outputs.items()
        }

    def mark(self) -> Event:
        """Return a point in the GPU's work."""
        return self._cuda.event()

    def wait(self, mark: Event) -> None:
        """Wait until the GPU has reached ``mark``."""
        self._cuda.wait(mark)

    def seconds(self, start: Event, end: Event) -> float:
        """Return the GPU's time between two marks."""
        return self._cuda.seconds(start, end)

    def peak_memory(self) -> int | None:
        """Return the most device memory in use since this backend was made, less what was in use before, in bytes."""
        self._sample_memory()
        return self._free_before - self._least_free

    def _decide_low_memory(self, wanted: bool | None) -> bool:
        """Compare what the manifest says the engines need with what is free."""
        engines = self._set.engines.values()
        activation = max(e.activation_bytes for e in engines)
        tensors = [(spec, entry) for entry in engines for spec in (*entry.inputs, *entry.outputs)]
        buffers = sum(self._bytes(spec, entry) for spec, entry in tensors if spec.name != FEATURES)
        common = activation + buffers + self._feature_bytes() + _RESERVE
        together = common + sum(e.weight_bytes for e in engines)
        shallow = [self._set.engines[name].weight_bytes for name in SHALLOW.values() if name in self._set.engines]
        alone = common + max(e.weight_bytes for e in engines) + max(shallow, default=0)
        if alone > self._free_before:
            raise VcutError(
                f"these engines need {alone / 1e9:.1f} GB of GPU memory, {self._free_before / 1e9:.1f} GB are free on "
                f"{self._cuda.name}: close other programs, or export a smaller --height, --width or --frames"
            )
        if wanted is None and together > self._free_before:
            self.notes.append(
                f"low memory mode: all engines need {together / 1e9:.1f} GB, "
                f"{self._free_before / 1e9:.1f} GB are free, so weights are loaded stage by stage"
            )
        return together > self._free_before if wanted is None else wanted

    def _open(self, graph: str) -> _Loaded:
        """Check, deserialize and wire an engine."""
        entry = self._set.engines[graph]
        serialized = _verified(self._bundle, entry)
        self._errors.clear()
        deferred = self.low_memory and hasattr(self._runtime, "defer_weights_loading")
        if deferred:  # only such engines can give their weights back later
            self._runtime.defer_weights_loading = True
        engine = self._runtime.deserialize_cuda_engine(serialized)
        if engine is None:
            raise self._failed(f"cannot load {entry.file}")
        if deferred and not engine.load_weights(serialized):
            raise self._failed(f"cannot load the weights of {graph}")
        self._check_tensors(graph, engine, entry)
        need = max(entry.activation_bytes, int(engine.device_memory_size_v2))
        activation = self._reserve_activation(need)
        strategy = self._library.module.ExecutionContextAllocationStrategy.USER_MANAGED
        own_graph, cache = False, None
        if hasattr(engine, "create_runtime_config"):
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            if self._cuda_graphs and graph in STEPS and hasattr(config, "cuda_graph_strategy"):
                config.cuda_graph_strategy = self._library.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
                own_graph = True
            cache = self._runtime_cache(config, entry)
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context(strategy)
        if context is None:
            raise self._failed(f"cannot create an execution context of {graph}")
        context.set_device_memory(activation.address, activation.size)

        def buffer(spec: TensorSpec) -> tuple[TensorSpec, Memory]:
            if spec.name == FEATURES:
                if self._features is None:
                    self._features = self._cuda.allocate(self._feature_bytes(), "deep features")
                return spec, self._features
            return spec, self._cuda.allocate(self._bytes(spec, entry), f"{spec.name} of {graph}")

        loaded = _Loaded(
            engine=engine,
            context=context,
            serialized=serialized,
            inputs={spec.name: buffer(spec) for spec in entry.inputs},
            outputs={spec.name: buffer(spec) for spec in entry.outputs},
            deferred=deferred,
            own_graph=own_graph,
            cache=cache,
        )
        for name, (_, memory) in {**loaded.inputs, **loaded.outputs}.items():
            if not context.set_tensor_address(name, memory.address):
                raise self._failed(f"refuses the address of {name} in {graph}")
        return loaded

    def _check_tensors(self, graph: str, engine: Any, entry: EngineEntry) -> None:
        """The engine itself must take and give what the manifest says: buffers are sized by the manifest."""
        said = {spec.name: spec for spec in (*entry.inputs, *entry.outputs)}
        found = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        kinds = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8"}
        for name in sorted({*said, *found}):
            spec = said.get(name)
            shape = tuple(engine.get_tensor_shape(name)) if name in found else ()
            if (
                spec is None
                or name not in found
                or kinds.get(engine.get_tensor_dtype(name).name) != spec.dtype
                or shape != tuple(-1 if isinstance(d, str) else d for d in spec.shape)
            ):
                raise BundleError(
                    f"{self._bundle.root}: {entry.file} does not have the {name!r} that the manifest gives {graph}: "
                    "run 'vcut build --force' on the bundle"
                )

    def _bind(self, graph: str, loaded: _Loaded, inputs: Mapping[str, DeviceArray]) -> None:
        """Copy what changed into the input buffers, which never move; tell the engine of new shapes."""
        reshaped = not loaded.shapes
        for name, (spec, memory) in loaded.inputs.items():
            value = inputs[name]
            fits = len(value.shape) == len(spec.shape) and value.dtype == _dtype(spec)
            if not fits or any(isinstance(d, int) and d != v for d, v in zip(spec.shape, value.shape, strict=False)):
                raise VcutError(f"{graph} wants {name} as {list(spec.shape)}, not {list(value.shape)}")
            profile = self._set.engines[graph].profile.get(name)
            if profile is not None and loaded.shapes.get(name) != value.shape:
                if not _within(profile, value.shape):
                    raise UsageError(
                        f"{graph} was built for {name} from {list(profile.min)} to {list(profile.max)}, "
                        f"not {list(value.shape)}"
                    )
                if not loaded.context.set_input_shape(name, value.shape):
                    raise self._failed(f"refuses {name} of shape {list(value.shape)} in {graph}")
                loaded.shapes[name] = value.shape
                reshaped = True
            if name == FEATURES:  # other graphs write to this buffer too, and theirs are there already
                if value.address != memory.address:
                    self._cuda.copy(memory.address, value.address, value.nbytes)
            elif loaded.bound.get(name) != value.serial:
                self._cuda.copy(memory.address, value.address, value.nbytes)
                loaded.bound[name] = value.serial
        if reshaped:
            loaded.captured, loaded.runs = None, 0  # what was captured has the old shapes
            loaded.shapes |= {name: tuple(loaded.context.get_tensor_shape(name)) for name in loaded.outputs}

    def _enqueue(self, graph: str, loaded: _Loaded) -> None:
        """Launch the captured step, or capture it on its second run: the first one may still compile and allocate."""
        if loaded.captured:
            self._cuda.launch(loaded.captured)
            return
        capture = self._cuda_graphs and graph in STEPS and not loaded.own_graph and loaded.runs == 1
        if capture and getattr(loaded.context, "is_stream_capturable", lambda _: True)(self._cuda.stream):
            try:
                with self._cuda.capture() as captured:
                    self._execute(graph, loaded)
            except VcutError as error:
                self.notes.append(f"CUDA graph of {graph} could not be captured, running without: {error}")
            else:
                loaded.captured = captured
                self._cuda.launch(captured)
                return
        elif capture:
            self.notes.append(f"CUDA graph of {graph} could not be captured, running without: it allocates as it runs")
        self._execute(graph, loaded)

    def _execute(self, graph: str, loaded: _Loaded) -> None:
        self._errors.clear()
        if not loaded.context.execute_async_v3(self._cuda.stream):
            raise self._failed(f"failed in {graph}")

    def _reserve_activation(self, need: int) -> Memory:
        """One memory serves all engines, as they run one after the other; it grows to what the largest wants."""
        wanted = max(need, *(e.activation_bytes for e in self._set.engines.values()))
        if self._activation is None or wanted > self._activation.size:
            self._activation = None  # given back first
            self._activation = self._cuda.allocate(wanted, "activations")
            for loaded in self._loaded.values():
                loaded.context.set_device_memory(self._activation.address, wanted)
                loaded.captured, loaded.runs = None, 0  # it points at the old memory
        return self._activation

    def _unload(self, graph: str) -> None:
        """Take an engine's weights off the GPU; where the library cannot do that, the engine goes whole."""
        loaded = self._loaded[graph]
        if not loaded.resident:
            return
        self._cuda.synchronize()
        if loaded.deferred and loaded.engine.unload_weights():
            loaded.resident = False
        else:
            del self._loaded[graph]

    def _runtime_cache(self, config: Any, entry: EngineEntry) -> Any:
        """Give the context the kernels compiled by an earlier run on this GPU (TensorRT-RTX compiles when it loads)."""
        if not hasattr(config, "create_runtime_cache"):
            return None
        cache = config.create_runtime_cache()
        with suppress(OSError):
            cache.deserialize(_cache_file(self._library, self._cuda, entry).read_bytes())  # the library checks it
        config.set_runtime_cache(cache)
        return cache

    def _keep_cache(self, graph: str, loaded: _Loaded) -> None:
        """Write what was compiled, for the next program; a cache that cannot be written is no failure."""
        if loaded.cache is None:
            return
        path = _cache_file(self._library, self._cuda, self._set.engines[graph])
        try:
            data = bytes(loaded.cache.serialize())
            if path.is_file() and path.stat().st_size == len(data):
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                file.write(data)
            Path(file.name).replace(path)
        except OSError as error:
            self.notes.append(f"compiled kernels could not be kept in {path.parent}: {first_line(error)}")

    def _bytes(self, spec: TensorSpec, entry: EngineEntry) -> int:
        """Return the size of a tensor at its largest."""
        manifest = self._bundle.manifest
        chunk = entry.profile["latents"].max[0] if "n" in spec.shape else manifest.decode_chunk
        most = dimensions(manifest, manifest.largest, chunk)
        return math.prod(sized(spec.shape, most)) * _dtype(spec).itemsize

    def _feature_bytes(self) -> int:
        """Return the size of the deep features at their largest: those of a guided step."""
        entries = self._set.engines.values()
        return max((self._bytes(spec, e) for e in entries for spec in e.outputs if spec.name == FEATURES), default=0)

    def _sample_memory(self) -> None:
        self._least_free = min(self._least_free, self._cuda.memory()[0])

    def _failed(self, what: str) -> VcutError:
        """Say what the library said last, in one line, with what helps."""
        reason = self._errors[-1] if self._errors else "no reason given"
        return VcutError(f"{TITLES[self._library.name]} {what} ({reason}): {advice(reason)}")


def _collector(errors: list[str]) -> Log:
    """Return what a logger calls: it keeps the errors."""

    def log(severity: str, message: str) -> None:
        if severity in ("ERROR", "INTERNAL_ERROR"):
            errors.append(" ".join(message.split()))

    return log


def advice(message: str) -> str:
    """Return what helps against an error that a TensorRT runtime reports."""
    text = message.lower()
    for words, help_text in (
        (("memory", "alloc"), "use --low-memory, or close other programs that use the GPU"),
        (("version", "header"), "build the engines again with the library installed here, 'vcut build'"),
        (("compute capab", "unsupported_cc", "sm version"), "build engines for this GPU, 'vcut build --gpu this'"),
        (("driver",), "update the NVIDIA driver"),
    ):
        if any(word in text for word in words):
            return help_text
    return "build the engines again with 'vcut build --force', or use another --backend"


def _verified(bundle: Bundle, entry: EngineEntry) -> memoryview:
    """Map an engine and check the very bytes that are going to be loaded."""
    with bundle.path(entry).open("rb") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if hashlib.sha256(mapped).hexdigest() != entry.sha256:
        raise BundleError(
            f"{bundle.root}: {entry.file} does not match its sha256 in the manifest: run 'vcut build --force' on it"
        )
    return mapped


def _cache_file(library: Library, cuda: Cuda, entry: EngineEntry) -> Path:
    gpu = file_name(cuda.name)
    return cache_folder() / "kernels" / f"{entry.sha256[:24]}-{library.name}-{library.version}-{gpu}.bin"


def _dtype(spec: TensorSpec) -> np.dtype:
    return np.dtype(spec.dtype)


def _within(profile: Profile, shape: tuple[int, ...]) -> bool:
    return all(low <= size <= high for low, size, high in zip(profile.min, shape, profile.max, strict=True))
