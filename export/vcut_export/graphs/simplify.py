"""Clean a freshly converted ONNX graph: nothing dead, nothing computed that is constant, every node named."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript import optimizer

TRANSPOSED = ".transposed"


def simplify(model: ir.Model, name: str, weights: Collection[str], *, for_cpu: bool = False) -> ir.Model:
    """Return ``model`` simplified and named ``name``.

    Initializers named in ``weights`` keep their names, so that graphs traced from one module can share them. Those of
    linear layers are stored transposed, as ``<name>.transposed``. Every other constant belongs to this graph alone and
    gets the graph's name as a prefix. ``for_cpu`` prefers operators that have kernels in ONNX Runtime's CPU provider.
    """
    _transpose_weights(model)
    if for_cpu:
        expand_group_normalization(model)
    optimizer.fold_constants(model)  # also turns SplitToSequence into Split, which TensorRT needs
    for step in (
        passes.RemoveUnusedNodesPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.IdentityEliminationPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
    ):
        model = step(model).model
    for constant in list(model.graph.initializers):
        if constant.removesuffix(TRANSPOSED) not in weights:
            model.graph.initializers[constant].name = f"{name}.{constant}"
    _drop_divisions_by_one(model)
    _name_nodes(model)
    model = passes.ClearMetadataAndDocStringPass()(model).model
    model.graph.name = name
    return model


def _transpose_weights(model: ir.Model) -> None:
    """Store the weights of linear layers as MatMul takes them, instead of transposing them in the graph.

    Otherwise every runtime folds 250 transposes at load time, into second copies of the weights. Weights have no values
    here, see ``tracing``.
    """
    graph = model.graph
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source is None or not source.is_initializer() or source.shape is None or len(source.shape) != 2:
            continue
        name = f"{source.name}{TRANSPOSED}"
        target = graph.initializers.get(name)
        if target is None:
            assert source.dtype is not None
            shape = ir.Shape(list(reversed(source.shape.numpy())))
            target = ir.Value(name=name, shape=shape, type=ir.TensorType(source.dtype))
            graph.initializers[name] = target
        node.outputs[0].replace_all_uses_with(target)
        graph.remove(node, safe=True)


def expand_group_normalization(model: ir.Model) -> None:
    """Write GroupNormalization as InstanceNormalization over groups, for which ONNX Runtime's CPU has a kernel.

    It has no kernel for GroupNormalization and inlines some twenty nodes for each, a tenth of a step's time. Scale and
    shift by channel become a BatchNormalization of mean 0 and variance 1: one pass, where Mul and Add are two. TensorRT
    has GroupNormalization with fp32 accumulation, which the decomposition does not promise in fp16. So only fp32 graphs
    for CPUs are rewritten.
    """
    graph = model.graph
    for node in [node for node in graph if node.op_type == "GroupNormalization"]:
        x, scale, bias = node.inputs
        if x is None or x.shape is None or scale is None or bias is None:
            raise RuntimeError(f"GroupNormalization {node.name} has no known input shape")
        groups = node.attributes["num_groups"].as_int()
        channels = x.shape[1]
        if not isinstance(channels, int):
            raise RuntimeError(f"GroupNormalization {node.name} has a free number of channels")
        # A free dimension is copied if it is the first, else inferred; of several the shape is asked for.
        dims = [d if isinstance(d, int) else (0 if i == 0 else -1) for i, d in enumerate(x.shape)]
        made: list[ir.Node] = []

        def add(
            op: str, *inputs: ir.Value, made: list[ir.Node] = made, node: ir.Node = node, **attributes: Any
        ) -> ir.Value:
            new = ir.node(op, inputs, attributes, name=None)
            new.metadata_props.update(node.metadata_props)
            new.outputs[0].dtype = ir.DataType.INT64 if op == "Shape" else ir.DataType.FLOAT
            made.append(new)
            return new.outputs[0]

        def constant(values: list[int] | list[float], what: str, node: ir.Node = node) -> ir.Value:
            return add_constant(graph, f"{node.outputs[0].name}.{what}", values)

        grouped = add("Reshape", x, constant([0, groups, -1], "groups"))
        epsilon = node.attributes["epsilon"].as_float()
        ones, zeros = constant([1.0] * groups, "ones"), constant([0.0] * groups, "zeros")
        normal = add("InstanceNormalization", grouped, ones, zeros, epsilon=epsilon)
        normal = add("Reshape", normal, add("Shape", x) if dims.count(-1) > 1 else constant(dims, "shape"))
        means, variances = constant([0.0] * channels, "means"), constant([1.0] * channels, "variances")
        result = add("BatchNormalization", normal, scale, bias, means, variances, epsilon=0.0)
        result.shape = x.shape
        graph.insert_before(node, made)
        name = node.outputs[0].name
        node.outputs[0].replace_all_uses_with(result)
        graph.remove(node, safe=True)
        result.name = name


def add_constant(graph: ir.Graph, name: str, values: list[int] | list[float]) -> ir.Value:
    """Return the initializer ``name`` of a graph, made of ``values`` if the graph does not have it."""
    if name not in graph.initializers:
        tensor = ir.tensor(values, name=name)
        value = ir.Value(name=name, shape=ir.Shape([len(values)]), type=ir.TensorType(tensor.dtype))
        value.const_value = tensor
        graph.register_initializer(value)
    return graph.initializers[name]


def transposed(tensor: ir.TensorProtocol, name: str) -> ir.LazyTensor:
    """Return the transpose of a matrix, made only when it is read: the weights are gigabytes."""
    shape = ir.Shape(list(reversed(tensor.shape.numpy())))

    def make() -> ir.Tensor:
        return ir.Tensor(np.ascontiguousarray(tensor.numpy().T), dtype=tensor.dtype)

    return ir.LazyTensor(make, dtype=tensor.dtype, shape=shape, name=name, cache=False)


def _drop_divisions_by_one(model: ir.Model) -> None:
    """Remove diffusers' ``x / rescale_output_factor`` and ``x / output_scale_factor``, which are 1 throughout SVD."""
    for node in list(model.graph):
        numerator, divisor = (node.inputs[0], node.inputs[1]) if node.op_type == "Div" else (None, None)
        if numerator is None or divisor is None or divisor.const_value is None or divisor.const_value.size != 1:
            continue
        same_type = numerator.dtype in (None, divisor.const_value.dtype)
        if same_type and divisor.const_value.numpy().item() == 1.0 and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(numerator)
            model.graph.remove(node, safe=True)


def _name_nodes(model: ir.Model) -> None:
    """Name each node after the module it came from: ``unet.down_blocks.0.attentions.0.proj_in/MatMul``."""
    seen: dict[str, int] = {}
    for node in model.graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
        parts = [part.strip(" '\"") for part in scopes.strip("[]").split(",")]
        # The last scope is the operation itself; the one before it is the innermost module's full path.
        path = parts[-2] if len(parts) > 1 else ""
        base = f"{path}/{node.op_type}" if path else node.op_type
        count = seen.get(base, 0)
        seen[base] = count + 1
        node.name = base if count == 0 else f"{base}_{count}"
