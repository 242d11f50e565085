"""From torch modules to ONNX graphs: trace, convert, simplify. The networks are never run."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir
import torch
from onnx_ir import tensor_adapters
from tqdm import tqdm

from vcut_export.simplify import TRANSPOSED, simplify, transposed
from vcut_runtime.manifest import TensorSpec

OPSET = 23  # native GroupNormalization, Gelu and Attention: about a quarter fewer nodes than opset 20


@dataclass(frozen=True)
class GraphSpec:
    """Name, and inputs and outputs in order; torch argument ``i`` is input ``i``."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    for_cpu: bool = False  # prefer operators that ONNX Runtime's CPU has kernels for
    examples: Mapping[str, int] = field(default_factory=dict)  # sizes to trace free dimensions with; 2 by default


def trace(module: torch.nn.Module, spec: GraphSpec) -> ir.Model:
    """Trace ``module`` on inputs of the spec's shapes and return the simplified graph; the model is never run.

    A dimension given by name becomes dynamic. Weights stay references to the module's parameters.
    """
    arguments, dynamic = [], []
    for tensor in spec.inputs:
        # DYNAMIC and not a range: diffusers tests sizes against limits that only decide about memory layout.
        named = {i: torch.export.Dim.DYNAMIC for i, d in enumerate(tensor.shape) if isinstance(d, str)}
        shape = [spec.examples.get(d, 2) if isinstance(d, str) else d for d in tensor.shape]
        arguments.append(torch.zeros(shape, dtype=getattr(torch, tensor.dtype)))
        dynamic.append(named)
    with torch.no_grad():
        exported = torch.export.export(module, tuple(arguments), dynamic_shapes=tuple(dynamic), strict=False)
        program = torch.onnx.export(
            exported,
            (),
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            opset_version=OPSET,
            dynamo=True,
            optimize=False,  # quadratic in the graph's size
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"torch returned no ONNX program for {spec.name}")
    model = simplify(program.model, spec.name, weights_of(module), for_cpu=spec.for_cpu)
    found = [value.name for value in model.graph.inputs]
    if found != [tensor.name for tensor in spec.inputs]:
        raise RuntimeError(f"{spec.name} came out with the inputs {found}")
    for value, tensor in zip((*model.graph.inputs, *model.graph.outputs), (*spec.inputs, *spec.outputs), strict=True):
        value.name = tensor.name
        value.shape = ir.Shape(tensor.shape)
    return model


def trace_all(modules: Mapping[str, tuple[torch.nn.Module, GraphSpec]]) -> dict[str, ir.Model]:
    """Trace several modules at once, each in its own process where that is safe; see :func:`trace`.

    Tracing is single-threaded Python, so a second core halves the wait. A forked child shares the weights with this
    process and sends back its graph without them; what it cannot do, this process does.
    """
    first, *others = modules
    if not (sys.platform == "linux" and (os.cpu_count() or 1) > 1):
        return {name: trace(*modules[name]) for name in modules}
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.onnx" for name in others}
        fork = multiprocessing.get_context("fork")
        children = {
            name: fork.Process(target=_trace_in_child, args=(*modules[name], paths[name]), daemon=True)
            for name in others
        }
        for child in children.values():
            child.start()
        try:
            start = time.monotonic()
            models = {first: trace(*modules[first])}
            patience = 15.0 + 3.0 * (time.monotonic() - start)  # a child that hangs must not hang the export
            for name, child in children.items():
                child.join(patience)
                module, spec = modules[name]
                done = child.exitcode == 0
                models[name] = _with_weights(ir.load(paths[name]), module) if done else trace(module, spec)
        finally:
            for child in children.values():
                child.kill()
    return {name: models[name] for name in modules}


def _trace_in_child(module: torch.nn.Module, spec: GraphSpec, path: Path) -> None:
    """Trace and save, silently: what fails here, an interrupt too, the parent does again or reports."""
    try:
        gc.freeze()  # what the parent left to its collector may wait, when destroyed, for threads that are not here
        torch.set_num_threads(1)  # a forked process has none of its parent's worker threads
        tqdm.set_lock(threading.RLock())  # torch shows bars; who had the parent's lock may not be here to release it
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            model, weights = trace(module, spec), weights_of(module)
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if tensor is not None and name.removesuffix(TRANSPOSED) in weights:
                shape = ir.Shape(tensor.shape.numpy())
                value.const_value = ir.ExternalTensor("-", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name)
        ir.save(model, path)
    except BaseException:
        os._exit(1)


def _with_weights(model: ir.Model, module: torch.nn.Module) -> ir.Model:
    """Give a child's graph this process's weights, by name."""
    weights = weights_of(module)
    for name, value in model.graph.initializers.items():
        if isinstance(value.const_value, ir.ExternalTensor):
            weight = weights[name.removesuffix(TRANSPOSED)]
            tensor = tensor_adapters.TorchTensor(weight.detach(), name=name)
            value.const_value = transposed(tensor, name) if name.endswith(TRANSPOSED) else tensor
    return model


def weights_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return every parameter and buffer of ``module`` by name, tied ones under all their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
