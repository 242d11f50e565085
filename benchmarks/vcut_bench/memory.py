"""What a bundle takes: disk, host memory to export and to run it, and device memory; beside diffusers.

Sizes on disk and the engines' device memory are in the manifest, and the size of diffusers' weights follows from the
architecture, so a laptop can tell them for a full-size bundle too. Host memory is measured in processes of their own:
``vcut run`` and diffusers' pipeline, each a step of either stage (more steps take no more memory), and ``vcut-export``
of the same model. What cannot run here is listed with the reason. Diffusers loads a checkpoint of the bundle's
architecture and precision, with random weights unless one is given.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from vcut_bench import peak
from vcut_bench.compiled import same_options
from vcut_bench.export_cost import run_export
from vcut_bench.numbers import Numbers
from vcut_bench.provenance import about, provenance
from vcut_bench.reference import random_checkpoint
from vcut_bench.results import OUTPUT, deliver
from vcut_export.checkpoint import CONFIG_FILES, WEIGHTED
from vcut_runtime import open_bundle
from vcut_runtime.bundle.graph import share_stage
from vcut_runtime.bundle.manifest import EngineSet, Manifest, graph_files
from vcut_runtime.command_options import MOST_THREADS, check_numbers, merge, option, takes_options
from vcut_runtime.errors import UsageError
from vcut_runtime.terminal import JSON, QUIET, stages


@dataclass(frozen=True)
class MemoryOptions:
    """What is measured, and how."""

    backend: str = option("auto", "Backend of vcut; as vcut run takes it.")
    reference: Path | None = option(None, "The bundle's diffusers folder. [default: its architecture, random weights]")
    threads: int | None = option(None, "CPU threads of vcut run and diffusers.", least=1, most=MOST_THREADS)
    peers: bool = option(True, "Run diffusers too.", "--peers/--no-peers")
    build: bool = option(True, "Export the model again, without engines, to measure that.", "--build/--no-build")

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.reference is not None and not (self.reference / "unet").is_dir():
            raise UsageError(f"{self.reference} is not a diffusers folder: give the folder that holds unet/ and vae/")


def measure(bundle: str | Path, options: MemoryOptions | None = None, *, show: Any, **fields: Any) -> dict[str, Any]:
    """Return what the bundle at ``bundle`` takes, in bytes, ready for JSON.

    ``show`` is a function of a stage's name that returns a context manager.

    Raises:
        VcutError: there is no such bundle or checkpoint.
    """
    root = Path(bundle).absolute()
    manifest = open_bundle(root, hashes=False).manifest
    options = merge(MemoryOptions, options, fields)
    host: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="vcut-memory-") as name:
        folder = Path(name)
        _write_image(folder / "image.png", manifest)
        with show("vcut run"):
            host["vcut run"] = _run_vcut(root, manifest, folder, options)
        if "skipped" in host["vcut run"]:
            host["diffusers"] = {"skipped": "it is no smaller than what vcut cannot run here"}
        elif options.peers:
            with show("diffusers"):
                host["diffusers"] = _run_diffusers(manifest, folder, options)
        if options.build:
            with show("vcut export"):
                host["vcut export"] = _run_export(manifest, folder)
    with show("weights of the checkpoint"):
        weights = component_bytes(manifest)
    return {
        "benchmark": "memory",
        **provenance("vcut bench memory"),
        "bundle": root.name,
        **about(manifest),
        "disk": {
            "graphs": sum(file.bytes for file in graph_files(*manifest.graphs.values())),
            "weights": {name: entry.bytes for name, entry in manifest.weights.items()},
            "engines": {target: sum(e.bytes for e in s.engines.values()) for target, s in manifest.engines.items()},
            "checkpoint": weights,
            "checkpoint_is": f"{manifest.precision}, from the architecture",
        },
        "host": host,
        "device_memory": {
            "engines": {target: device_bytes(engines) for target, engines in manifest.engines.items()},
            "diffusers_weights": sum(weights.values()),
        },
    }


def device_bytes(engine_set: EngineSet) -> dict[str, Any]:
    """Return the device memory of a run with these engines, as their builder reports it.

    All engines share one activation memory, whose size is the largest one's. ``low_memory`` holds the weights of one
    stage at a time, of a step and of its shallow step.
    """
    activations = {name: engine.activation_bytes for name, engine in engine_set.engines.items()}
    weights = {name: engine.weight_bytes for name, engine in engine_set.engines.items()}

    def stage(graph: str) -> int:
        together = [name for name in weights if share_stage(name, graph)]
        return max(activations[name] for name in together) + sum(weights[name] for name in together)

    return {
        "activations": activations,
        "weights": weights,
        "all": max(activations.values(), default=0) + sum(weights.values()),
        "low_memory": max(map(stage, weights), default=0),
    }


def component_bytes(manifest: Manifest) -> dict[str, int]:
    """Return the size of each component's weights in the bundle's precision, from its architecture alone."""
    from vcut_export.checkpoint.weights import empty, torch_dtype
    from vcut_export.libraries import quiet_libraries

    with quiet_libraries():
        models = {name: empty(random_checkpoint(manifest), name) for name in WEIGHTED}
    width = torch_dtype(manifest.precision).itemsize
    return {name: width * sum(p.numel() for p in model.parameters()) for name, model in models.items()}


def numbers(result: Mapping[str, Any]) -> list[Numbers]:
    """Return what lies on disk, the host memory of each process, and the device memory."""
    host = [
        [name, size(row["peak_bytes"]) if "peak_bytes" in row else "", row.get("skipped", "")]
        for name, row in result["host"].items()
    ]
    return [
        Numbers("Disk", ["", "size", "remark"], _disk_rows(result["disk"])),
        Numbers("Host memory", ["", "peak", "remark"], host, "The largest process of each command."),
        Numbers("Device memory", ["", "size", "remark"], _device_rows(result), "Engines: as their builder reports it."),
    ]


def size(count: float) -> str:
    """Return bytes with a decimal unit."""
    for unit, factor, digits in (("GB", 1e9, 2), ("MB", 1e6, 1)):
        if count >= factor:
            return f"{count / factor:.{digits}f} {unit}"
    return f"{count / 1e3:.1f} kB"


@takes_options
def memory_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", show_default=False)],
    options: MemoryOptions,
    output: Annotated[Path | None, OUTPUT] = None,
    json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Measure what a bundle takes of disk, host and device, beside diffusers."""
    with stages(quiet or json) as show:
        result = measure(bundle, options, show=show)
    deliver(result, output, json)


