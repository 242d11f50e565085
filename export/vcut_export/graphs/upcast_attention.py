"""Attention in fp32 inside graphs of lower precision.

A library may add up fp16 attention in fp16. TensorRT's ``Attention`` takes query, key and value of one type and no
``softmax_precision``, so all three are cast, and the result is cast back. TensorRT-RTX 1.7 fuses these casts into its
kernel: one attention of SVD's first level, 4 frames for an A10, takes 94 MB of scratch memory with them and without
them. Casts around single products of matrices are not fused: they take 10 GB.
"""

from __future__ import annotations

import onnx_ir as ir


def upcast_attention(model: ir.Model) -> int:
    """Cast, in place, the inputs of every attention to fp32 and its output back; return how many there are."""
    graph = model.graph
    nodes = [node for node in graph if node.op_type == "Attention" and node.domain == ""]
    for node in nodes:
        output = node.outputs[0]
        precision, shape = output.dtype, output.shape
        assert precision is not None, "a traced graph knows its types"
        for i, value in enumerate(node.inputs):
            cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{node.name}/upcast_{i}")
            graph.insert_before(node, cast)
            node.replace_input_with(i, cast.outputs[0])
        output.dtype = ir.DataType.FLOAT
        back = ir.node("Cast", [output], {"to": precision}, name=f"{node.name}/downcast")
        back.outputs[0].dtype, back.outputs[0].shape = precision, shape
        output.replace_all_uses_with(back.outputs[0])
        back.replace_input_with(0, output)
        graph.insert_after(node, back)
    return len(nodes)
