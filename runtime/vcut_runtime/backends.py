"""What runs the graphs. A backend keeps values where it computes; only ``upload`` and ``download`` copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vcut_runtime.bundle import Bundle, check_hashes
from vcut_runtime.errors import UsageError, VcutError
from vcut_runtime.manifest import EngineLibrary, EngineSet, Sizes

BACKENDS = ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-cpu")  # in order of preference


class Backend(Protocol):
    """Loads and runs the graphs of one bundle. ``notes`` says what a user should know about how."""

    name: str
    notes: list[str]

    def load(self, graph: str) -> None:
        """Load ``graph`` now rather than at its first run."""
        ...

    def upload(self, value: np.ndarray) -> Any:
        """Copy an array to where the graphs run."""
        ...

    def download(self, value: Any) -> np.ndarray:
        """Copy a value back."""
        ...

    def run(self, graph: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run ``graph`` on uploaded inputs, loading it if it is not loaded yet; may return before it is done.

        What it returns is valid until ``graph`` runs again.
        """
        ...

    def mark(self) -> Any:
        """Return a point in the work asked for so far."""
        ...

    def wait(self, mark: Any) -> None:
        """Wait until the work before ``mark`` is done."""
        ...

    def seconds(self, start: Any, end: Any) -> float:
        """Return the time between two marks."""
        ...

    def peak_memory(self) -> int | None:
        """Return the peak of device memory in bytes, None where there is no device."""
        ...

    def check_sizes(self, sizes: Sizes) -> None:
        """Raise VcutError if a video of these sizes, which the bundle allows, cannot be made here."""
        ...

    def max_decode_chunk(self) -> int | None:
        """Return how many frames can be decoded at a time, None for any number."""
        ...


@dataclass(frozen=True)
class Options:
    """How to run; what a backend has no use for it ignores.

    Attributes:
        threads: CPU threads of ONNX Runtime; its own choice if None.
        low_memory: keep one stage's weights at a time on the GPU; None: only where not all fit.
        cuda_graphs: launch each step as one captured CUDA graph.
    """

    threads: int | None = None
    low_memory: bool | None = None
    cuda_graphs: bool = True


@dataclass(frozen=True)
class Choice:
    """A backend that can run a bundle here, and why it was chosen or what speaks for it."""

    name: str
    reason: str
    open: Callable[[Options], Backend]


def open_backend(bundle: Bundle, name: str = "auto", options: Options | None = None) -> Backend:
    """Choose a backend for ``bundle`` and open it; see :func:`choose`."""
    chosen = choose(bundle, name)
    backend = chosen.open(options or Options())
    if name == "auto":
        backend.notes.insert(0, f"{chosen.name}: {chosen.reason}")
    return backend


def choose(bundle: Bundle, name: str = "auto") -> Choice:
    """Return the best backend that can run ``bundle`` here, or the one named.

    Raises:
        UsageError: the name is unknown, or what it needs is not here.
        VcutError: nothing here can run this bundle; the message says why its engines and the CPU cannot.
    """
    if name != "auto":
        return _choice(bundle, name)
    refusals: list[str] = []
    for candidate in BACKENDS:
        try:
            found = _choice(bundle, candidate)
        except VcutError as error:
            refusals.append(str(error))
            continue
        if found.name == BACKENDS[-1]:
            why = "; ".join(_of_engines(bundle, refusals)) or "the bundle has no engines"
            return Choice(found.name, f"nothing faster can run here, {why}", found.open)
        return found
    raise VcutError("; ".join([*_of_engines(bundle, refusals), refusals[-1]]))


def verdicts(bundle: Bundle) -> dict[str, str]:
    """Return for each backend whether it can run ``bundle`` here: ``yes: why`` or ``no: why not``."""
    result = {}
    for name in BACKENDS:
        try:
            result[name] = f"yes: {_choice(bundle, name).reason}"
        except VcutError as error:
            result[name] = f"no: {error}"
    return result


def _choice(bundle: Bundle, name: str) -> Choice:
    from vcut_runtime import onnxruntime_backend

    if name == "tensorrt" or name == "tensorrt-rtx":
        return _tensorrt(bundle, name)
    if name == "onnxruntime-cuda":
        missing = onnxruntime_backend.missing_cuda()
        if missing:
            raise UsageError(f"backend {name} is not available here: {missing}")
        reason = "ONNX Runtime has CUDA and a driver"
    elif name == "onnxruntime-cpu":
        onnxruntime_backend.check_cpu(bundle.manifest, bundle.manifest.smallest)
        reason = "runs anywhere"
    else:
        raise UsageError(f"unknown backend {name!r}: choose auto, {', '.join(BACKENDS)}")

    def open_graphs(options: Options) -> Backend:
        check_hashes(bundle, bundle.manifest.onnx_files())
        return onnxruntime_backend.OnnxRuntimeBackend(bundle, name, options.threads)

    return Choice(name, reason, open_graphs)


def _tensorrt(bundle: Bundle, name: EngineLibrary) -> Choice:
    """Find engines of this library that are valid on this GPU, those built for exactly this GPU first."""
    sets = {target: s for target, s in bundle.manifest.engines.items() if s.library == name}
    if not sets:
        raise UsageError(
            f"the bundle has no {name} engines: run 'vcut build {bundle.root} --engines {name}', "
            "or use another --backend"
        )
    from vcut_runtime.cuda import Cuda
    from vcut_runtime.tensorrt_backend import TensorRtBackend
    from vcut_runtime.tensorrt_library import load_library

    library = load_library(name)
    cuda = Cuda()
    from vcut_runtime.engine_validity import why_invalid

    refusals = {}
    for target in sorted(sets, key=lambda t: sets[t].compute_capability != cuda.compute_capability):
        refusal = why_invalid(bundle, target, library, cuda)
        if refusal is None:
            reason = f"engines {target} fit {cuda.name} (compute capability {cuda.compute_capability})"

            def open_engines(options: Options, target: str = target) -> Backend:
                return TensorRtBackend(
                    bundle, target, library, cuda, low_memory=options.low_memory, cuda_graphs=options.cuda_graphs
                )

            return Choice(name, reason, open_engines)
        refusals[target] = refusal
    raise UsageError("; ".join(f"engines {target}: {refusal}" for target, refusal in refusals.items()))


def _of_engines(bundle: Bundle, refusals: list[str]) -> list[str]:
    """Return why the engines that the bundle has cannot run: those refusals are what a user wants to know."""
    libraries = {engines.library for engines in bundle.manifest.engines.values()}
    return [refusal for name, refusal in zip(BACKENDS, refusals, strict=False) if name in libraries]


def describe_target(engines: EngineSet) -> str:
    """Return what GPU a set of engines is for, in words."""
    where = f"compute capability {engines.compute_capability}" if engines.compute_capability else "Ampere and later"
    return f"{where} ({engines.gpu})" if engines.gpu else where
