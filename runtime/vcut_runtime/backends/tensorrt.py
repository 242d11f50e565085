"""TensorRT engines on a GPU: one set of buffers, one activation memory, one CUDA graph per step."""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vcut_runtime.backends.backend import Offer
from vcut_runtime.backends.cuda import Captured, Cuda, Event, Memory
from vcut_runtime.backends.device_memory import DeviceArray, Pool
from vcut_runtime.backends.engine_validity import why_invalid
from vcut_runtime.backends.kernel_cache import KernelCache
from vcut_runtime.backends.tensorrt_library import TITLES, Library, Log, load_library
from vcut_runtime.bundle import Bundle
from vcut_runtime.bundle.geometry import Sizes
from vcut_runtime.bundle.graph import FEATURES, GRAPHS, share_stage, sized, unlike
from vcut_runtime.bundle.manifest import EngineEntry, EngineSet, Profile, TensorSpec
from vcut_runtime.errors import BundleError, UsageError, VcutError
from vcut_runtime.options import BackendOptions

_RESERVE = 512 << 20  # kernels, growth of the CUDA context, and what the desktop may take meanwhile


def offer(bundle: Bundle, name: str) -> Offer:
    """Offer the engines of the library ``name`` that are valid on this GPU, those built for exactly this GPU first.

    Raises:
        UsageError: there are none, or the library or a GPU is missing.
    """
    sets = {target: engines for target, engines in bundle.manifest.engines.items() if engines.library == name}
    if not sets:
        raise UsageError(
            f"the bundle has no {name} engines: run 'vcut build {bundle.root} --engines {name}', "
            "or use another --backend"
        )
    library = load_library(next(iter(sets.values())).library)
    cuda = Cuda()
    refusals = {}
    for target in sorted(sets, key=lambda t: sets[t].compute_capability != cuda.compute_capability):
        refusal = why_invalid(bundle, target, library, cuda)
        if refusal is None:
            reason = f"engines {target} fit {cuda.name} (compute capability {cuda.compute_capability})"

            def open_engines(options: BackendOptions, target: str = target) -> TensorRtBackend:
                return TensorRtBackend(bundle, target, library, cuda, options)

            return Offer(name, reason, open_engines)
        refusals[target] = refusal
    raise UsageError("; ".join(f"engines {target}: {refusal}" for target, refusal in refusals.items()))


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
    cache: KernelCache | None = None


