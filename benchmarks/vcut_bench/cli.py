"""``vcut bench``: each command parses, calls ``measure`` of its module, and prints the result."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from vcut_bench.machine import save
from vcut_runtime.terminal import JSON, QUIET, print_json, stages, stdout

app = typer.Typer(help="Measure: the paper's tables, latency, memory and fidelity beside the peers.", no_args_is_help=True)

OUTPUT = typer.Option("--output", "-o", help="Write the result here, as JSON.")


@app.callback()
def _root() -> None:
    """Keep this a group, however many commands it has."""


for _name in ("latency", "fidelity"):
    try:
        app.command(_name)(getattr(import_module(f"vcut_bench.{_name}"), f"{_name}_command"))
    except (ImportError, AttributeError):
        pass
