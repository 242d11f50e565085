"""What ``vcut verify`` compares: Polygraphy's runners of a bundle's graphs and engines, and of the reference."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

from vcut_runtime.backends import BACKENDS, choose
from vcut_runtime.backends.cpu_limits import CpuModel
from vcut_runtime.backends.engine_validity import target_verdict
from vcut_runtime.backends.onnxruntime_library import load_onnxruntime
from vcut_runtime.backends.onnxruntime_providers import ON_CPU, Provider
from vcut_runtime.backends.onnxruntime_session import create_session, graph_file
from vcut_runtime.bundle import Bundle
from vcut_runtime.bundle.graph import GRAPHS
from vcut_runtime.bundle.manifest import EngineLibrary
from vcut_runtime.errors import UsageError, VcutError
from vcut_runtime.host import total_memory

Reference = Literal["onnxruntime", "numpy"]
INSTALL = "pip install 'vcut[verify]'"


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: a backend's, an engine target's, or the reference's.
        bundle: whose graphs it runs.
        runner: makes Polygraphy's runner of a graph. The second argument is a changed graph in the place of the file.
        file: what it runs for a graph.
        environment: what ``polygraphy run`` needs to be set to run it.
        arguments: the options of ``polygraphy run`` that choose the runner.
        markable: whether inner tensors can be marked as outputs.
    """

    name: str
    bundle: Bundle
    runner: Callable[[str, bytes | None], Any]
    file: Callable[[str], Path]
    environment: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    markable: bool = True

    def command(self, graph: str, *arguments: str) -> str:
        """Return the ``polygraphy run`` that runs ``graph`` as this side does, with further ``arguments``."""
        words = ["polygraphy", "run", str(self.file(graph).resolve()), *self.arguments, *arguments]
        return " ".join([*self.environment, shlex.join(words)])


def load_polygraphy() -> Any:
    """Import Polygraphy and return the parts of it that are used here.

    Raises:
        UsageError: it, or the onnx package, is not installed.
    """
    load_onnxruntime()  # Polygraphy imports it too, and without the switch of its telemetry
    names = {
        "comparator": "polygraphy.comparator",
        "config": "polygraphy.config",
        "base": "polygraphy.backend.base",
        "common": "polygraphy.common",
        "onnxrt": "polygraphy.backend.onnxrt",
        "json": "polygraphy.json",
        "logger": "polygraphy.logger",
        "onnx_graphs": "polygraphy.backend.onnx",
        "onnx": "onnx",
    }
    try:
        return SimpleNamespace(**{name: importlib.import_module(module) for name, module in names.items()})
    except ImportError as error:
        missing = {"polygraphy": "Polygraphy", "onnx": "onnx"}.get(str(error.name).split(".")[0], str(error.name))
        raise UsageError(f"{missing} is not installed: {INSTALL}") from None


def reference_side(bundle: Bundle, kind: Reference, polygraphy: Any) -> Side:
    """Return the reference: the standard operators one by one, by ONNX Runtime or by the onnx package in numpy.

    Raises:
        UsageError: it would not be exact enough in the bundle's precision, or does not run it.
    """
    if kind == "numpy" and bundle.manifest.precision != "fp32":
        raise UsageError(
            f"numpy rounds every operator in {bundle.manifest.precision} and is no reference for it: "
            "leave out --reference numpy, or give --against an fp32 export of the same model"
        )
    if kind == "onnxruntime" and bundle.manifest.precision == "bf16":
        raise UsageError(
            "a bf16 bundle cannot be its own reference, ONNX Runtime has no bf16 kernels for the CPU: "
            "give --against an fp32 export of the same model"
        )

    def file(graph: str) -> Path:
        return graph_file(bundle, graph, ON_CPU, plain=True)

    def runner(graph: str, model: bytes | None) -> Any:
        if kind == "numpy":
            return _numpy_runner(polygraphy, file(graph), model)
        session = lambda: create_session(bundle, graph, ON_CPU, plain=True, model=model)  # noqa: E731
        return polygraphy.onnxrt.OnnxrtRunner(session, name="reference")

    return Side("reference", bundle, runner, file)


def check_reference_memory(bundle: Bundle, graph: str) -> None:
    """Refuse a step whose attention scores the reference could not hold: standard operators write them out.

    Raises:
        VcutError: this machine has too little memory.
    """
    if not GRAPHS[graph].is_step:
        return
    manifest = bundle.manifest
    model = replace(CpuModel.of(manifest), operators="gpu")
    need, have = model.step_memory(graph, manifest.sizes), total_memory()
    if need > have:
        others = ",".join(name for name in manifest.graphs if not GRAPHS[name].is_step)
        raise VcutError(
            f"the reference of {graph} needs about {need / 2**30:.0f} GiB, this machine has {have / 2**30:.0f} GiB: "
            f"leave the steps out with --graphs {others}, or verify an export of smaller sizes"
        )


