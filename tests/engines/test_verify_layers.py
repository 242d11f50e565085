"""Bisection of a graph: the first tensor that differs, with few runs, and whether it is confirmed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from vcut_engines.verify import GraphCheck, OutputCheck
from vcut_engines.verify_command import describe
from vcut_engines.verify_layers import Node, bisect, find_layer
from vcut_runtime import open_bundle


def diamond(changed: str) -> Any:
    """A trunk with a side branch in each block; all that is downstream of ``changed`` differs."""
    nodes = [Node("early", "Op", ("x", "w"), ("early",))]  # used only in the last block
    for i in range(40):
        nodes += [Node(f"side{i}", "Op", (f"trunk{i}",), (f"side{i}",))]
        nodes += [Node(f"trunk{i + 1}", "Add", (f"trunk{i}", f"side{i}"), (f"trunk{i + 1}",))]
    nodes += [Node("last", "Add", ("trunk40", "early"), ("last",))]
    differ = {changed}
    for node in nodes:
        differ |= set(node.outputs) if differ & set(node.inputs) else set()
    return nodes, differ


@pytest.mark.parametrize("changed", ["early", "side0", "side17", "trunk25", "trunk40", "last"])
def test_bisection_finds_the_first_tensor_with_few_runs(changed: str) -> None:
    nodes, differ = diamond(changed)
    names = {tensor for node in nodes for tensor in node.outputs}
    asked: list[list[str]] = []

    def differing(marks: list[str]) -> set[str]:
        asked.append(marks)
        return differ & set(marks)

    tensor, behind = bisect(nodes, "last", names, differing, batch=4)
    assert tensor == changed
    assert [node.label for node in behind] == [changed]
    assert max(map(len, asked)) <= 4
    assert len(asked) < 12


def test_operators_that_the_reference_lacks_are_named_together() -> None:
    nodes, differ = diamond("side5")
    names = {tensor for node in nodes for tensor in node.outputs} - {"side5"}
    tensor, behind = bisect(nodes, "last", names, lambda marks: differ & set(marks))
    assert tensor == "trunk6"
    assert [node.label for node in behind] == ["side5", "trunk6"]


def test_a_difference_that_marks_remove_is_called_an_optimisations(small_bundle: Path) -> None:
    file = small_bundle / open_bundle(small_bundle, hashes=False).manifest.graphs["decode"].file
    layer = find_layer({"actual": file, "reference": file}, "frames", lambda models, marks: set(), onnx)
    assert layer.tensor == "frames"
    assert not layer.confirmed
    check = GraphCheck("decode", "onnxruntime-cpu", (OutputCheck("frames", 3.0, 1.0, True, True),), "", layer)
    assert describe(check).endswith("an optimisation across operators makes the difference")
