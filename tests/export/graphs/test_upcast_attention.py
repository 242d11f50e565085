"""Attention of half precision is computed in fp32 when an export asks for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch.nn import functional

from vcut_export import export
from vcut_export.graphs.tracing import GraphSpec, trace
from vcut_export.graphs.upcast_attention import upcast_attention
from vcut_runtime.backends.onnxruntime_library import load_onnxruntime
from vcut_runtime.bundle import open_bundle
from vcut_runtime.bundle.graph import GRAPHS
from vcut_runtime.bundle.manifest import TensorSpec

SHAPE = (1, 2, 6, 8)  # batch, heads, sequence, width


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.ones(SHAPE[-1], dtype=torch.float16))

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(query, key, value) + self.shift


def traced() -> ir.Model:
    tensors = [TensorSpec(name, "float16", SHAPE) for name in ("query", "key", "value", "output")]
    return trace(Attention().eval(), GraphSpec("toy", tuple(tensors[:3]), (tensors[3],)))


def test_the_attention_is_that_of_torch_in_fp32() -> None:
    model = traced()
    assert upcast_attention(model) == 1
    assert [node.op_type for node in model.graph if node.op_type in ("Cast", "Attention")] == [
        "Cast",
        "Cast",
        "Cast",
        "Attention",
        "Cast",
    ]
    draw = np.random.default_rng(0)
    inputs = {name: draw.standard_normal(SHAPE).astype(np.float16) * 4 for name in ("query", "key", "value")}
    ort = load_onnxruntime()
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    (ours,) = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)
    query, key, value = (torch.from_numpy(inputs[name]).float() for name in inputs)
    exact = functional.scaled_dot_product_attention(query, key, value)
    assert ours.dtype == np.float16
    assert np.abs(ours - (exact + 1).numpy()).max() <= 2**-10 * np.abs(ours).max()


@pytest.mark.slow
def test_an_export_upcasts_the_attention_of_its_steps_alone(small_checkpoint: Path, tmp_path: Path) -> None:
    export(str(small_checkpoint), tmp_path / "bundle", precision="fp16", upcast_attention=True)
    bundle = open_bundle(tmp_path / "bundle")
    for name, graph in bundle.manifest.graphs.items():
        nodes = onnx.load(bundle.path(graph), load_external_data=False).graph.node
        makers = {output: node for node in nodes for output in node.output}
        attentions = [node for node in nodes if node.op_type == "Attention"]
        upcast = [node for node in attentions if all(makers[value].op_type == "Cast" for value in node.input)]
        assert attentions or not GRAPHS[name].is_step
        assert len(upcast) == (len(attentions) if GRAPHS[name].is_step else 0)
