"""``vcut export`` and ``vcut-export``: parse, call :func:`vcut_export.export`, print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.markup import escape

from vcut_engines.cli import ENGINES, GPU, VERBOSE, show
from vcut_export.compiler import export, summary
from vcut_runtime.cli import parse_cut_step
from vcut_runtime.errors import UsageError
from vcut_runtime.terminal import JSON, QUIET, build_progress, print_json, run_app, stages, stderr


def export_command(
    model: Annotated[
        str,
        typer.Option(help="svd, svd-xt, svd-xt-1.1, svd-tiny, a diffusers folder, or a hub id.", show_default=False),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The bundle's folder. [default: vcut-<model>]")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Hub revision.")] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="The exact architecture with random weights; downloads no weights.")
    ] = False,
    height: Annotated[int | None, typer.Option(help="Pixels. [default: the model's]")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels. [default: the model's]")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of the video. [default: the model's]")] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 25,
    cut_step: Annotated[
        str | None,
        typer.Option(
            help="First step of the quality improvement stage, or none. [default: 17 of 25 steps, else in proportion]"
        ),
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp16, bf16 or fp32. [default: fp16; svd-tiny: fp32]")] = None,
    tca: Annotated[
        str, typer.Option(help="Temporal cross-attention: remove it (the paper) or fold its constant (exact).")
    ] = "remove",
    low_memory: Annotated[
        bool, typer.Option("--low-memory", help="For GPUs of 8 GB: steps take a third less memory, decoding is slower.")
    ] = False,
    deep_cache: Annotated[
        bool,
        typer.Option("--deep-cache", help="Compile shallow steps too, for runs with --cache-interval (DeepCache)."),
    ] = False,
    decode_chunk: Annotated[
        int | None, typer.Option(help="Frames decoded at a time. [default: what takes no more memory than a step]")
    ] = None,
    dynamic: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE=MIN:MAX,...",
            help="Sizes that a run may choose, such as frames=8:25,height=320:576,width=576:1024.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of random weights.")] = 0,
    engines: Annotated[str, ENGINES] = "auto",
    gpu: Annotated[str | None, GPU] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every graph with unmodified torch modules; fail if one is off.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Rebuild everything, also over a bundle of another model.")
    ] = False,
    verbose: Annotated[bool, VERBOSE] = False,
    json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Compile an SVD checkpoint into a bundle."""
    if cut_step is None:
        cut: Any = None
    else:
        parsed = parse_cut_step(cut_step)
        cut = "none" if parsed is None else parsed
    silent = quiet or json
    with stages(silent) as stage, build_progress(silent or verbose) as progress:
        result = export(
            model,
            output,
            revision=revision,
            random_weights=random_weights,
            seed=seed,
            height=height,
            width=width,
            frames=frames,
            steps=steps,
            cut_step=cut,
            precision=cast(Any, precision),
            tca=cast(Any, tca),
            low_memory=low_memory,
            deep_cache=deep_cache,
            decode_chunk=decode_chunk,
            dynamic=None if dynamic is None else parse_ranges(dynamic),
            engines=cast(Any, engines),
            gpu=gpu,
            verify=verify,
            force=force,
            verbose=verbose,
            stage=stage,
            progress=progress,
        )
    facts = summary(result)
    if json:
        print_json(facts)
        return
    for name, error in result.errors.items():
        stderr.print(f"{name:27} largest error {error:.1e} of the output's largest magnitude", soft_wrap=True)
    if not quiet:
        done = f"built {', '.join(result.rebuilt)}" if result.rebuilt else "already up to date, no graph rebuilt"
        stderr.print(
            f"[bold]{escape(str(result.bundle))}[/bold]  {facts['bundle_bytes'] / 1e9:.3f} GB, {done}, "
            f"{sum(result.seconds.values()):.0f} s, peak memory {result.peak_memory / 1e9:.1f} GB",
            soft_wrap=True,
        )
        if result.engines is not None:
            show(result.engines)


def parse_ranges(text: str) -> dict[str, tuple[int, int]]:
    """Return ``frames=8:25,height=320:576`` as ranges by name.

    Raises:
        UsageError: it is not of this form.
    """
    ranges = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\w+)=(\d+):(\d+)\s*", part)
        if found is None or found[1] in ranges:
            raise UsageError(f"--dynamic {text!r} is no list of ranges: write it as frames=8:25,height=320:576")
        ranges[found[1]] = (int(found[2]), int(found[3]))
    return ranges


def main() -> None:
    """Run ``vcut-export``."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(export_command)
    run_app(app, "vcut-export")
