"""Attention with the operator for which ONNX Runtime's CPU has a flash kernel.

ONNX's own ``Attention`` writes out all scores there: 1.7 GB for one frame of SVD at 576x1024. ONNX Runtime's
``MultiHeadAttention`` does not, and takes a third of the time. On short sequences it takes as long. OpenVINO reads that
operator alone, and TensorRT only the standard one. So a graph for the CPU comes in two files. They differ in this
operator and share their weights.
"""

from __future__ import annotations

import onnx_ir as ir

from vcut_export.graphs.simplify import add_constant

DOMAIN = "com.microsoft"


def use_flash_attention(model: ir.Model) -> bool:
    """Replace, in place, every attention with a known number of heads. Return False if there is none.

    The number is an attribute of the new operator. In temporal attention pixels are heads too, so with free sizes it is
    unknown. Query, key and value lie in memory as [batch, sequence, heads, width], and a Transpose brings the heads
    forward. The new operator takes them as they lie, as [batch, sequence, heads * width].
    """
    graph = model.graph
    nodes = [node for node in graph if node.op_type == "Attention" and node.domain == "" and _heads(node)]
    for node in nodes:
        sources = [_untransposed(value) for value in node.inputs]
        (restored,) = [use for use, _ in node.outputs[0].uses()]
        if len(sources) != 3 or None in sources or not _swaps_heads(restored):
            raise RuntimeError(f"the attention {node.name} is not written as diffusers writes it")
        flat = add_constant(graph, f"{graph.name}.flash_attention.flat", [0, 0, -1])
        inputs = [ir.node("Reshape", [source, flat], name=f"{node.name}/flat_{i}") for i, source in enumerate(sources)]
        heads = _heads(node)
        attributes: dict[str, int | float] = {"num_heads": heads}
        if "scale" in node.attributes:
            attributes["scale"] = node.attributes["scale"].as_float()
        attention = ir.node(
            "MultiHeadAttention",
            [new.outputs[0] for new in inputs],
            attributes,
            domain=DOMAIN,
            name=f"{node.name}/flash",
        )
        shape = add_constant(graph, f"{graph.name}.flash_attention.heads_{heads}", [0, 0, heads, -1])
        output = ir.node("Reshape", [attention.outputs[0], shape], name=f"{node.name}/heads")
        output.outputs[0].shape, output.outputs[0].type = restored.outputs[0].shape, restored.outputs[0].type
        graph.insert_before(node, [*inputs, attention, output])
        restored.outputs[0].replace_all_uses_with(output.outputs[0])
        transposes = [value.producer() for value in node.inputs if value is not None]
        graph.remove([restored, node], safe=True)
        graph.remove([t for t in dict.fromkeys(transposes) if t is not None and not t.outputs[0].uses()], safe=True)
    if nodes:
        model.opset_imports[DOMAIN] = 1
    return bool(nodes)


def _heads(node: ir.Node) -> int:
    """Return the heads of the query [batch, heads, sequence, width]; 0 if their number is free."""
    query = node.inputs[0]
    if query is None or query.shape is None:
        raise RuntimeError(f"the attention {node.name} has no known shape")
    heads = query.shape[1]
    return heads if isinstance(heads, int) else 0


def _untransposed(value: ir.Value | None) -> ir.Value | None:
    node = None if value is None else value.producer()
    return node.inputs[0] if node is not None and _swaps_heads(node) else None


def _swaps_heads(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and list(node.attributes["perm"].as_ints()) == [0, 2, 1, 3]
