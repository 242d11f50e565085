"""``vcut bench``: each command parses, calls ``measure`` of its module, and prints the result."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from vcut_bench.fidelity import fidelity_command
from vcut_bench.latency import latency_command, parse_intervals
from vcut_bench.numbers import Numbers, show
from vcut_runtime.cli import parse_cut_step
from vcut_runtime.errors import UsageError
from vcut_runtime.terminal import JSON, QUIET, print_json, stages, stderr

app = typer.Typer(
    help="Measure: the paper's tables, latency, memory and fidelity beside the peers.", no_args_is_help=True
)

OUTPUT = typer.Option("--output", "-o", help="Write the result here too, as JSON.")


@app.command("macs")
def macs_command(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="svd, svd-xt, svd-xt-1.1, svd-tiny, a diffusers folder or a hub id; repeat for several. "
            "[default: the whole family]"
        ),
    ] = None,
    by: Annotated[str | None, typer.Option(help="Share of a step by block or by kind of layer.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels. [default: the model's]")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels. [default: the model's]")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of the video. [default: the model's]")] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps of a video.")] = 25,
    cut_steps: Annotated[str, typer.Option(help="First conditional steps; none never cuts.")] = "none,10,17,20",
    cache_intervals: Annotated[
        str, typer.Option(help="Videos with shallow steps too, all layers in every so many steps only: 2,3.")
    ] = "none",
    tca: Annotated[str, typer.Option(help="Of vcut: remove or fold temporal cross-attention.")] = "remove",
    output: Annotated[Path | None, OUTPUT] = None,
    json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Count parameters and MACs beside the paper's Tables II and III; needs no weights."""
    from vcut_bench import macs

    if by not in (None, "block", "kind"):
        raise UsageError(f"unknown --by {by!r}: choose block or kind")
    cuts = [parse_cut_step(word.strip()) for word in cut_steps.split(",")]
    with stages(quiet or json) as show:
        result = macs.measure(
            model or (), height=height, width=width, frames=frames, steps=steps, cut_steps=cuts,
            cache_intervals=parse_intervals(cache_intervals), tca=tca, by=by, show=show,  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
    _finish(result, macs.numbers(result), output, json)


@app.command("memory")
def memory_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", show_default=False)],
    backend: Annotated[str, typer.Option(help="Of vcut; as vcut run takes it.")] = "auto",
    reference: Annotated[
        Path | None, typer.Option(help="The bundle's diffusers folder. [default: its architecture, random weights]")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Run diffusers too.")] = True,
    build: Annotated[bool, typer.Option("--build/--no-build", help="Compile the model again, to measure that.")] = True,
    output: Annotated[Path | None, OUTPUT] = None,
    json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Measure what a bundle takes of disk, host and device, beside diffusers."""
    from vcut_bench import memory

    with stages(quiet or json) as show:
        result = memory.measure(
            bundle, backend=backend, reference=reference, threads=threads, peers=peers, build=build, show=show
        )
    _finish(result, memory.numbers(result), output, json)


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
        stderr.print(f"[bold]{escape(str(path))}[/bold]  {path.stat().st_size / 1e3:.0f} kB", soft_wrap=True)


app.command("latency")(latency_command)
app.command("fidelity")(fidelity_command)


def _finish(result: dict[str, Any], tables: Iterable[Numbers], output: Path | None, json: bool) -> None:
    from vcut_bench.provenance import save

    if output is not None:
        save(result, output)
        stderr.print(f"[bold]{escape(str(output))}[/bold]", soft_wrap=True)
    if json:
        print_json(result)
        return
    show(tables)
