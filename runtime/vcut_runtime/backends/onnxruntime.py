"""ONNX Runtime: the graphs as they are, on the CPU, on CUDA, or on another provider of the installed package."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from vcut_runtime.backends.backend import Offer
from vcut_runtime.backends.cpu_limits import CpuModel, check_cpu
from vcut_runtime.backends.onnxruntime_library import load_onnxruntime
from vcut_runtime.backends.onnxruntime_providers import CPU, CUDA, ON_CPU, TRIED, Provider, gpu_memory, misplaced
from vcut_runtime.backends.onnxruntime_session import create_session
from vcut_runtime.bundle import Bundle, check_hashes
from vcut_runtime.bundle.geometry import Sizes
from vcut_runtime.bundle.graph import share_stage
from vcut_runtime.errors import UsageError, VcutError, first_line
from vcut_runtime.host import release_freed_memory, total_memory
from vcut_runtime.options import BackendOptions


def offer(bundle: Bundle, name: str) -> Offer:
    """Offer ``onnxruntime-cpu``, ``onnxruntime-cuda``, or another provider of the installed package.

    Raises:
        UsageError: the provider is not here, or has no kernels for the bundle's precision.
        VcutError: a step needs more memory than this machine has.
    """
    provider = Provider.of(name, bundle.manifest.precision)
    if provider.name == CPU:
        check_cpu(CpuModel.of(bundle.manifest))
        reason = "runs anywhere"
    elif provider.name == CUDA:
        if bundle.manifest.precision == "bf16":
            raise UsageError(
                "ONNX Runtime has no bf16 kernel of Resize for CUDA: export with --precision fp16, or build engines"
            )
        reason = "ONNX Runtime has CUDA and a driver"
    else:
        tried = "made the same video as the CPU" if provider.name in TRIED else "is untested"
        reason = f"the installed ONNX Runtime has {provider.name}, which {tried}"

    def open_graphs(options: BackendOptions) -> OnnxRuntimeBackend:
        check_hashes(bundle, bundle.manifest.onnx_files())
        return OnnxRuntimeBackend(bundle, name, options.threads)

    return Offer(name, reason, open_graphs)


class OnnxRuntimeBackend:
    """ONNX Runtime on the CPU or another of its providers. The graphs' hashes have been checked."""

    def __init__(self, bundle: Bundle, name: str, threads: int | None = None) -> None:
        manifest = bundle.manifest
        self.name = name
        self.notes: list[str] = []
        self._bundle = bundle
        self._provider = Provider.of(name, manifest.precision)
        self.on_host = self._provider.device == "cpu"
        self._threads = threads
        self._sessions: dict[str, Any] = {}
        self._keep = self._has_room()
        if self._provider.name == CUDA and manifest.operators == "cpu":
            self.notes.append("these graphs are made for a CPU: for a GPU, export with --operators gpu")

    def _has_room(self) -> bool:
        """Tell whether the sessions of all graphs fit. Each holds its own copy of the weights."""
        graphs, files = self._bundle.manifest.graphs.values(), self._bundle.manifest.weights
        if self._provider.name == CUDA and (memory := gpu_memory()):
            return 2 * sum(files[graph.weights].bytes for graph in graphs) < memory
        return 4 * sum(files[name].bytes for name in {graph.weights for graph in graphs}) < total_memory()

    def check_run(self, sizes: Sizes, graphs: Collection[str]) -> None:
        """Raise VcutError if the CPU has too little memory for a video of ``sizes``."""
        if self._provider.name == CPU:
            check_cpu(CpuModel.of(self._bundle.manifest), sizes, graphs)

    def step_seconds(self, graph: str, sizes: Sizes) -> float:
        """Return roughly how long a step takes; 0 if it is short, or on a GPU."""
        if self._provider.name == CPU:
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
        try:
            session = create_session(self._bundle, graph, self._provider, self._threads)
        except VcutError as error:
            if self._provider.name in (CPU, CUDA):
                raise
            self.notes.append(f"{self._provider.name} cannot load {graph}, it runs on the CPU: {error}")
            session = create_session(self._bundle, graph, ON_CPU, self._threads)
        else:
            self._check_placement(graph, session)
        self._sessions[graph] = session

    def _check_placement(self, graph: str, session: Any) -> None:
        """Find the nodes that the provider has left to the CPU.

        Raises:
            VcutError: CUDA left work to the CPU for which it was chosen.
        """
        heavy, light = misplaced(session, self._provider.name)
        operators = ", ".join(f"{count} {operator}" for operator, count in heavy.most_common())
        if heavy and self._provider.name == CUDA:
            raise VcutError(
                f"ONNX Runtime leaves {operators} of {graph} to the CPU: update onnxruntime-gpu, or choose another "
                "--precision"
            )
        if heavy or light:
            what = operators or f"{sum(light.values())} small nodes"
            self.notes.append(f"{self._provider.name} leaves {what} of {graph} to the CPU")

    def upload(self, value: np.ndarray) -> Any:
        """Return an ``OrtValue`` on the backend's device."""
        ort = load_onnxruntime()
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), self._provider.device, 0)

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
                binding.bind_output(name, self._provider.device)
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

    def close(self) -> None:
        """Give back the sessions, and with them the weights and the memory of runs."""
        self._sessions.clear()
        release_freed_memory()
