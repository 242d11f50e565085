"""Changes of an ONNX graph and of weights. The bundle's manifest is sealed again afterwards, so that hashes match."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

GraphChange = Callable[[ModelProto, random.Random], object]

_FLOATS = (0.0, -1.0, 1e-40, 1e20, 3e38, float("nan"), float("inf"))
_INTEGERS = (0, -1, 1, 2, 7, 10**6, 2**31, 2**40, 2**62, -(2**63))


def _node(model: ModelProto, draw: random.Random) -> NodeProto:
    return draw.choice(model.graph.node)


def _tensors(graph: GraphProto) -> list[str]:
    """Return the names of everything that a node can take."""
    names = [name for node in graph.node for name in node.output]
    return [*names, *(t.name for t in graph.initializer), *(t.name for t in graph.input)]


def remove_node(model: ModelProto, draw: random.Random) -> None:
    """Take a node away."""
    model.graph.node.remove(_node(model, draw))


def repeat_node(model: ModelProto, draw: random.Random) -> None:
    """List a node twice."""
    model.graph.node.append(_node(model, draw))


def foreign_operator(model: ModelProto, draw: random.Random) -> None:
    """Let a node be of a kind that the exporter never writes."""
    node = _node(model, draw)
    node.op_type = draw.choice(["Loop", "If", "Scan", "Identity", "Relu", "PyOp", "", "\x1b[31m", "RandomNormal"])
    node.domain = draw.choice(["", "", "com.microsoft", "ai.onnx.ml", "hostile"])


def other_operator(model: ModelProto, draw: random.Random) -> None:
    """Let a node be of another kind that the exporter writes."""
    _node(model, draw).op_type = _node(model, draw).op_type


def rewire(model: ModelProto, draw: random.Random) -> None:
    """Give a node another input."""
    node = _node(model, draw)
    if node.input:
        node.input[draw.randrange(len(node.input))] = draw.choice([*_tensors(model.graph), "", "nothing"])


def cycle(model: ModelProto, draw: random.Random) -> None:
    """Let a node take its own output."""
    node = _node(model, draw)
    if node.input:
        node.input[0] = node.output[0]


def rename_tensor(model: ModelProto, draw: random.Random) -> None:
    """Give an input or output of the graph another name, everywhere."""
    value = draw.choice([*model.graph.input, *model.graph.output])
    old, new = value.name, draw.choice(["renamed", "\x1b[2J", "sigma", "latents", "x" * 10000])
    value.name = new
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new


def declare_otherwise(model: ModelProto, draw: random.Random) -> None:
    """Declare another shape or type of an input or output."""
    value: ValueInfoProto = draw.choice([*model.graph.input, *model.graph.output])
    kind = value.type.tensor_type
    how = draw.randrange(5)
    if how == 0:
        kind.elem_type = draw.choice([TensorProto.FLOAT16, TensorProto.INT64, TensorProto.STRING, 99])
    elif how == 1 and kind.shape.dim:
        draw.choice(kind.shape.dim).dim_value = draw.choice(_INTEGERS)
    elif how == 2 and kind.shape.dim:
        draw.choice(kind.shape.dim).dim_param = "free"
    elif how == 3:
        kind.shape.dim.add().dim_value = 1
    else:
        kind.ClearField("shape")


def drop_io(model: ModelProto, draw: random.Random) -> None:
    """Take an input or output away, or list it twice."""
    side = draw.choice([model.graph.input, model.graph.output])
    value = draw.choice(side)
    if draw.random() < 0.5:
        side.remove(value)
    else:
        side.append(value)


def add_io(model: ModelProto, draw: random.Random) -> None:
    """Add an input, or make a tensor inside an output."""
    if draw.random() < 0.5:
        model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    else:
        name = _node(model, draw).output[0]
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


def change_attribute(model: ModelProto, draw: random.Random) -> None:
    """Change an attribute's value."""
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    attribute = draw.choice(attributes)
    if attribute.ints:
        attribute.ints[draw.randrange(len(attribute.ints))] = draw.choice(_INTEGERS)
    elif attribute.HasField("i"):
        attribute.i = draw.choice(_INTEGERS)
    elif attribute.HasField("f"):
        attribute.f = draw.choice(_FLOATS)
    else:
        attribute.s = draw.choice([b"", b"linear", b"\xff\xfe", b"x" * 10000])


def remove_attribute(model: ModelProto, draw: random.Random) -> None:
    """Take an attribute away."""
    node = draw.choice([node for node in model.graph.node if node.attribute])
    del node.attribute[draw.randrange(len(node.attribute))]


def change_constant(model: ModelProto, draw: random.Random) -> None:
    """Change a constant inside the graph: numbers, and shapes that nodes take."""
    inline = [t for t in model.graph.initializer if not t.external_data]
    tensor = draw.choice(inline)
    values = numpy_helper.to_array(tensor).copy()
    if values.size == 0:
        return
    place = draw.randrange(values.size)
    if np.issubdtype(values.dtype, np.floating):
        with np.errstate(over="ignore"):
            values.reshape(-1)[place] = draw.choice(_FLOATS)
    elif values.dtype == np.int64:
        values.reshape(-1)[place] = draw.choice(_INTEGERS)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def change_dims(model: ModelProto, draw: random.Random) -> None:
    """Let a weight have another shape or type."""
    tensor = draw.choice(model.graph.initializer)
    if tensor.dims and draw.random() < 0.7:
        tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice(_INTEGERS)
    else:
        tensor.data_type = draw.choice([TensorProto.FLOAT16, TensorProto.INT64, TensorProto.DOUBLE, 99])


