"""``vcut bench fidelity``: parse, call ``measure`` of :mod:`vcut_bench.fidelity` or :mod:`vcut_bench.vbench`, print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.markup import escape

from vcut_bench.compiled import Progress
from vcut_bench.fidelity import FidelityOptions, measure
from vcut_bench.results import OUTPUT, deliver
from vcut_runtime.command_options import takes_options
from vcut_runtime.errors import UsageError
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
    vbench_all: Annotated[
        bool, typer.Option("--vbench-all", help="Make the videos of all prompts, not only of those that are scored.")
    ] = False,
    output: Annotated[Path | None, OUTPUT] = None,
    json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Compare videos with diffusers' own, frame by frame, or by the paper's metrics."""
    with progress_bars(quiet or json) as progress:
        if vbench is None:
            result = measure(bundles, images, options, progress=progress)
        else:
            result = _measure_vbench(bundles, images, vbench, options, vbench_python, vbench_all, progress)
    deliver(result, output, json)


def _measure_vbench(
    bundles: Sequence[Path], images: Path, info: Path, options: FidelityOptions, python: Path | None,
    all_prompts: bool, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    if options.tca is not None:
        raise UsageError("--tca with --vbench is the bundle's: leave it out")
    biases = options.quality_bias or ["mean"]
    if len(biases) > 1:
        raise UsageError("the paper's metrics take one --quality-bias: choose mean or cond")
    from vcut_bench import vbench

    cuts = None if options.cut_steps is None else cast(Any, [cut for cut in options.cut_steps if cut != "none"])
    same = ("reference", "cache_interval", "first_seed", "steps", "fit", "work", "backend", "threads", "decode_chunk")
    return vbench.measure(
        bundles,
        images,
        info,
        quality_bias=biases[0],
        cut_steps=cuts,
        seeds=options.seeds or vbench.SEEDS,
        python=python,
        all_prompts=all_prompts,
        progress=progress,
        **{name: getattr(options, name) for name in same},
    )
