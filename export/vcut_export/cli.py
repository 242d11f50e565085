"""``vcut export`` and ``vcut-export``: compile a checkpoint to graphs, then the graphs to engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vcut_engines import build, choose_target
from vcut_engines import summary as engine_summary
from vcut_engines.cli import show
from vcut_engines.options import EngineOptions
from vcut_export.exporter import export_plan, plan_export, summary
from vcut_export.options import ExportOptions
from vcut_runtime.command_options import takes_options
from vcut_runtime.errors import VcutError
from vcut_runtime.terminal import JSON, QUIET, build_progress, print_json, run_app, say, stages


@takes_options
def export_command(
    model: Annotated[
        str,
        typer.Option(
            help="svd, svd-xt, svd-xt-1.1, svd-tiny, a diffusers folder, a .safetensors file, or a hub id.",
            show_default=False,
        ),
    ],
    options: ExportOptions,
    engine_options: EngineOptions,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The bundle's folder. [default: vcut-<model>]")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every graph with unmodified torch modules; fail if one is off.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Rebuild everything, also over a bundle of another model.")
    ] = False,
    json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Compile an SVD checkpoint into a bundle, with engines."""
    silent = quiet or json
    plan = plan_export(model, options)
    if plan.checkpoint.note and not quiet:
        say(plan.checkpoint.note)
    choose_target(engine_options.engines, engine_options.gpu, plan.precision)  # an impossible GPU fails before any work
    with stages(silent) as stage:
        result = export_plan(plan, output, verify=verify, force=force, stage=stage)
    facts = {**summary(result), "engines": None}
    if not json:
        for name, error in result.errors.items():
            say(f"{name:27} largest error {error:.1e} of the output's largest magnitude")
    if not silent:
        done = f"built {', '.join(result.rebuilt)}" if result.rebuilt else "already up to date, no graph rebuilt"
        say(
            (str(result.bundle), "bold"),
            f"  {facts['bundle_bytes'] / 1e9:.3f} GB, {done}, "
            f"{sum(result.seconds.values()):.0f} s, peak memory {result.peak_memory / 1e9:.1f} GB",
        )
    if engine_options.engines != "none":
        try:
            with build_progress(silent or engine_options.verbose) as progress:
                built = build(result.bundle, engine_options, force=force, progress=progress)
        except VcutError as error:
            raise type(error)(f"{error} ({result.bundle} is whole, without these engines)") from None
        facts["engines"] = engine_summary(built)
        facts["bundle_bytes"] += sum(built.engines[name].bytes for name in built.built)
        if not silent:
            show(built)
    if json:
        print_json(facts)


def main() -> None:
    """Run ``vcut-export``."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(export_command)
    run_app(app, "vcut-export")