def change_external(model: ModelProto, draw: random.Random) -> None:
    """Let a weight lie elsewhere."""
    tensor = draw.choice([t for t in model.graph.initializer if t.external_data])
    entry = draw.choice(tensor.external_data)
    if entry.key == "location":
        entry.value = draw.choice(["/etc/passwd", "../manifest.json", "./unet.weights", "decode.weights", ""])
    else:
        entry.value = draw.choice(["-1", "0", "1", "7", "1e9", "99999999999999999999", "abc", ""])


def drop_external(model: ModelProto, draw: random.Random) -> None:
    """Say only in part where a weight lies."""
    tensor = draw.choice([t for t in model.graph.initializer if t.external_data])
    del tensor.external_data[draw.randrange(len(tensor.external_data))]


def change_versions(model: ModelProto, draw: random.Random) -> None:
    """Claim another version of the format or of the operators."""
    if draw.random() < 0.5:
        model.ir_version = draw.choice([0, 1, 3, 999, 2**31])
    else:
        draw.choice(model.opset_import).version = draw.choice([0, 1, 11, 999, 2**31, -1])


def endless_loop(model: ModelProto, draw: random.Random) -> None:
    """Add a loop that never ends, and let a node wait for it."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["condition"], ["go_on"]),
            helper.make_node("Add", ["state", "state"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [1]),
        ],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "start"))
    model.graph.node.insert(0, helper.make_node("Loop", ["", "always", "start"], ["looped"], body=body))
    model.graph.output.append(helper.make_tensor_value_info("looped", TensorProto.FLOAT, [1]))


def add_function(model: ModelProto, draw: random.Random) -> None:
    """Define an operator in the model, of a name that the exporter uses."""
    node = _node(model, draw)
    body = [helper.make_node("Loop" if draw.random() < 0.5 else "Identity", ["x"], ["y"])]
    model.functions.append(FunctionProto(name=node.op_type, domain="local", input=["x"], output=["y"], node=body))
    node.domain = "local"
    model.opset_import.append(helper.make_opsetid("local", 1))


def large_expand(model: ModelProto, draw: random.Random) -> None:
    """Compute something of many gigabytes on the way to an output."""
    size = draw.choice([2**28, 2**31, 2**36, 2**45])
    output = draw.choice(model.graph.output).name
    for node in model.graph.node:
        for i, name in enumerate(node.output):
            if name == output:
                node.output[i] = "before"
    start, axis = np.zeros(1, np.int64), np.zeros(1, np.int64)
    constants = {
        "large.flat": np.array([-1]),
        "large.size": np.array([size]),
        "large.start": start,
        "large.end": np.array([1]),
        "large.axis": axis,
    }
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.int64), name))
    model.graph.node.extend(
        [
            helper.make_node("Reshape", ["before", "large.flat"], ["large.a"]),
            helper.make_node("Slice", ["large.a", "large.start", "large.end", "large.axis"], ["large.b"]),
            helper.make_node("Expand", ["large.b", "large.size"], ["large.c"]),
            helper.make_node("Slice", ["large.c", "large.start", "large.end", "large.axis"], ["large.d"]),
            helper.make_node("Add", ["before", "large.d"], [output]),
        ]
    )


GRAPH_CHANGES: tuple[GraphChange, ...] = (
    remove_node,
    repeat_node,
    foreign_operator,
    other_operator,
    rewire,
    rewire,
    cycle,
    rename_tensor,
    declare_otherwise,
    declare_otherwise,
    drop_io,
    add_io,
    change_attribute,
    change_attribute,
    remove_attribute,
    change_constant,
    change_constant,
    change_dims,
    change_external,
    change_external,
    drop_external,
    change_versions,
    endless_loop,
    add_function,
    large_expand,
)


def change_bytes(data: bytes, draw: random.Random) -> bytes:
    """Flip bits, cut, extend or replace."""
    content, how = bytearray(data), draw.randrange(6)
    if how < 3:
        for _ in range(draw.choice([1, 4, 64])):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif how == 3:
        del content[draw.randrange(len(content)) :]
    elif how == 4:
        content += draw.randbytes(draw.choice([1, 5, 1000]))
    else:
        start = draw.randrange(len(content))
        content[start : start + 100] = draw.randbytes(100)
    return bytes(content)


def change_weights(data: bytes, draw: random.Random) -> bytes:
    """Fill weights with other numbers, in whole or in part; the file keeps its size, or does not."""
    values = np.frombuffer(data[: len(data) // 4 * 4], dtype=np.float32).copy()
    how = draw.randrange(7)
    if how == 0:
        values[:] = draw.choice(_FLOATS)
    elif how == 1:
        start = draw.randrange(len(values))
        values[start : start + 5000] = draw.choice(_FLOATS)
    elif how == 2:
        with np.errstate(over="ignore"):
            values *= np.float32(draw.choice([-1.0, 1e3, 1e10, 1e30]))
    elif how == 3:
        return draw.randbytes(len(data))
    elif how == 4:
        return change_bytes(data, draw)
    elif how == 5:
        return b""
    else:
        values = values[::-1].copy()
    return values.tobytes() + data[len(values) * 4 :]
