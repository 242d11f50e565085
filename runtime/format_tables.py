"""Writes the tables of ``runtime/README.md`` from the graphs' records: ``python runtime/format_tables.py``."""

from __future__ import annotations

import re
from pathlib import Path

from vcut_runtime.bundle.graph import GRAPHS, SYMBOLS, Graph, Tensor

PAGE = Path(__file__).with_name("README.md")
_TABLE = re.compile(r"(<!-- (graphs|symbols) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str) -> str:
    """Return the page with its marked tables made anew."""
    tables = {"graphs": graphs, "symbols": symbols}
    return _TABLE.sub(lambda match: f"{match[1]}{tables[match[2]]()}\n{match[3]}", text)


def symbols() -> str:
    """Return the table of symbols in shapes."""
    return "\n".join(["| symbol | |", "|---|---|", *(f"| {name} | {about} |" for name, about in SYMBOLS.items())])


def graphs() -> str:
    """Return a table for each graph; a shallow step's says what differs from its full step's."""
    return "\n\n".join(_shallow(graph) if graph.full else _full(graph) for graph in GRAPHS.values())


def _full(graph: Graph) -> str:
    rows = [f"**`{graph.name}`**: {graph.about} Weights: `{graph.weights}`.", "", "| | tensor | shape | |"]
    rows.append("|---|---|---|---|")
    for side, tensors in (("in", graph.inputs), ("out", graph.outputs)):
        rows += [f"| {side} | `{t.name}` | {_shape(t)} | {_about(t)} |" for t in tensors]
    return "\n".join(rows)


def _shallow(graph: Graph) -> str:
    full = GRAPHS[graph.full or ""]
    extra = [t for t in graph.inputs if t not in full.inputs]
    more = ", ".join(f"`{t.name}` {_shape(t)}" for t in extra)
    less = ", ".join(f"`{t.name}`" for t in graph.outputs)
    assert graph.only_if is not None
    return (
        f"**`{graph.name}`**: {graph.about} It exists if {graph.only_if.words}. Weights: `{graph.weights}`. "
        f"Inputs: those of `{full.name}`, then {more}. Outputs: {less}."
    )


def _shape(tensor: Tensor) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"


def _about(tensor: Tensor) -> str:
    parts = [tensor.about]
    if tensor.dtype != "float32":
        parts.append("float16 in fp16 bundles, else float32" if tensor.dtype == "features" else tensor.dtype)
    if tensor.default is not None:
        parts.append(f"{tensor.default:g} if there is none")
    if tensor.only_if is not None:
        parts.append(f"exists if {tensor.only_if.words}")
    return "; ".join(parts)


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text("utf-8")), "utf-8")
