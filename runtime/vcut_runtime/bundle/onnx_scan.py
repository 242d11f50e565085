"""Find the files that an ONNX graph reads and its operators, without the onnx package: a walk over protobuf's format.

Field numbers are those of onnx.proto3. Only messages that can hold a tensor or a node are entered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_TENSOR, _SPARSE, _ATTRIBUTE, _NODE, _GRAPH, _FUNCTION, _TRAINING, _MODEL = range(8)
_CHILDREN: dict[int, dict[int, int]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
}
_EXTERNAL_DATA = 13
_OP_TYPE, _DOMAIN = 4, 7  # of a node


class GraphFacts(NamedTuple):
    """What a graph file refers to.

    Attributes:
        locations: files of external data.
        operators: of all nodes, those of subgraphs and functions too; ``domain::name`` outside of ONNX's own domain.
    """

    locations: set[str]
    operators: set[str]


def scan_graph(model: bytes) -> GraphFacts:
    """Return what a serialized ``ModelProto`` refers to.

    Raises:
        ValueError: these bytes are not a well-formed protobuf message.
    """
    locations: set[str] = set()
    operators: set[str] = set()
    stack: list[tuple[int, memoryview]] = [(_MODEL, memoryview(model))]
    while stack:
        kind, message = stack.pop()
        name = domain = ""  # of a node; a field that comes twice has its last value
        for number, value in _fields(message):
            if kind == _TENSOR:
                if number == _EXTERNAL_DATA:
                    entry = {n: bytes(v) for n, v in _fields(value)}
                    if entry.get(1) == b"location":
                        locations.add(_text(entry.get(2, b"")))
            elif number in _CHILDREN[kind]:
                stack.append((_CHILDREN[kind][number], value))
            elif kind == _NODE and number == _OP_TYPE:
                name = _text(value)
            elif kind == _NODE and number == _DOMAIN:
                domain = _text(value)
        if kind == _NODE:
            operators.add(f"{domain}::{name}" if domain else name)
    return GraphFacts(locations, operators)


def _text(value: bytes | memoryview) -> str:
    return bytes(value).decode("utf-8", "replace")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield each length-delimited field as (number, bytes); the others are stepped over."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        if tag >= 1 << 32:  # protobuf would cut it to 32 bits and read another field than this walk sees
            raise ValueError("a tag is longer than 32 bits")
        wire = tag & 7
        if wire == 0:
            _, at = _varint(message, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 2:
            length, at = _varint(message, at)
            if at + length > end:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, message[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {wire} does not exist")
    if at != end:
        raise ValueError("the message ends inside a field")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("a number does not end")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
