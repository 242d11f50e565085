"""The wire-format walk against models made and read with the onnx package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    TrainingInfoProto,
    helper,
)

from vcut_runtime.bundle.onnx_scan import scan_graph


def external(*locations: str) -> TensorProto:
    """A tensor whose data lies in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for location in locations:
        for key, value in (("offset", "0"), ("location", location), ("length", "16")):
            tensor.external_data.add(key=key, value=value)
    return tensor


def embedded() -> TensorProto:
    return helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])


def node(**attribute: Any) -> NodeProto:
    kind = AttributeProto.UNDEFINED
    return NodeProto(op_type="Some", output=["y"], attribute=[AttributeProto(name="value", type=kind, **attribute)])


def graph(*nodes: NodeProto, **fields: Any) -> GraphProto:
    return GraphProto(name="g", node=nodes, **fields)


def model(inner: GraphProto, **fields: Any) -> ModelProto:
    return ModelProto(ir_version=9, opset_import=[helper.make_opsetid("", 17)], graph=inner, **fields)


def sparse(values: TensorProto, indices: TensorProto) -> SparseTensorProto:
    return SparseTensorProto(values=values, indices=indices, dims=[4])


def if_node(tensor: TensorProto) -> NodeProto:
    branch = helper.make_graph([helper.make_node("Constant", [], ["y"], value=tensor)], "branch", [], [])
    other = helper.make_graph([], "other", [], [], [embedded()])
    return helper.make_node("If", ["c"], ["y"], then_branch=other, else_branch=branch)


def function(*nodes: NodeProto, **fields: Any) -> FunctionProto:
    return FunctionProto(name="f", domain="local", node=nodes, **fields)


PLACES: dict[str, Callable[[TensorProto], ModelProto]] = {
    "initializer": lambda t: model(graph(initializer=[embedded(), t])),
    "node attribute": lambda t: model(graph(helper.make_node("Constant", [], ["y"], value=t))),
    "node attribute list": lambda t: model(graph(node(tensors=[embedded(), t]))),
    "If branch": lambda t: model(graph(if_node(t))),
    "If in an If branch": lambda t: model(graph(node(g=graph(if_node(t))))),
    "initializer of a subgraph": lambda t: model(graph(node(g=graph(initializer=[t])))),
    "subgraph list": lambda t: model(graph(node(graphs=[graph(), graph(initializer=[t])]))),
    "function node": lambda t: model(graph(), functions=[function(), function(node(t=t))]),
    "function subgraph": lambda t: model(graph(), functions=[function(if_node(t))]),
    "function default": lambda t: model(
        graph(), functions=[function(attribute_proto=[AttributeProto(name="a", type=AttributeProto.TENSOR, t=t)])]
    ),
    "sparse initializer values": lambda t: model(graph(sparse_initializer=[sparse(t, embedded())])),
    "sparse initializer indices": lambda t: model(graph(sparse_initializer=[sparse(embedded(), t)])),
    "sparse attribute values": lambda t: model(graph(node(sparse_tensor=sparse(t, embedded())))),
    "sparse attribute list indices": lambda t: model(graph(node(sparse_tensors=[sparse(embedded(), t)]))),
    "training initialization": lambda t: model(
        graph(), training_info=[TrainingInfoProto(initialization=graph(initializer=[t]))]
    ),
    "training algorithm": lambda t: model(graph(), training_info=[TrainingInfoProto(algorithm=graph(node(t=t)))]),
}


def everywhere() -> ModelProto:
    """A model with external data in every place."""
    whole = ModelProto()
    for index, build in enumerate(PLACES.values()):
        whole.MergeFrom(build(external(f"{index}.bin")))
    return whole


EVERYWHERE = everywhere().SerializeToString()


def messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                yield from messages(inner)


def as_text(value: str | bytes) -> str:
    """Return a string. protobuf returns strings that are not UTF-8 as bytes."""
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def locations_by_onnx(data: bytes) -> set[str]:
    """Return every location that the onnx package finds; none if it cannot read ``data``."""
    try:
        tensors: list[Any] = [m for m in messages(onnx.load_model_from_string(data)) if isinstance(m, TensorProto)]
        entries = [entry for tensor in tensors for entry in tensor.external_data]
        return {as_text(entry.value) for entry in entries if entry.key == "location"}
    except DecodeError:
        return set()