class TensorRtBackend:
    """Runs the engines ``target`` of a bundle.

    Args:
        bundle: an opened bundle.
        target: which of its engine sets.
        library: the library that built it.
        cuda: the GPU.
        options: how to run.

    Raises:
        BundleError: engines are missing.
        VcutError: not even one engine at a time fits.
    """

    def __init__(
        self, bundle: Bundle, target: str, library: Library, cuda: Cuda, options: BackendOptions | None = None
    ) -> None:
        options = options or BackendOptions()
        self.name = library.name
        self.target = target
        self.on_host = False
        self.notes: list[str] = []
        self._bundle, self._library, self._cuda = bundle, library, cuda
        self._set: EngineSet = bundle.manifest.engines[target]
        missing = [name for name in bundle.manifest.graphs if name not in self._set.engines]
        if missing:
            raise BundleError(f"the engines {target} lack {missing[0]}: run 'vcut build {bundle.root}'")
        self._free_before, _ = cuda.memory()
        self._least_free = self._free_before
        self.low_memory = self._decide_low_memory(options.low_memory)
        self._cuda_graphs = options.cuda_graphs and not self.low_memory
        if self.low_memory and options.cuda_graphs:
            self.notes.append("CUDA graphs are off: in low memory mode the weights move between steps")
        self._errors: list[str] = []
        # The library's objects keep the logger. Python's collector does not see through them, so the logger must not
        # refer to this backend.
        self._logger = library.logger(_collector(self._errors))
        self._runtime = library.module.Runtime(self._logger)
        self._pool = Pool(cuda)
        self._activation: Memory | None = None
        self._features: Memory | None = None
        self._loaded: dict[str, _Loaded] = {}

    def check_run(self, sizes: Sizes, graphs: Collection[str]) -> None:
        """Return at once: engines are built for all sizes that their bundle allows."""

    def step_seconds(self, graph: str, sizes: Sizes) -> float:
        """Return 0: a step on a GPU is short."""
        return 0.0

    def max_decode_chunk(self) -> int | None:
        """Return how many frames the decode engine takes at most."""
        profile = self._set.engines["decode"].profile.get("latents")
        return self._bundle.manifest.geometry.decode_frames if profile is None else profile.max[0]

    def load(self, graph: str) -> None:
        """Bring ``graph`` to the GPU; in low memory mode other stages' weights leave it first.

        Raises:
            BundleError: the engine is not the one that was built.
            VcutError: the library refuses it, or memory is short.
        """
        if self.low_memory:
            for name in list(self._loaded):
                if name != graph and not share_stage(name, graph):
                    self._unload(name)
        loaded = self._loaded.get(graph)
        if loaded is not None and loaded.resident:  # every step comes here, and asking for free memory takes time
            return
        with self._intact(graph):
            if loaded is None:
                self._loaded[graph] = self._open(graph)
            elif loaded.engine.load_weights(loaded.serialized):
                loaded.resident = True
            else:
                raise self._failed(f"cannot load the weights of {graph} again")
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

        All graphs share one memory for deep features. A full step writes it, and the shallow steps after it read it.

        Raises:
            VcutError: TensorRT failed.
        """
        self.load(graph)
        loaded = self._loaded[graph]
        with self._intact(graph):
            self._bind(graph, loaded, inputs)
            self._enqueue(graph, loaded)
            loaded.runs += 1
        if loaded.runs == 1:
            self._cuda.synchronize()  # the first run compiles and allocates, and that counts
            self._sample_memory()
            if loaded.cache is not None and (note := loaded.cache.keep()):
                self.notes.append(note)
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

    def close(self) -> None:
        """Wait for the GPU, and give back the engines and all device memory."""
        try:
            self._cuda.synchronize()
        finally:
            self._loaded.clear()
            self._activation = self._features = None
            self._pool.clear()

    def _decide_low_memory(self, asked: bool | None) -> bool:
        """Compare the memory that the engines need, as the manifest says, with the free memory."""
        engines = self._set.engines.values()
        activation = max(e.activation_bytes for e in engines)
        tensors = [(spec, entry) for entry in engines for spec in (*entry.inputs, *entry.outputs)]
        buffers = sum(self._bytes(spec, entry) for spec, entry in tensors if spec.name != FEATURES)
        common = activation + buffers + self._feature_bytes() + _RESERVE
        together = common + sum(e.weight_bytes for e in engines)
        shallow = [engine.weight_bytes for name, engine in self._set.engines.items() if GRAPHS[name].full]
        alone = common + max(e.weight_bytes for e in engines) + max(shallow, default=0)
        if alone > self._free_before:
            raise VcutError(
                f"these engines need {alone / 1e9:.1f} GB of GPU memory, {self._free_before / 1e9:.1f} GB are free on "
                f"{self._cuda.name}: close other programs, or export a smaller --height, --width or --frames"
            )
        if asked is None and together > self._free_before:
            self.notes.append(
                f"low memory mode: all engines need {together / 1e9:.1f} GB, "
                f"{self._free_before / 1e9:.1f} GB are free, so weights are loaded stage by stage"
            )
        return together > self._free_before if asked is None else asked

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
            if self._cuda_graphs and GRAPHS[graph].is_step and hasattr(config, "cuda_graph_strategy"):
                config.cuda_graph_strategy = self._library.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
                own_graph = True
            if entry.profile and hasattr(config, "dynamic_shapes_kernel_specialization_strategy"):
                # Lazily specialised kernels come after the first run, when the kernels have been kept already.
                eager = self._library.module.DynamicShapesKernelSpecializationStrategy.EAGER
                config.dynamic_shapes_kernel_specialization_strategy = eager
            cache = KernelCache.of(config, entry, self._library, self._cuda)
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
        """Compare the engine's own tensors with the manifest's, because the manifest sizes the buffers."""
        kinds = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8"}
        actual = {
            name: (kinds.get(engine.get_tensor_dtype(name).name), tuple(engine.get_tensor_shape(name)))
            for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors))
        }
        if name := unlike(actual, (*entry.inputs, *entry.outputs)):
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
                raise VcutError(f"{graph} needs {name} as {list(spec.shape)}, not {list(value.shape)}")
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
            loaded.captured, loaded.runs = None, 0  # the captured graph has the old shapes
            loaded.shapes |= {name: tuple(loaded.context.get_tensor_shape(name)) for name in loaded.outputs}

    def _enqueue(self, graph: str, loaded: _Loaded) -> None:
        """Launch the captured step, or capture it on its second run: the first one may still compile and allocate."""
        if loaded.captured:
            self._cuda.launch(loaded.captured)
            return
        capture = self._cuda_graphs and GRAPHS[graph].is_step and not loaded.own_graph and loaded.runs == 1
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
        """One memory serves all engines, as they run one after the other; it grows to what the largest engine needs."""
        size = max(need, *(e.activation_bytes for e in self._set.engines.values()))
        if self._activation is None or size > self._activation.size:
            others, self._loaded = self._loaded, {}  # without memory none of them can run
            self._activation = None  # given back first
            self._activation = self._cuda.allocate(size, "activations")
            for loaded in others.values():
                loaded.context.set_device_memory(self._activation.address, size)
                loaded.captured, loaded.runs = None, 0  # it points at the old memory
            self._loaded = others
        return self._activation

    def _unload(self, graph: str) -> None:
        """Take an engine's weights off the GPU. If the library cannot do that, drop the whole engine."""
        loaded = self._loaded[graph]
        if not loaded.resident:
            return
        self._cuda.synchronize()
        with self._intact(graph):
            if loaded.deferred and loaded.engine.unload_weights():
                loaded.resident = False
            else:
                del self._loaded[graph]

    @contextmanager
    def _intact(self, graph: str) -> Iterator[None]:
        """Drop the engine if the body fails or is interrupted: its state is unknown, and its next run opens it anew."""
        try:
            yield
        except BaseException:
            with suppress(VcutError):
                self._cuda.synchronize()  # nothing may be in flight when the engine goes
            self._loaded.pop(graph, None)
            raise

    def _bytes(self, spec: TensorSpec, entry: EngineEntry) -> int:
        """Return the size of a tensor at its largest."""
        manifest = self._bundle.manifest
        chunk = entry.profile["latents"].max[0] if "n" in spec.shape else manifest.decode_chunk
        largest = manifest.geometry.values(manifest.geometry.largest, chunk)
        return math.prod(sized(spec.shape, largest)) * _dtype(spec).itemsize

    def _feature_bytes(self) -> int:
        """Return the size of the deep features at their largest: those of a guided step."""
        entries = self._set.engines.values()
        return max((self._bytes(spec, e) for e in entries for spec in e.outputs if spec.name == FEATURES), default=0)

    def _sample_memory(self) -> None:
        self._least_free = min(self._least_free, self._cuda.memory()[0])

    def _failed(self, what: str) -> VcutError:
        """Return an error with the library's last message and a fix, on one line."""
        reason = self._errors[-1] if self._errors else "no reason given"
        return VcutError(f"{TITLES[self._library.name]} {what} ({reason}): {advice(reason)}")


def _collector(errors: list[str]) -> Log:
    """Return a log function that keeps the errors."""

    def log(severity: str, message: str) -> None:
        if severity in ("ERROR", "INTERNAL_ERROR"):
            errors.append(" ".join(message.split()))

    return log


def advice(message: str) -> str:
    """Return a fix for an error that a TensorRT runtime reports."""
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


def _dtype(spec: TensorSpec) -> np.dtype:
    return np.dtype(spec.dtype)


def _within(profile: Profile, shape: tuple[int, ...]) -> bool:
    return all(low <= size <= high for low, size, high in zip(profile.min, shape, profile.max, strict=True))
