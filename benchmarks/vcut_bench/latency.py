"""Latency of a bundle, stage by stage, beside diffusers' step loop on the same device, eager and compiled.

    python -m vcut_bench.latency BUNDLE [--backend auto] [--repeats 5] [--peers] [--json FILE]

Every configuration runs in a process of its own, so that none finds its memory or threads taken, after one run that
does not count. Diffusers' UNet has the bundle's architecture, size and precision and random weights, which cost what
trained ones cost; timed are its 25 guided steps with guidance and scheduler, the loop that both of VCUT's stages stand
for. On a GPU the times are CUDA events' or end with a synchronisation.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from vcut_bench.machine import provenance, save
from vcut_runtime.manifest import Manifest

DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
CONFIGURATIONS = {
    "vcut": "vcut, cut at the bundle's step",
    "vcut never cut": "vcut, never cut",
    "diffusers": "diffusers, eager",
    "diffusers compiled": "diffusers, torch.compile",
}


def measure_vcut(bundle: Path, backend: str, repeats: int, never_cut: bool) -> dict[str, Any]:
    """Return seconds by stage of ``repeats`` videos, and what ran them."""
    from vcut_runtime import Pipeline

    pipeline = Pipeline.load(bundle, backend)
    image = np.random.default_rng(0).random((pipeline.manifest.height, pipeline.manifest.width, 3))
    options: dict[str, Any] = {"seed": 0, **({"cut_step": None} if never_cut else {})}
    first = pipeline(image, **options).timings
    start = time.perf_counter()
    videos = [pipeline(image, **options) for _ in range(repeats)]
    wall = (time.perf_counter() - start) / repeats
    stages = {stage: [video.timings.get(stage, 0.0) for video in videos] for stage in videos[0].timings}
    loops = [v.timings.get("semantic_binding", 0.0) + v.timings.get("quality_improvement", 0.0) for v in videos]
    return {
        "backend": pipeline.backend.name,
        "notes": pipeline.backend.notes,
        "first_video": dict(first),
        "stages": stages,
        "step_loop": loops,
        "video": wall,
        "peak_device_memory_bytes": videos[-1].peak_memory,
    }


def measure_diffusers(manifest: Manifest, repeats: int, compiled: bool) -> dict[str, Any]:
    """Return the seconds of diffusers' loop of guided steps over a UNet of the bundle's architecture."""
    import torch
    from diffusers import EulerDiscreteScheduler, UNetSpatioTemporalConditionModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype: torch.dtype = getattr(torch, DTYPES[manifest.precision])
    torch.manual_seed(0)
    configs = manifest.model.configs
    with torch.device(device):
        unet: Any = UNetSpatioTemporalConditionModel.from_config(configs["unet"])
    unet = unet.to(dtype).eval()
    call = torch.compile(unet, mode="max-autotune" if device == "cuda" else None) if compiled else unet
    scheduler: Any = EulerDiscreteScheduler.from_config(configs["scheduler"])
    channels, height, width = manifest.latent_shape
    cross = configs["unet"].get("cross_attention_dim", 1024)
    embedding = torch.randn(2, 1, cross if isinstance(cross, int) else cross[0], device=device, dtype=dtype)
    image = torch.randn(2, manifest.frames, channels, height, width, device=device, dtype=dtype)
    ids = torch.tensor([[6.0, 127.0, 0.02]] * 2, device=device, dtype=dtype)
    guidance = torch.linspace(manifest.guidance.min, manifest.guidance.max, manifest.frames, device=device, dtype=dtype)
    guidance = guidance.reshape(1, -1, 1, 1, 1)

    @torch.no_grad()
    def loop() -> float:
        scheduler.set_timesteps(manifest.steps, device=device)
        latents = torch.randn(1, manifest.frames, channels, height, width, device=device, dtype=dtype)
        latents = latents * scheduler.init_noise_sigma
        _synchronize(device)
        start = time.perf_counter()
        for step in scheduler.timesteps:
            both = scheduler.scale_model_input(torch.cat([latents] * 2), step)
            noise = call(torch.cat([both, image], dim=2), step, embedding, ids, return_dict=False)[0]
            unconditional, conditional = noise.chunk(2)
            noise = unconditional + guidance * (conditional - unconditional)
            latents = scheduler.step(noise, step, latents)[0]
        _synchronize(device)
        return time.perf_counter() - start

    first = loop()
    loops = [loop() for _ in range(repeats)]
    memory = torch.cuda.max_memory_reserved() if device == "cuda" else None
    return {"backend": f"torch {device}", "first_loop": first, "step_loop": loops, "peak_device_memory_bytes": memory}


def measure(bundle: Path, backend: str, repeats: int, peers: bool, show: Any) -> dict[str, Any]:
    """Run every configuration and return everything measured; one that cannot run says why."""
    from vcut_runtime import open_bundle

    manifest = open_bundle(bundle, hashes=False).manifest
    names = [name for name in CONFIGURATIONS if peers or name.startswith("vcut")]
    results: dict[str, Any] = {}
    for name in names:
        with show(name):
            command = [sys.executable, "-m", "vcut_bench.latency", str(bundle), "--backend", backend]
            done = subprocess.run(
                [*command, "--repeats", str(repeats), "--one", name], capture_output=True, text=True, check=False
            )
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            results[name] = {"skipped": lines[-1] if lines else f"exit code {done.returncode}"}
        else:
            results[name] = json.loads(done.stdout.splitlines()[-1])
            results[name]["median_step_loop"] = statistics.median(results[name]["step_loop"])
    ours = results["vcut"].get("median_step_loop")
    return {
        "benchmark": "latency",
        **provenance("vcut_bench.latency"),
        "device": _device(),
        "model": manifest.model.id + (", random weights" if manifest.model.random_weights else ""),
        "shape": {"frames": manifest.frames, "height": manifest.height, "width": manifest.width},
        "precision": manifest.precision,
        "steps": manifest.steps,
        "cut_step": manifest.cut_step,
        "repeats": repeats,
        "configurations": results,
        "speedup_over": {
            name: result["median_step_loop"] / ours
            for name, result in results.items()
            if ours and "median_step_loop" in result
        },
    }


def main(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    backend: Annotated[str, typer.Option(help="Of vcut; as vcut run takes it.")] = "auto",
    repeats: Annotated[int, typer.Option(min=1, help="Videos, or loops, per configuration.")] = 5,
    peers: Annotated[bool, typer.Option("--peers", help="Diffusers too.")] = False,
    output: Annotated[str | None, typer.Option("--json", help="Write the result here; - prints it.")] = None,
    one: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure how long a video takes."""
    from vcut_runtime import open_bundle
    from vcut_runtime.terminal import print_json, stages

    if one is not None:
        if one.startswith("vcut"):
            result = measure_vcut(bundle, backend, repeats, one == "vcut never cut")
        else:
            manifest = open_bundle(bundle, hashes=False).manifest
            result = measure_diffusers(manifest, repeats, one == "diffusers compiled")
        print(json.dumps(result))
        return
    with stages(quiet=False) as show:
        result = measure(bundle, backend, repeats, peers, show)
    table = Table("configuration", "step loop, median s", "vcut is faster by")
    for name, found in result["configurations"].items():
        if "skipped" in found:
            table.add_row(CONFIGURATIONS[name], "", found["skipped"])
        else:
            ratio = result["speedup_over"].get(name)
            table.add_row(CONFIGURATIONS[name], f"{found['median_step_loop']:.3f}", f"{ratio:.2f} x" if ratio else "")
    Console(stderr=True).print(table)
    if output == "-":
        print_json(result)
    elif output is not None:
        save(result, Path(output))


def _synchronize(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _device() -> str:
    from vcut_runtime import VcutError
    from vcut_runtime.cuda import Cuda

    try:
        cuda = Cuda()
    except VcutError:
        return str(provenance("")["device"])
    return f"{cuda.name}, compute capability {cuda.compute_capability}, driver for CUDA {cuda.driver}"


if __name__ == "__main__":
    from vcut_runtime.terminal import run_app

    _app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    _app.command()(main)
    run_app(_app, "vcut_bench.latency")