def find_sides(bundle: Bundle, backend: str, polygraphy: Any) -> tuple[list[Side], dict[str, str]]:
    """Return what can run the bundle here, and why the rest cannot, by name.

    Args:
        bundle: whose graphs and engines run.
        backend: a backend's name, or ``auto`` for every one.
        polygraphy: as :func:`load_polygraphy` gives it.

    Raises:
        UsageError: the backend is unknown, or the named one cannot run here.
        VcutError: nothing can run here.
    """
    sides: list[Side] = []
    refusals: dict[str, str] = {}
    for name in BACKENDS if backend == "auto" else (backend,):
        targets = [target for target, engines in bundle.manifest.engines.items() if engines.library == name]
        if name.startswith("onnxruntime") or not targets:
            try:
                choose(bundle, name)
                sides.append(_graphs_side(bundle, name, polygraphy))
            except VcutError as error:
                if backend != "auto":
                    raise
                refusals[name] = str(error)
        for target in targets:
            verdict = target_verdict(bundle, target)
            taken = {_library(side) for side in sides if not side.markable}
            if verdict != "yes":
                refusals[target] = verdict.removeprefix("no: ")
            elif taken - {name}:  # Polygraphy chooses between the two when it is imported
                refusals[target] = f"Polygraphy runs one TensorRT at a time: give --backend {name}"
            else:
                sides.append(_engines_side(bundle, target, polygraphy))
    if not sides:
        raise VcutError("; ".join(f"{name}: {reason}" for name, reason in refusals.items()))
    return sides, refusals


def _graphs_side(bundle: Bundle, name: str, polygraphy: Any) -> Side:
    """Return the graphs run by ONNX Runtime with the sessions that its backend makes."""
    provider = Provider.of(name, bundle.manifest.precision)

    def runner(graph: str, model: bytes | None) -> Any:
        return polygraphy.onnxrt.OnnxrtRunner(lambda: create_session(bundle, graph, provider, model=model), name=name)

    return Side(
        name,
        bundle,
        runner,
        lambda graph: graph_file(bundle, graph, provider),
        ("ORT_DISABLE_TELEMETRY=1",),
        ("--onnxrt", "--providers", provider.name),
    )


def _engines_side(bundle: Bundle, target: str, polygraphy: Any) -> Side:
    """Return the engines of a target, run by Polygraphy's runner of TensorRT."""
    engine_set = bundle.manifest.engines[target]
    rtx = engine_set.library == "tensorrt-rtx"

    def file(graph: str) -> Path:
        return bundle.path(engine_set.engines[graph])

    def runner(graph: str, model: bytes | None) -> Any:
        polygraphy.config.USE_TENSORRT_RTX = rtx  # read when the next module is imported
        trt = importlib.import_module("polygraphy.backend.trt")
        load = importlib.import_module("polygraphy.backend.common").BytesFromPath
        return trt.TrtRunner(trt.EngineFromBytes(load(str(file(graph)))), name=target)

    return Side(
        target,
        bundle,
        runner,
        file,
        ("POLYGRAPHY_USE_TENSORRT_RTX=1",) if rtx else (),
        ("--model-type", "engine", "--trt"),
        markable=False,
    )


def _library(side: Side) -> EngineLibrary:
    return side.bundle.manifest.engines[side.name].library


def _numpy_runner(polygraphy: Any, path: Path, model: bytes | None) -> Any:
    """Return a runner of the onnx package's own implementation of its operators."""
    onnx = polygraphy.onnx
    types = {"float32": np.float32, "float16": np.float16, "uint8": np.uint8}

    class NumpyRunner(polygraphy.base.BaseRunner):
        """Runs every operator in numpy, sharing no code with ONNX Runtime."""

        def activate_impl(self) -> None:
            reference = importlib.import_module("onnx.reference")
            loaded = onnx.load(path) if model is None else onnx.load_from_string(model)
            if model is not None:
                onnx.load_external_data_for_model(loaded, str(path.parent))
            self.evaluator = reference.ReferenceEvaluator(loaded)
            self.graph = loaded.graph

        def get_input_metadata_impl(self) -> Any:
            metadata = polygraphy.common.TensorMetadata()
            for value in self.graph.input:
                tensor = value.type.tensor_type
                dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
                shape = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
                metadata.add(value.name, types[dtype.name], shape)
            return metadata

        def infer_impl(self, feed_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            names = [value.name for value in self.graph.output]
            self.inference_time = 0.0  # nobody reads it
            with np.errstate(all="ignore"):  # a sigmoid's exponential may overflow to the right result
                return dict(zip(names, self.evaluator.run(names, dict(feed_dict)), strict=True))

        def deactivate_impl(self) -> None:
            del self.evaluator, self.graph

    return NumpyRunner(name="reference")
