"""A torch module becomes an ONNX graph with the spec's names, free dimensions and the module's weights."""

from __future__ import annotations

import copy

import onnx_ir as ir
import pytest
import torch

from vcut_export.graphs.simplify import TRANSPOSED
from vcut_export.graphs.tracing import GraphSpec, attach_weights, trace, trace_structure
from vcut_runtime.bundle.manifest import TensorSpec

SPEC = GraphSpec("toy", (TensorSpec("x", "float32", ("F", 5, 3)),), (TensorSpec("y", "float32", ("F", 5, 4)),))


@pytest.fixture
def linear() -> torch.nn.Module:
    return torch.nn.Linear(3, 4).eval()


def test_names_and_free_dimensions_are_the_specs(linear: torch.nn.Module) -> None:
    graph = trace(linear, SPEC).graph
    for value, spec in ((graph.inputs[0], SPEC.inputs[0]), (graph.outputs[0], SPEC.outputs[0])):
        assert value.name == spec.name
        assert value.shape == ir.Shape(spec.shape)
    assert graph.name == "toy"


def test_weights_are_the_modules_own(linear: torch.nn.Module) -> None:
    initializers = trace(linear, SPEC).graph.initializers
    assert set(initializers) == {f"weight{TRANSPOSED}", "bias"}
    weight, bias = (initializers[name].const_value for name in (f"weight{TRANSPOSED}", "bias"))
    assert weight is not None
    assert bias is not None
    assert torch.equal(torch.from_numpy(weight.numpy()), linear.weight.T)  # pyright: ignore
    assert torch.equal(torch.from_numpy(bias.numpy()), linear.bias)  # pyright: ignore


def test_a_module_without_memory_gives_the_same_graph(linear: torch.nn.Module) -> None:
    structure = trace_structure(copy.deepcopy(linear).to("meta"), SPEC)
    assert all(value.const_value is None for value in structure.graph.initializers.values())
    attached, direct = attach_weights(structure, linear), trace(linear, SPEC)
    assert ir.to_proto(attached).SerializeToString() == ir.to_proto(direct).SerializeToString()
