"""The operators that the exporter writes. A graph with another one is refused when a bundle is opened.

The exporter's own bundles are opened before they are published, so it cannot write what this list lacks. A test
compares the list with exported graphs. Names are as :func:`~vcut_runtime.bundle.onnx_scan.scan_graph` gives them.
"""

from __future__ import annotations

OPERATORS = frozenset(
    (
        "Add",
        "Attention",
        "BatchNormalization",
        "Cast",
        "Clip",
        "Concat",
        "Conv",
        "Cos",
        "Div",
        "Expand",
        "Gather",
        "Gelu",
        "Gemm",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "Log",
        "MatMul",
        "Mul",
        "Pad",
        "Reciprocal",
        "Reshape",
        "Resize",
        "Round",
        "Shape",
        "Sigmoid",
        "Sin",
        "Slice",
        "Softmax",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "com.microsoft::MultiHeadAttention",
    )
)