def operators_by_onnx(data: bytes) -> set[str]:
    """Return the operators of all nodes that the onnx package finds; none if it cannot read ``data``."""
    try:
        nodes: list[Any] = [m for m in messages(onnx.load_model_from_string(data)) if isinstance(m, NodeProto)]
    except DecodeError:
        return set()
    names = [(as_text(node.domain), as_text(node.op_type)) for node in nodes]
    return {f"{domain}::{name}" if domain else name for domain, name in names}


def read_or_refused(data: bytes) -> None:
    """Fail the test unless the scan finds every location and operator, or refuses ``data`` with a ValueError."""
    try:
        facts = scan_graph(data)
    except ValueError:
        return
    assert facts.locations >= locations_by_onnx(data)
    assert facts.operators >= operators_by_onnx(data)


def varint(value: int) -> bytes:
    high, low = divmod(value, 128)
    return bytes([low]) if high == 0 else bytes([low | 128]) + varint(high)


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found(place: str) -> None:
    assert scan_graph(PLACES[place](external("weights.bin")).SerializeToString()).locations == {"weights.bin"}


@pytest.mark.parametrize("place", PLACES)
def test_embedded_data_is_not_external(place: str) -> None:
    assert scan_graph(PLACES[place](embedded()).SerializeToString()).locations == set()


def test_external_data_is_found_in_every_place_at_once() -> None:
    wanted = {f"{index}.bin" for index in range(len(PLACES))}
    assert scan_graph(EVERYWHERE).locations == wanted
    assert locations_by_onnx(EVERYWHERE) == wanted


@pytest.mark.parametrize("place", PLACES)
def test_operators_are_found(place: str) -> None:
    data = PLACES[place](external("weights.bin")).SerializeToString()
    assert scan_graph(data).operators == operators_by_onnx(data)


def test_an_operator_has_its_last_name_and_its_domain() -> None:
    twice = field(4, b"Add") + field(7, b"first") + field(4, b"Loop") + field(7, b"com.microsoft")
    data = field(7, field(1, twice) + field(1, field(4, b"Mul")))
    assert scan_graph(data).operators == operators_by_onnx(data) == {"com.microsoft::Loop", "Mul"}


def sizes_model(operator: str, inputs: list[str], *sizes: TensorProto) -> bytes:
    node = NodeProto(op_type=operator, input=inputs, output=["y"])
    inside = AttributeProto(name="then_branch", type=AttributeProto.GRAPH, g=graph(node))
    return model(graph(NodeProto(op_type="If", attribute=[inside]), initializer=sizes)).SerializeToString()


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    ("operator", "inputs"),
    [("Expand", ["x", "size"]), ("Tile", ["x", "size"]), ("Pad", ["x", "size"]), ("Resize", ["x", "", "", "size"])],
)
def test_a_constant_size_is_seen(operator: str, inputs: list[str], raw: bool) -> None:
    numbers = np.array([1, 2**40, -1, 3, 0], np.int64)
    size = helper.make_tensor("size", TensorProto.INT64, [5], numbers.tobytes() if raw else numbers, raw=raw)
    other = helper.make_tensor("other", TensorProto.INT64, [1], [2**60])
    assert scan_graph(sizes_model(operator, inputs, size, other)).largest == 3 * 2**40
    assert scan_graph(sizes_model("Slice", inputs, size, other)).largest == 0  # its end may be the largest number


def test_sizes_that_are_written_in_other_ways() -> None:
    unpacked = b"".join(varint(7 << 3) + varint(number) for number in (2**20, 2**20))
    tensor = field(8, b"size") + unpacked
    node = field(1, b"x") + field(1, b"size") + field(4, b"Expand")
    assert scan_graph(field(7, field(1, node) + field(5, tensor))).largest == 2**40
    huge = field(8, b"size") + field(9, np.full(60, 2**62).tobytes())
    assert scan_graph(field(7, field(1, node) + field(5, huge))).largest == 10**18
    weights = field(8, b"size") + field(9, b"\xff" * 10_000) + field(7, b"\xff" * 10_000)
    assert scan_graph(field(7, field(1, node) + field(5, weights))).largest == 0


