"""Find the files that an ONNX graph reads, its operators and its sizes, without the onnx package.

This is a walk over protobuf's format.

Field numbers are those of onnx.proto3. Only messages that can hold a tensor or a node are entered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
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
_INT64_DATA, _TENSOR_NAME, _RAW_DATA = 7, 8, 9  # of a tensor
_INPUT, _OP_TYPE, _DOMAIN = 1, 4, 7  # of a node
_SIZED = {"Expand": 1, "Tile": 1, "Pad": 1, "Resize": 3}  # the input that says how much such an operator makes
_SIZE_BYTES = 8 * 64  # of a constant that can be a size
_COUNTED = 10**18  # larger sizes count as this


class GraphFacts(NamedTuple):
    """What a graph file refers to.

    Attributes:
        locations: files of external data.
        operators: of all nodes, those of subgraphs and functions too; ``domain::name`` outside of ONNX's own domain.
        largest: numbers that the largest constant size asks an operator to make. Sizes that a graph computes are not
            seen.
    """

    locations: set[str]
    operators: set[str]
    largest: int


def scan_graph(model: bytes) -> GraphFacts:
    """Return what a serialized ``ModelProto`` refers to.

    Raises:
        ValueError: these bytes are not a well-formed protobuf message.
    """
    locations: set[str] = set()
    operators: set[str] = set()
    sizes: dict[str, int] = {}
    sized: set[str] = set()
    stack: list[tuple[int, memoryview]] = [(_MODEL, memoryview(model))]
    while stack:
        kind, message = stack.pop()
        if kind == _TENSOR:
            name, size = _tensor(message, locations)
            sizes[name] = max(size, sizes.get(name, 0))
            continue
        name = domain = ""  # of a node; a field that comes twice has its last value
        inputs: list[str] = []
        for number, value in _fields(message):
            if number in _CHILDREN[kind]:
                stack.append((_CHILDREN[kind][number], value))
            elif kind == _NODE and number == _OP_TYPE:
                name = _text(value)
            elif kind == _NODE and number == _DOMAIN:
                domain = _text(value)
            elif kind == _NODE and number == _INPUT:
                inputs.append(_text(value))
        if kind == _NODE:
            operators.add(f"{domain}::{name}" if domain else name)
            sized.update(inputs[_SIZED[name] :][:1] if name in _SIZED else ())
    return GraphFacts(locations, operators, max((sizes.get(name, 0) for name in sized), default=0))


def _tensor(message: memoryview, locations: set[str]) -> tuple[str, int]:
    """Return a tensor's name, and the product of its numbers if it can be a size; add its file to ``locations``."""
    name, size, numbers = "", 0, bytearray()
    for number, value in _fields(message, plain=True):
        if number == _EXTERNAL_DATA:
            entry = {n: bytes(v) for n, v in _fields(value)}
            if entry.get(1) == b"location":
                locations.add(_text(entry.get(2, b"")))
        elif number == _TENSOR_NAME:
            name = _text(value)
        elif number == _INT64_DATA and len(numbers) <= _SIZE_BYTES:
            numbers += value
        elif number == _RAW_DATA and len(value) <= _SIZE_BYTES:
            size = _product(int.from_bytes(value[at : at + 8], "little", signed=True) for at in range(0, len(value), 8))
    return name, max(size, _product(_varints(memoryview(numbers))) if len(numbers) <= _SIZE_BYTES else 0)


def _varints(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _product(numbers: Iterable[int]) -> int:
    """Return the product of the positive ones; those of 2^63 and more are negative ones as protobuf writes them."""
    return min(math.prod(number for number in numbers if 0 < number < 1 << 63), _COUNTED)


def _text(value: bytes | memoryview) -> str:
    return bytes(value).decode("utf-8", "replace")


def _fields(message: memoryview, *, plain: bool = False) -> Iterator[tuple[int, memoryview]]:
    """Yield each length-delimited field as (number, bytes), and with ``plain`` whole numbers as they are written.

    The others are stepped over.
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        if tag >= 1 << 32:  # protobuf would cut it to 32 bits and read another field than this walk sees
            raise ValueError("a tag is longer than 32 bits")
        wire = tag & 7
        if wire == 0:
            start = at
            _, at = _varint(message, at)
            if plain:
                yield tag >> 3, message[start:at]
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
