"""``vcut bench``: each command parses, calls ``measure`` of its module, and prints the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vcut_bench.fidelity_command import fidelity_command
from vcut_bench.latency import latency_command
from vcut_bench.macs import macs_command
from vcut_bench.memory import memory_command
from vcut_runtime.terminal import QUIET, say

app = typer.Typer(
    help="Measure: the paper's tables, latency, memory and fidelity beside the peers.", no_args_is_help=True
)
app.command("macs")(macs_command)
app.command("latency")(latency_command)
app.command("memory")(memory_command)
app.command("fidelity")(fidelity_command)


@app.command("report")
def report_command(
    results: Annotated[list[Path], typer.Argument(help="Files that vcut bench wrote.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page, an .html file.")] = Path("report.html"),
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Show results as one page of plots that opens without a network."""
    from vcut_bench.report import report

    path = report(results, output)
    if not quiet:
        say((str(path), "bold"), f"  {path.stat().st_size / 1e3:.0f} kB")
