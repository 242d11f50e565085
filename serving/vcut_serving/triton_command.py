"""``vcut triton``: parse, write, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vcut_runtime import BackendOptions
from vcut_runtime.backends import BACKENDS
from vcut_runtime.command_options import takes_options
from vcut_runtime.terminal import JSON, QUIET, print_json, say
from vcut_serving.given_photo import MOST_MEGAPIXELS

Device = Literal["auto", "gpu", "cpu"]


@takes_options
def triton_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The model repository.", show_default=False)],
    backend_options: BackendOptions,
    name: Annotated[str, typer.Option(help="Of the model.")] = "vcut",
    copy: Annotated[bool, typer.Option("--copy", help="Copy the bundle in the place of a link to it.")] = False,
    device: Annotated[
        Device, typer.Option(help="Instances on each GPU, or on the CPU; auto: GPUs if the bundle has engines.")
    ] = "auto",
    instances: Annotated[int, typer.Option(min=1, max=64, help="On each GPU, or on the CPU.")] = 1,
    most_megapixels: Annotated[int, typer.Option(min=1, max=256, help="Of a photograph's file.")] = MOST_MEGAPIXELS,
    warm_up: Annotated[
        bool, typer.Option("--warm-up/--no-warm-up", help="Make a video in each instance before it is ready.")
    ] = True,
    backend: Annotated[str, typer.Option(help=f"{', '.join(BACKENDS)}, or auto.")] = "auto",
    json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Write a model repository for NVIDIA's Triton Inference Server."""
    from vcut_serving.triton.repository import write_repository

    model = write_repository(
        bundle,
        output,
        name,
        copy=copy,
        on_gpu=None if device == "auto" else device == "gpu",
        instances=instances,
        backend=backend,
        backend_options=backend_options,
        most_megapixels=most_megapixels,
        warm_up=warm_up,
    )
    if json:
        print_json({"model": str(model)})
    elif not quiet:
        say(f"{model}: start it with tritonserver --model-repository={output.resolve()}")