def test_file_saved_by_onnx_names_its_data(tmp_path: Path) -> None:
    weights = onnx.numpy_helper.from_array(np.arange(1000, dtype=np.float32), "w")
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1000])
    whole = helper.make_model(helper.make_graph([helper.make_node("Neg", ["w"], ["y"])], "g", [], [y], [weights]))
    onnx.save_model(whole, tmp_path / "embedded.onnx")
    onnx.save_model(whole, tmp_path / "external.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    assert scan_graph((tmp_path / "embedded.onnx").read_bytes()).locations == set()
    assert scan_graph((tmp_path / "external.onnx").read_bytes()).locations == {"w.data"}


def test_every_location_is_found() -> None:
    tensors = [external("a.bin"), external("../b.bin", "/etc/c.bin"), external("ü 重.bin"), external("a.bin")]
    locations = scan_graph(model(graph(initializer=tensors)).SerializeToString()).locations
    assert locations == {"a.bin", "../b.bin", "/etc/c.bin", "ü 重.bin"}


def test_location_that_is_not_utf8_is_found() -> None:
    data = PLACES["initializer"](external("weights.bin")).SerializeToString().replace(b"weights", b"weight\xff")
    assert scan_graph(data).locations == {"weight\N{REPLACEMENT CHARACTER}.bin"}


def test_location_elsewhere_than_in_a_tensor_is_none() -> None:
    whole = model(graph(metadata_props=[{"key": "location", "value": "graph.bin"}]))
    whole.metadata_props.add(key="location", value="model.bin")
    tensor = embedded()
    tensor.external_data.add(key="checksum", value="location")
    whole.graph.initializer.append(tensor)
    assert scan_graph(whole.SerializeToString()).locations == set()


def test_empty_model_has_none() -> None:
    assert scan_graph(b"").locations == set()


@pytest.mark.parametrize(
    "scalar", [b"\x08\x09", b"\x08" + b"\xff" * 9 + b"\x01", b"\x09" + b"?" * 8, b"\x0d" + b"?" * 4]
)
def test_scalar_fields_are_stepped_over(scalar: bytes) -> None:
    assert scan_graph(scalar + EVERYWHERE).locations == locations_by_onnx(EVERYWHERE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x3a", "a number does not end"),
        (b"\x3a\x05\x00", "longer than its message"),
        (b"\x3b", "wire type 3"),
        (b"\x3c", "wire type 4"),
        (b"\x3e", "wire type 6"),
        (b"\x3f", "wire type 7"),
        (b"\x09\x00", "ends inside a field"),
        (b"\x0d\x00", "ends inside a field"),
        (b"\x08", "a number does not end"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "a number does not end"),
        (b"\x3a" + b"\xff" * 9 + b"\x01", "longer than its message"),
        (field(7, field(5, field(13, b"\x0a\x09loc"))), "longer than its message"),
        (b"not a model", "wire type 6"),
    ],
)
def test_malformed_message_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scan_graph(data)


@pytest.mark.parametrize("depth", [100, 5000])
def test_deeply_nested_graphs_are_walked(depth: int) -> None:
    inner = field(5, external("deep.bin").SerializeToString())
    for _ in range(depth):
        inner = field(1, field(5, field(6, inner)))
    assert scan_graph(field(7, inner)).locations == {"deep.bin"}


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    read_or_refused(data)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_in_a_tensor_are_read_or_refused(data: bytes) -> None:
    read_or_refused(field(7, field(5, data)))
    read_or_refused(field(7, field(5, field(13, data))))


@settings(deadline=None)
@given(st.integers(0, len(EVERYWHERE) - 1))
def test_truncated_model_is_read_or_refused(size: int) -> None:
    read_or_refused(EVERYWHERE[:size])


@settings(deadline=None, max_examples=500)
@given(
    st.lists(
        st.tuples(st.integers(0, len(EVERYWHERE)), st.integers(0, 2), st.binary(max_size=3)), min_size=1, max_size=4
    )
)
def test_mutated_model_hides_nothing_from_the_scan(edits: list[tuple[int, int, bytes]]) -> None:
    data = EVERYWHERE
    for at, removed, inserted in edits:
        data = data[:at] + inserted + data[at + removed :]
    read_or_refused(data)


def test_a_tag_that_protobuf_would_cut_to_32_bits_is_refused() -> None:
    """ONNX Runtime reads such a tag as field 5 of the graph, the initializers; a plain varint reads another number."""
    tensor = external("evil.bin").SerializeToString()
    long_tag = b"\xaa\x80\x80\x80\x10"  # 0x2a, with bit 32 set
    inner = long_tag + bytes([len(tensor)]) + tensor
    hidden = ModelProto(ir_version=9).SerializeToString() + b"\x3a" + bytes([len(inner)]) + inner
    with pytest.raises(ValueError, match="32 bits"):
        scan_graph(hidden)
