"""Bisection of a graph: the first inner tensor that differs from the reference, and the weights behind it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 8  # tensors marked at a time: what both sides hold beside their own outputs


@dataclass(frozen=True)
class Node:
    """An operator of a graph.

    Attributes:
        label: its name, or its operator if it has none.
        operator: its kind.
        inputs: tensors that it reads, weights among them.
        outputs: tensors that it gives.
    """

    label: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """Where a graph first differs from its reference.

    Attributes:
        tensor: that differs, though what it is made from does not.
        node: the operator that gives it.
        operator: the kind of that operator.
        weights: that the operator reads.
        changed: those of them that are not the reference's.
        confirmed: whether it differs when what it is made from is an output too. If not, an optimisation across
            operators makes the difference: outputs split what ONNX Runtime would fuse.
    """

    tensor: str
    node: str
    operator: str
    weights: tuple[str, ...]
    changed: tuple[str, ...]
    confirmed: bool


def read_nodes(model: Any) -> list[Node]:
    """Return the operators of an ONNX model in its own order, which is topological."""
    return [
        Node(node.name or node.op_type, node.op_type, tuple(filter(None, node.input)), tuple(filter(None, node.output)))
        for node in model.graph.node
    ]


def bisect(
    nodes: Sequence[Node],
    output: str,
    comparable: Collection[str],
    differing: Callable[[list[str]], Collection[str]],
    batch: int = BATCH,
) -> tuple[str, list[Node]]:
    """Find the first tensor that differs on the way to ``output``, which differs.

    Each round marks a few tensors upstream of the suspect. The first that differs is the next suspect. What leads to a
    tensor that does not differ is presumed not to differ. In the end the suspect's inputs that were only presumed so
    are looked at too, because a small difference can get lost on one way and not on another.

    Args:
        nodes: in topological order.
        output: a tensor that differs.
        comparable: the tensors that both sides have.
        differing: marks these tensors as outputs and returns those that differ.
        batch: most tensors to mark at a time.

    Returns:
        The tensor, and the operators that make it from tensors that do not differ.
    """
    producer = {tensor: index for index, node in enumerate(nodes) for tensor in node.outputs}
    suspect, clean, presumed, tested = output, set[str](), set[str](), {output}

    def upstream(tensor: str, stop: Collection[str]) -> list[int]:
        indices, stack = set[int](), [tensor]
        while stack:
            index = producer.get(stack.pop())
            if index is not None and index not in indices:
                indices.add(index)
                stack += [name for name in nodes[index].inputs if name not in stop]
        return sorted(indices)

    while True:
        behind = upstream(suspect, clean | presumed)
        marks = [t for i in behind for t in nodes[i].outputs if t in comparable and t not in tested | presumed]
        if not marks:
            presumed.clear()
            marks = [t for i in behind for t in nodes[i].inputs if t in comparable and t in producer]
            marks = list(dict.fromkeys(t for t in marks if t not in tested))[:batch]
            if not marks:
                return suspect, [nodes[index] for index in behind]
        spacing = max(1, -(-len(marks) // batch))
        marks = marks[spacing // 2 :: spacing]
        differ = differing(marks)
        tested |= set(marks)
        clean |= set(marks) - set(differ)
        for tensor in clean & set(marks):
            presumed |= {t for index in upstream(tensor, clean - {tensor}) for t in nodes[index].outputs}
        suspect = next((tensor for tensor in marks if tensor in differ), suspect)
        presumed -= {suspect}


def weights_of(
    nodes: Sequence[Node], model: Any, path: Path, reference: Any, reference_path: Path, onnx: Any
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the weights that these operators read, and those of them that are not the reference's.

    Args:
        nodes: some of the model's.
        model: an ONNX model without its external data.
        path: its file, beside which its external data lies.
        reference: the model to compare with.
        reference_path: its file.
        onnx: the package.
    """
    theirs = {tensor.name: tensor for tensor in reference.graph.initializer}
    ours = {tensor.name: tensor for tensor in model.graph.initializer}
    names = tuple(dict.fromkeys(name for node in nodes for name in node.inputs if name in ours))
    changed = [
        name
        for name in names
        if name in theirs
        and not np.array_equal(
            _array(ours[name], path.parent, onnx), _array(theirs[name], reference_path.parent, onnx), equal_nan=True
        )
    ]
    return names, tuple(changed)


def find_layer(
    sides: Mapping[str, Path],
    output: str,
    differing: Callable[[Mapping[str, Any], list[str]], Collection[str]],
    onnx: Any,
) -> Layer:
    """Return where ``output`` of a graph first differs.

    Args:
        sides: the files of ``actual`` and of ``reference``.
        output: a tensor that differs.
        differing: gets both models without external data and the tensors to mark, and returns those that differ.
        onnx: the package.
    """
    models = {name: onnx.load(path, load_external_data=False) for name, path in sides.items()}
    nodes = read_nodes(models["actual"])
    shared = {t for node in nodes for t in node.outputs} & {
        t for node in read_nodes(models["reference"]) for t in node.outputs
    }
    tensor, behind = bisect(nodes, output, shared, lambda marks: differing(models, marks))
    node = next(node for node in behind if tensor in node.outputs)
    inner = {name for made in behind for name in made.outputs}
    inputs = [name for made in behind for name in made.inputs if name in shared and name not in inner]
    confirmed = tensor in differing(models, list(dict.fromkeys([tensor, *inputs]))[:BATCH])
    weights, changed = weights_of(
        behind, models["actual"], sides["actual"], models["reference"], sides["reference"], onnx
    )
    return Layer(tensor, node.label, node.operator, weights, changed, confirmed)


def _array(tensor: Any, folder: Path, onnx: Any) -> np.ndarray:
    """Return a weight as an array; its external data is read now, and not kept."""
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    if copy.external_data:
        onnx.external_data_helper.load_external_data_for_tensor(copy, str(folder))
    return onnx.numpy_helper.to_array(copy)
