"""From a torch module to an ONNX graph: trace, convert, simplify, and give it the module's weights.

The network never runs. While a graph is made, its weights have no values, so step graphs are traced from modules on
torch's meta device, and ``trace_process`` traces some of them on another core.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir
import torch
from onnx_ir import tensor_adapters

from vcut_export.graphs.simplify import TRANSPOSED, simplify, transposed
from vcut_runtime.bundle.manifest import TensorSpec

OPSET = 23  # native GroupNormalization, Gelu and Attention: about a quarter fewer nodes than opset 20


@dataclass(frozen=True)
class GraphSpec:
    """How a module is traced.

    Attributes:
        name: the graph's.
        inputs: in order; torch argument ``i`` is input ``i``.
        outputs: in order.
        for_cpu: prefer operators that have kernels in ONNX Runtime's CPU provider.
        examples: sizes to trace free dimensions with; 2 by default.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    for_cpu: bool = False
    examples: Mapping[str, int] = field(default_factory=dict)


def trace(module: torch.nn.Module, spec: GraphSpec) -> ir.Model:
    """Trace ``module`` and return the simplified graph, whose weights refer to the module's parameters."""
    return attach_weights(trace_structure(module, spec), module)


def trace_structure(module: torch.nn.Module, spec: GraphSpec) -> ir.Model:
    """Trace ``module`` on inputs of the spec's shapes and return the simplified graph; its weights have no values.

    A dimension given by name becomes free. Inputs are made on the device of the module's weights.
    """
    weights = weights_of(module)
    device = next(iter(weights.values())).device
    arguments, dynamic = [], []
    for tensor in spec.inputs:
        # DYNAMIC and not a range: diffusers tests sizes against limits that only decide about memory layout.
        named = {i: torch.export.Dim.DYNAMIC for i, d in enumerate(tensor.shape) if isinstance(d, str)}
        shape = [spec.examples.get(d, 2) if isinstance(d, str) else d for d in tensor.shape]
        arguments.append(torch.zeros(shape, dtype=getattr(torch, tensor.dtype), device=device))
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
    for name, value in program.model.graph.initializers.items():
        if name in weights:
            value.const_value = None
    model = simplify(program.model, spec.name, weights, for_cpu=spec.for_cpu)
    names = [value.name for value in model.graph.inputs]
    if names != [tensor.name for tensor in spec.inputs]:
        raise RuntimeError(f"{spec.name} came out with the inputs {names}")
    for value, tensor in zip((*model.graph.inputs, *model.graph.outputs), (*spec.inputs, *spec.outputs), strict=True):
        value.name = tensor.name
        value.shape = ir.Shape(tensor.shape)
    return model


def attach_weights(model: ir.Model, module: torch.nn.Module) -> ir.Model:
    """Give the graph the weights of ``module`` by name, and return it."""
    weights = weights_of(module)
    for name, value in model.graph.initializers.items():
        weight = weights.get(name.removesuffix(TRANSPOSED))
        if weight is not None:
            tensor = tensor_adapters.TorchTensor(weight.detach(), name=name)
            value.const_value = transposed(tensor, name) if name.endswith(TRANSPOSED) else tensor
    return model


def weights_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return every parameter and buffer of ``module`` by name, tied ones under all their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
