"""The ``vcut`` command.

``run`` and ``inspect`` live here. Other packages add their commands as ``vcut.commands`` entry points.
"""

from __future__ import annotations

import secrets
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from vcut_runtime.backends import BACKENDS
from vcut_runtime.command_options import takes_options
from vcut_runtime.errors import UsageError
from vcut_runtime.image_files import check_file
from vcut_runtime.image_sources import refuse_url
from vcut_runtime.images import open_image
from vcut_runtime.options import BackendOptions, RunOptions
from vcut_runtime.pipeline import Pipeline
from vcut_runtime.terminal import JSON, QUIET, duration, print_json, progress_bars, run_app, say, stdout
from vcut_runtime.video import QUALITY, check_output, check_quality

app = typer.Typer(
    name="vcut",
    help="Compile Stable Video Diffusion with VCUT, and run what was compiled.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from vcut_runtime import __version__

        stdout.print(f"vcut {__version__}")
        raise typer.Exit


@app.command()
@takes_options
def run(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", show_default=False)],
    images: Annotated[list[Path], typer.Argument(help="One or more photographs.", show_default=False)],
    options: RunOptions,
    backend_options: BackendOptions,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="An .mp4, .gif or .webp file, or a folder for PNG frames. Of several images each gets a number.",
        ),
    ] = Path("out.mp4"),
    backend: Annotated[
        str,
        typer.Option(help=f"{', '.join(BACKENDS)}, or auto: the first of these that can run the bundle here."),
    ] = "auto",
    quality: Annotated[int, typer.Option(help="Of an MP4 or WebP, 1 to 100, where the file is largest.")] = QUALITY,
    json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Turn photographs into videos."""
    outputs = _outputs(output, len(images))
    check_quality(quality)
    for path in outputs:
        check_output(path)
    for image in images:
        refuse_url(image)
        check_file(image)
        if any(path.exists() and path.samefile(image) for path in outputs):
            raise UsageError(f"{image} would be replaced by its video: choose another --output")
    pipeline = Pipeline.load(bundle, backend, backend_options)  # hashes every file, so cheap checks come first
    if not (quiet or json) and (seconds := pipeline.estimate_seconds(options)) > 60:
        each = " each" if len(images) > 1 else ""
        say(f"{pipeline.backend.name}: the steps take roughly {duration(seconds)}{each}")
    first = secrets.randbelow(2**31) if options.seed is None else options.seed
    results: list[dict[str, Any]] = []
    for i, (image, path) in enumerate(zip(images, outputs, strict=True)):  # each is saved before the next begins
        photo = open_image(image)
        if not quiet and not json:
            for note in pipeline.notes(photo, options):  # before minutes of work
                say(f"{image.name}: {note}")
        with progress_bars(quiet or json) as progress:
            video = pipeline(photo, options, seed=first + i, progress=progress)
        video.save(path, quality=quality)
        seconds = {stage: round(value, 3) for stage, value in video.timings.items()}
        results.append(
            {
                "image": str(image),
                "output": str(path),
                "seed": video.seed,
                "seconds": seconds,
                "peak_device_memory_bytes": video.peak_memory,
                "height": video.frames.shape[1],
                "width": video.frames.shape[2],
                "notes": list(video.notes),
            }
        )
        if not quiet and not json:
            times = ", ".join(f"{stage.replace('_', ' ')} {value:.1f} s" for stage, value in video.timings.items())
            memory = f", {video.peak_memory / 1e9:.1f} GB of GPU memory" if video.peak_memory else ""
            say((str(path), "bold"), f"  seed {video.seed}, {pipeline.backend.name}: {times}{memory}")
    if json:
        print_json({"backend": pipeline.backend.name, "notes": pipeline.backend.notes, "videos": results})
    elif not quiet:
        for note in pipeline.backend.notes:
            say((note, "dim"))


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", show_default=False)],
    hashes: Annotated[bool, typer.Option(help="Read every file and compare it with its sha256.")] = True,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Check a bundle and show what is in it and what can run it here."""
    from vcut_runtime.inspect import describe, render

    description = describe(bundle, hashes=hashes)
    if json:
        print_json(description)
    else:
        for part in render(description):
            stdout.print(part)


def main() -> None:
    """Run ``vcut``."""
    for entry in sorted(entry_points(group="vcut.commands"), key=lambda entry: entry.name):
        command = entry.load()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)
    run_app(app, "vcut")


def _outputs(output: Path, count: int) -> list[Path]:
    """One path per image: ``out.mp4``, or ``out-1.mp4``, ``out-2.mp4`` ... for several."""
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{i}{output.suffix}") for i in range(1, count + 1)]
