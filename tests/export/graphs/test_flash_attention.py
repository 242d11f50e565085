"""The graphs' second form for ONNX Runtime's CPU gives the same numbers, and engines do not get it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch.nn import functional

from vcut_export.graphs.flash_attention import DOMAIN, use_flash_attention
from vcut_export.graphs.tracing import GraphSpec, trace
from vcut_runtime.backends.onnxruntime_library import load_onnxruntime
from vcut_runtime.bundle import open_bundle
from vcut_runtime.bundle.manifest import TensorSpec


class SelfAttention(torch.nn.Module):
    """As diffusers writes it."""

    def __init__(self, heads: int, scale: float | None = None) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.project = torch.nn.Linear(8, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, sequence, _ = x.shape
        parts = self.project(x).chunk(3, dim=-1)
        query, key, value = (part.reshape(batch, sequence, self.heads, -1).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value, scale=self.scale)
        return mixed.transpose(1, 2).reshape(batch, sequence, -1)


def attention(sequence: int | str, heads: int = 2, scale: float | None = None) -> ir.Model:
    shape = (3, sequence, 8)
    spec = GraphSpec("toy", (TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", shape),))
    return trace(SelfAttention(heads, scale).eval(), spec)


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    ort = load_onnxruntime()
    data = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("sequence", [64, "F"])
@pytest.mark.parametrize("scale", [None, 0.2])
def test_the_same_numbers(sequence: int | str, scale: float | None) -> None:
    model = attention(sequence, scale=scale)
    x = np.random.default_rng(0).standard_normal((3, 64, 8), dtype=np.float32)
    expected = run(model, x)
    assert use_flash_attention(model)
    operators = [node.op_type for node in model.graph]
    assert operators.count("MultiHeadAttention") == 1
    assert "Attention" not in operators
    assert "Transpose" not in operators
    assert np.abs(run(model, x) - expected).max() < 1e-5 * np.abs(expected).max()


def test_without_attention_nothing_changes() -> None:
    spec = GraphSpec("toy", (TensorSpec("x", "float32", (2, 3)),), (TensorSpec("y", "float32", (2, 4)),))
    model = trace(torch.nn.Linear(3, 4).eval(), spec)
    before = ir.to_proto(model).SerializeToString()
    assert not use_flash_attention(model)
    assert ir.to_proto(model).SerializeToString() == before


def test_with_free_sizes_temporal_attention_stays(dynamic_bundle: Path) -> None:
    """Its heads are the pixels; the heads of spatial attention are the model's."""
    bundle = open_bundle(dynamic_bundle)
    entry = bundle.manifest.graphs["quality_improvement"]
    assert entry.contrib is not None
    operators = [node.op_type for node in onnx.load(bundle.path(entry.contrib), load_external_data=False).graph.node]
    assert operators.count("MultiHeadAttention") == operators.count("Attention") > 0


def test_another_form_of_attention_is_an_error() -> None:
    model = attention(64)
    (node,) = [node for node in model.graph if node.op_type == "Attention"]
    transpose = node.inputs[0].producer() if node.inputs[0] else None
    assert transpose is not None
    transpose.attributes["perm"] = ir.AttrInt64s("perm", [0, 2, 3, 1])
    with pytest.raises(RuntimeError, match="is not written as diffusers writes it"):
        use_flash_attention(model)


def test_a_bundle_for_the_cpu_has_both_forms_of_its_steps(tiny_bundle: Callable[[str], Path]) -> None:
    bundle = open_bundle(tiny_bundle("remove"))
    graphs = bundle.manifest.graphs
    assert graphs["decode"].contrib is None
    for name in ("condition", "semantic_binding", "quality_improvement"):
        entry = graphs[name]
        assert entry.contrib is not None
        standard, contrib = (onnx.load(bundle.path(file), load_external_data=False) for file in (entry, entry.contrib))
        assert {node.domain for node in standard.graph.node} == {""}
        assert "Attention" not in {node.op_type for node in contrib.graph.node}
        flash = [node for node in contrib.graph.node if node.domain == DOMAIN]
        assert {node.op_type for node in flash} == {"MultiHeadAttention"}
        assert weights(contrib) == weights(standard)
        used = {name for node in contrib.graph.node for name in node.input} | {o.name for o in contrib.graph.output}
        assert {name for node in contrib.graph.node for name in node.output} <= used, "a node is dead"
        assert {tensor.name for tensor in contrib.graph.initializer} <= used, "a weight is dead"
        assert len({node.name for node in contrib.graph.node}) == len(contrib.graph.node)


def weights(model: Any) -> dict[str, list[tuple[str, str]]]:
    """Where each weight lies."""
    return {
        tensor.name: [(entry.key, entry.value) for entry in tensor.external_data]
        for tensor in model.graph.initializer
        if tensor.external_data
    }