def _disk_rows(disk: Mapping[str, Any]) -> list[list[str]]:
    rows = [["graphs", size(disk["graphs"]), ""]]
    rows += [[name, size(count), ""] for name, count in disk["weights"].items()]
    rows += [[f"engines {target}", size(count), "with their own weights"] for target, count in disk["engines"].items()]
    whole = disk["graphs"] + sum(disk["weights"].values()) + sum(disk["engines"].values())
    rows.append(["bundle", size(whole), ""])
    rows.append(["diffusers' checkpoint", size(sum(disk["checkpoint"].values())), disk["checkpoint_is"]])
    return rows


def _device_rows(result: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for target, engines in result["device_memory"]["engines"].items():
        for name, weights in engines["weights"].items():
            activations = engines["activations"][name]
            parts = f"activations {size(activations)}, weights {size(weights)}"
            rows.append([f"{target} {name}", size(activations + weights), parts])
        rows.append([f"{target}, all engines", size(engines["all"]), "weights and the largest activations"])
        rows.append([f"{target}, --low-memory", size(engines["low_memory"]), "one stage's weights at a time"])
    rows.append(["diffusers, weights alone", size(result["device_memory"]["diffusers_weights"]), result["precision"]])
    measured = {name: row["device_bytes"] for name, row in result["host"].items() if row.get("device_bytes")}
    return rows + [[name, size(count), "measured peak"] for name, count in measured.items()]


def _run_vcut(root: Path, manifest: Manifest, folder: Path, options: MemoryOptions) -> dict[str, Any]:
    """Run the bundle for two steps, one of either stage; with shallow steps for four."""
    deep = ["--steps=4", "--cut-step=3", "--cache-interval=2"]
    words = [*(deep if manifest.deep_features else ["--steps=2", "--cut-step=2"]), f"--backend={options.backend}"]
    words += [f"--threads={options.threads}"] if options.threads else []
    paths = [str(root), "image.png", "--output=frames"]
    run = peak.run([sys.executable, "-m", "vcut_runtime", "run", *paths, *words, "--seed=0", "--json"], folder=folder)
    if "stdout" in run:
        facts = json.loads(run.pop("stdout"))
        run["backend"], run["device_bytes"] = facts["backend"], facts["videos"][0]["peak_device_memory_bytes"]
    return run


def _run_diffusers(manifest: Manifest, folder: Path, options: MemoryOptions) -> dict[str, Any]:
    """Make a video of two steps with diffusers' own pipeline."""
    from vcut_export import save_checkpoint
    from vcut_export.libraries import quiet_libraries

    checkpoint = options.reference
    if checkpoint is None:
        checkpoint = folder / "checkpoint"
        with quiet_libraries():
            save_checkpoint(random_checkpoint(manifest), checkpoint, manifest.precision)
    sizes = {"height": manifest.height, "width": manifest.width, "num_frames": manifest.frames}
    words = [str(checkpoint.absolute()), "image.png", manifest.precision, json.dumps(sizes)]
    environment = {"OMP_NUM_THREADS": str(options.threads)} if options.threads else {}
    run = peak.run([sys.executable, "-m", "vcut_bench.memory", *words], folder=folder, environment=environment)
    return {**run, **json.loads(run.pop("stdout").splitlines()[-1])} if "stdout" in run else run


def _diffusers_main(checkpoint: str, image: str, precision: Any, sizes: str) -> dict[str, Any]:
    """Make diffusers' video and return its peak device memory. This runs in a process of its own."""
    import torch
    from diffusers import StableVideoDiffusionPipeline
    from PIL import Image

    from vcut_export.checkpoint.weights import torch_dtype
    from vcut_export.libraries import quiet_libraries

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind: Any = StableVideoDiffusionPipeline
    with quiet_libraries():
        pipeline = kind.from_pretrained(checkpoint, torch_dtype=torch_dtype(precision), use_safetensors=True)
        pipeline.to(device)
        pipeline.set_progress_bar_config(disable=True)
        pipeline(Image.open(image), **json.loads(sizes), num_inference_steps=2)
    reserved = torch.cuda.max_memory_reserved() if device == "cuda" else None
    return {"backend": f"torch {device}", "device_bytes": reserved}


def _run_export(manifest: Manifest, folder: Path) -> dict[str, Any]:
    """Export the bundle's architecture with random weights, at its usual sizes."""
    for component, file in CONFIG_FILES.items():
        (folder / "model" / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "model" / file).write_text(json.dumps(manifest.model.configs[component]))
    options = same_options(manifest)
    words = ["--model=model", "--random-weights", "--engines=none"]
    words += ["--deep-cache"] if options.pop("deep_cache") else []
    words += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    run = run_export(words, folder)
    return {key: run[key] for key in ("skipped", "peak_bytes", "seconds") if key in run}


def _write_image(path: Path, manifest: Manifest) -> None:
    from PIL import Image

    red, green = np.meshgrid(np.linspace(0, 255, manifest.width), np.linspace(0, 255, manifest.height))
    Image.fromarray(np.stack([red, green, (red + green) / 2], axis=-1).astype(np.uint8)).save(path)


if __name__ == "__main__":
    print(json.dumps(_diffusers_main(*sys.argv[1:])))
