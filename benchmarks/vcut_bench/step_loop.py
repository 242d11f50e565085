"""The step loop of svd-tiny, VCUT on ONNX Runtime beside diffusers' 25 guided steps, on the CPU.

    python -m vcut_bench.step_loop [--repeats 5] [--height 64 --width 96] [--json results/...]

Both sides load the same checkpoint (random weights: they cost the same as trained ones). Each side runs in a process
of its own, so that neither's thread pool spins beside the other's, and the two take turns within one run. Timed is the
loop alone: without loading, conditioning and decoding, after a warm-up. Each turn counts the fastest of three loops,
which is the one that other programs on the machine disturbed least.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from vcut_bench.machine import provenance, save

STEPS, CUT_STEP = 25, 17
LOOPS = 3  # per turn; the fastest counts
CONFIGURATIONS = {
    "diffusers": "diffusers, eager, 25 guided steps",
    "vcut never cut": "vcut, never cut: 25 guided steps",
    "vcut": f"vcut, c={CUT_STEP}: 16 guided + 9 conditional steps",
}


def measure_diffusers(checkpoint: Path, image: np.ndarray, frames: int) -> float:
    """Return the seconds from the first UNet call to the last scheduler step of diffusers' own pipeline."""
    from diffusers import StableVideoDiffusionPipeline
    from PIL import Image

    pipeline = StableVideoDiffusionPipeline.from_pretrained(checkpoint, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    started: list[float] = []
    pipeline.unet.register_forward_pre_hook(lambda *_: started.append(time.perf_counter()))

    def loop(steps: int) -> float:
        started.clear()
        photo = Image.fromarray(image)
        size = {"height": image.shape[0], "width": image.shape[1], "num_frames": frames}
        pipeline(photo, **size, num_inference_steps=steps, output_type="latent")
        return time.perf_counter() - started[0]

    loop(2)
    return min(loop(STEPS) for _ in range(LOOPS))


def measure_vcut(bundle: Path, image: np.ndarray, cut_step: int | None) -> float:
    """Return the seconds of both stages of the compiled pipeline."""
    from vcut_runtime import Pipeline

    pipeline = Pipeline.load(bundle, "onnxruntime-cpu")
    pipeline(image, num_inference_steps=2, cut_step=2, seed=0)

    def loop() -> float:
        timings = pipeline(image, num_inference_steps=STEPS, cut_step=cut_step, seed=0).timings
        return timings.get("semantic_binding", 0.0) + timings.get("quality_improvement", 0.0)

    return min(loop() for _ in range(LOOPS))


def measure(repeats: int, height: int | None, width: int | None, show: Any) -> dict[str, Any]:
    """Compile svd-tiny, let the configurations take turns ``repeats`` times, and return everything measured."""
    from vcut_export import export, resolve, save_checkpoint
    from vcut_export.build import quiet_libraries

    seconds: dict[str, list[float]] = {name: [] for name in CONFIGURATIONS}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, bundle = Path(folder) / "svd-tiny", Path(folder) / "bundle"
        with show("compile svd-tiny"), quiet_libraries():
            save_checkpoint(resolve("svd-tiny", random_weights=True), checkpoint)
            options: dict[str, Any] = {"height": height, "width": width}
            manifest = export(str(checkpoint), bundle, precision="fp32", steps=STEPS, **options).manifest
        for turn in range(repeats):
            for name in CONFIGURATIONS:
                with show(f"{name}, {turn + 1} of {repeats}"):
                    command = [sys.executable, "-m", "vcut_bench.step_loop", "--one", name, folder]
                    done = subprocess.run(command, capture_output=True, text=True, check=False)
                    if done.returncode:
                        raise RuntimeError(f"{name} failed: {done.stderr.strip()}")
                    seconds[name].append(json.loads(done.stdout.splitlines()[-1])["seconds"])
    # Each turn compares neighbours in time: what slows the machine for a while slows both.
    ratios = {
        name: [a / b for a, b in zip(seconds["diffusers"], seconds[name], strict=True)] for name in CONFIGURATIONS
    }
    return {
        "benchmark": "step_loop",
        **provenance("vcut_bench.step_loop"),
        "model": "svd-tiny, random weights",
        "loops_per_turn": LOOPS,
        "shape": {"frames": manifest.frames, "height": manifest.height, "width": manifest.width},
        "precision": manifest.precision,
        "steps": STEPS,
        "cut_step": CUT_STEP,
        "seconds": seconds,
        "median_seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "speedup_over_diffusers": {name: statistics.median(values) for name, values in ratios.items()},
        "speedup_range": {name: [min(values), max(values)] for name, values in ratios.items()},
    }


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Turns per configuration.")] = 5,
    height: Annotated[int | None, typer.Option(help="Pixels. [default: 64]")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels. [default: 96]")] = None,
    output: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
    one: Annotated[tuple[str, Path] | None, typer.Option(hidden=True)] = None,
) -> None:
    """Time the step loop of svd-tiny against diffusers."""
    if one is not None:
        print(json.dumps({"seconds": _one(*one)}))
        return
    from vcut_runtime.terminal import stages

    with stages(quiet=False) as show:
        result = measure(repeats, height, width, show)
    table = Table("configuration", "median s", "speed-up", "range")
    for name, words in CONFIGURATIONS.items():
        low, high = result["speedup_range"][name]
        median, speedup = result["median_seconds"][name], result["speedup_over_diffusers"][name]
        table.add_row(words, f"{median:.2f}", f"{speedup:.2f}", f"{low:.2f} to {high:.2f}")
    Console().print(table)
    if output is not None:
        save(result, output)


def _one(name: str, folder: Path) -> float:
    from skimage import data

    from vcut_runtime import open_bundle

    manifest = open_bundle(folder / "bundle", hashes=False).manifest
    image = data.astronaut()[: manifest.height, : manifest.width]
    if name == "diffusers":
        return measure_diffusers(folder / "svd-tiny", image, manifest.frames)
    return measure_vcut(folder / "bundle", image, CUT_STEP if name == "vcut" else None)


if __name__ == "__main__":
    typer.run(main)
