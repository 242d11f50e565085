"""``vcut bench fidelity``: parse, call ``measure`` of :mod:`vcut_bench.fidelity` or :mod:`vcut_bench.vbench`, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from vcut_bench.fidelity import FidelityOptions, measure
from vcut_bench.results import OUTPUT, deliver
from vcut_bench.vbench import measure as measure_vbench
from vcut_runtime.command_options import takes_options
from vcut_runtime.terminal import JSON, QUIET, progress_bars


@takes_options
def fidelity_command(
    bundles: Annotated[list[Path], typer.Argument(help="Of one model, one for each --tca.", show_default=False)],
    images: Annotated[Path, typer.Option(help="Folder of images.", show_default=False)],
    options: FidelityOptions,
    vbench: Annotated[
        Path | None,
        typer.Option(
            metavar="INFO.json",
            help="The paper's metrics instead, through the vbench package: its vbench2_i2v_full_info.json.",
        ),
    ] = None,
    vbench_python: Annotated[
        Path | None, typer.Option(help=escape("Python of the environment that has vbench. [default: this one]"))
    ] = None,
    output: Annotated[Path | None, OUTPUT] = None,
    json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Compare videos with diffusers' own, frame by frame, or by the paper's metrics."""
    with progress_bars(quiet or json) as progress:
        if vbench is None:
            result = measure(bundles, images, options, progress=progress)
        else:
            result = measure_vbench(bundles, images, vbench, options, python=vbench_python, progress=progress)
    deliver(result, output, json)
