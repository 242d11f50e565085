"""The ``vcut`` command: ``run`` and ``inspect`` live here, other rooms add theirs as ``vcut.commands`` entry points."""

from __future__ import annotations

import secrets
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from vcut_runtime.errors import UsageError
from vcut_runtime.schedule import QualityBias
from vcut_runtime.terminal import JSON, QUIET, print_json, progress_bars, run_app, stderr, stdout

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
def run(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", show_default=False)],
    images: Annotated[list[Path], typer.Argument(help="One or more photographs.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="An .mp4, .gif or .webp file, or a folder for PNG frames. Of several images each gets a number.",
        ),
    ] = Path("out.mp4"),
    height: Annotated[int | None, typer.Option(help="Pixels. [default: the bundle's]")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels. [default: the bundle's]")] = None,
    num_frames: Annotated[
        int | None, typer.Option("--num-frames", "--frames", help="Frames of the video. [default: the bundle's]")
    ] = None,
    num_inference_steps: Annotated[
        int | None, typer.Option("--num-inference-steps", "--steps", help="Denoising steps. [default: the bundle's]")
    ] = None,
    cut_step: Annotated[
        str | None,
        typer.Option(help="First step of the quality improvement stage, or none. [default: the bundle's]"),
    ] = None,
    cache_interval: Annotated[
        int,
        typer.Option(
            min=1,
            help="Compute the deep layers in every so many steps only; wants a bundle exported with --deep-cache.",
        ),
    ] = 1,
    quality_bias: Annotated[
        str, typer.Option(help="Bias of the quality improvement stage: mean (the paper's Eq. 4) or cond.")
    ] = "mean",
    min_guidance_scale: Annotated[
        float | None, typer.Option(help="Guidance of the first frame. [default: the bundle's]")
    ] = None,
    max_guidance_scale: Annotated[
        float | None, typer.Option(help="Guidance of the last frame. [default: the bundle's]")
    ] = None,
    fps: Annotated[int, typer.Option(help="Frames per second.")] = 7,
    motion_bucket_id: Annotated[float, typer.Option(help="How much motion, about 1 to 255.")] = 127,
    noise_aug_strength: Annotated[float, typer.Option(help="Noise added to the photograph.")] = 0.02,
    seed: Annotated[int | None, typer.Option(help="Seed; image i gets seed + i. [default: random]")] = None,
    decode_chunk: Annotated[int | None, typer.Option(help="Frames decoded at a time. [default: the bundle's]")] = None,
    decode_overlap: Annotated[
        int | None,
        typer.Option(help="Frames decoded beside each chunk for context and not kept. [default: the bundle's]"),
    ] = None,
    fit: Annotated[
        str, typer.Option(help="Fit an image of another shape: stretch (as diffusers) or crop.")
    ] = "stretch",
    backend: Annotated[
        str,
        typer.Option(help="tensorrt, tensorrt-rtx, onnxruntime-cuda, onnxruntime-cpu; auto is the first that can."),
    ] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    low_memory: Annotated[
        bool | None,
        typer.Option(
            "--low-memory/--no-low-memory",
            help="Keep one stage's weights at a time on the GPU. [default: where not all fit]",
        ),
    ] = None,
    cuda_graphs: Annotated[
        bool, typer.Option("--cuda-graphs/--no-cuda-graphs", help="Launch each step as one captured CUDA graph.")
    ] = True,
    json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Turn photographs into videos."""
    from vcut_runtime.pipeline import BUNDLE_DEFAULT, Pipeline
    from vcut_runtime.video import check_output

    outputs = _outputs(output, len(images))
    for path in outputs:
        check_output(path)
    for image in images:
        if not image.is_file():
            raise UsageError(f"no image at {image}: check the path")
    if quality_bias not in ("mean", "cond"):
        raise UsageError(f"unknown --quality-bias {quality_bias!r}: choose mean or cond")
    bias: QualityBias = "cond" if quality_bias == "cond" else "mean"
    if fit not in ("stretch", "crop"):
        raise UsageError(f"unknown --fit {fit!r}: choose stretch or crop")
    cut = BUNDLE_DEFAULT if cut_step is None else parse_cut_step(cut_step)
    # It reads every file that will run: after what a look can refuse.
    pipeline = Pipeline.load(bundle, backend, threads=threads, low_memory=low_memory, cuda_graphs=cuda_graphs)
    first = secrets.randbelow(2**31) if seed is None else seed
    results: list[dict[str, Any]] = []
    for i, (image, path) in enumerate(zip(images, outputs, strict=True)):  # each is saved before the next begins
        with progress_bars(quiet or json) as progress:
            video = pipeline(
                image,
                height=height,
                width=width,
                num_frames=num_frames,
                num_inference_steps=num_inference_steps,
                cut_step=cut,
                cache_interval=cache_interval,
                quality_bias=bias,
                min_guidance_scale=min_guidance_scale,
                max_guidance_scale=max_guidance_scale,
                fps=fps,
                motion_bucket_id=motion_bucket_id,
                noise_aug_strength=noise_aug_strength,
                seed=first + i,
                decode_chunk=decode_chunk,
                decode_overlap=decode_overlap,
                fit=fit,
                progress=progress,
            )
        video.save(path)
        seconds = {stage: round(value, 3) for stage, value in video.timings.items()}
        results.append(
            {
                "image": str(image),
                "output": str(path),
                "seed": video.seed,
                "seconds": seconds,
                "peak_device_memory_bytes": video.peak_memory,
            }
        )
        if not quiet and not json:
            times = ", ".join(f"{stage.replace('_', ' ')} {value:.1f} s" for stage, value in video.timings.items())
            memory = f", {video.peak_memory / 1e9:.1f} GB of GPU memory" if video.peak_memory else ""
            stderr.print(
                f"[bold]{escape(str(path))}[/bold]  seed {video.seed}, {pipeline.backend.name}: {times}{memory}",
                soft_wrap=True,
            )
    if json:
        print_json({"backend": pipeline.backend.name, "notes": pipeline.backend.notes, "videos": results})
    elif not quiet:
        for note in pipeline.backend.notes:
            stderr.print(f"[dim]{escape(note)}[/dim]", soft_wrap=True)


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


def parse_cut_step(text: str) -> int | None:
    """Return a ``--cut-step`` as a number, None for ``none``.

    Raises:
        UsageError: it is neither.
    """
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--cut-step {text!r} is no number: give a step, or none to guide every step") from None


def main() -> None:
    """Run ``vcut``."""
    for entry in sorted(entry_points(group="vcut.commands"), key=lambda found: found.name):
        command = entry.load()
        if isinstance(command, typer.Typer):  # a group of commands
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)
    run_app(app, "vcut")


def _outputs(output: Path, count: int) -> list[Path]:
    """One path per image: ``out.mp4``, or ``out-1.mp4``, ``out-2.mp4`` ... for several."""
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{i}{output.suffix}") for i in range(1, count + 1)]
