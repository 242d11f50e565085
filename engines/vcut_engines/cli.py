"""``vcut build``: parse, call :func:`vcut_engines.build`, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vcut_engines.build import BuildResult, build, summary
from vcut_engines.options import EngineOptions
from vcut_runtime.command_options import takes_options
from vcut_runtime.terminal import JSON, QUIET, build_progress, print_json, say


@takes_options
def build_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", show_default=False)],
    options: EngineOptions,
    decode_chunk: Annotated[
        int | None, typer.Option(help="Most frames that the decode engine takes at a time; by default the bundle's.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build all engines again.")] = False,
    json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Build TensorRT engines into a bundle. TensorRT-RTX needs no GPU to build."""
    with build_progress(quiet or json or options.verbose) as progress:
        result = build(bundle, options, decode_chunk=decode_chunk, force=force, progress=progress)
    if json:
        print_json(summary(result))
    elif not quiet:
        show(result)


def show(result: BuildResult) -> None:
    """Print on standard error what was built, in a few lines."""
    if result.target is None:
        say(result.reason)
        return
    for graph, warnings in result.warnings.items():
        for warning in warnings:
            say(f"warning: {graph}: {warning}")
    done = f"built {', '.join(result.built)}" if result.built else "already up to date, no engine rebuilt"
    size = sum(entry.bytes for entry in result.engines.values())
    activation = max(entry.activation_bytes for entry in result.engines.values())
    say(
        f"engines {result.target}: {size / 1e9:.3f} GB, activations {activation / 1e9:.2f} GB, {done}, "
        f"{sum(result.seconds.values()):.0f} s, peak memory {result.peak_memory / 1e9:.1f} GB"
    )
