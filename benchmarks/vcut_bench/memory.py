"""What a bundle takes: of the disk, of the host's memory to build and run, of the device's; beside diffusers.

Sizes on disk and the engines' device memory are read from the manifest, and diffusers' weights follow from the
architecture, so they are there for a full-size bundle on a laptop too. The rest is measured in processes of their own:
``vcut run`` and diffusers' pipeline, each two steps (one of either stage; more steps take no more memory), and
``vcut export`` of the same model. What cannot run here is listed with the reason. Diffusers loads a checkpoint of the
bundle's architecture and precision, with random weights unless one is given.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vcut_bench import peak
from vcut_bench.numbers import Numbers
from vcut_bench.provenance import about, provenance
from vcut_runtime import VcutError, open_bundle
from vcut_runtime.errors import UsageError
from vcut_runtime.graphs import take_turns
from vcut_runtime.manifest import EngineSet, Manifest

_WIDTH = {"fp16": 2, "bf16": 2, "fp32": 4}  # bytes


def measure(
    bundle: str | Path,
    *,
    backend: str = "auto",
    reference: str | Path | None = None,
    threads: int | None = None,
    peers: bool = True,
    build: bool = True,
    show: Any,
) -> dict[str, Any]:
    """Return what the bundle at ``bundle`` takes, in bytes, ready for JSON.

    Args:
        bundle: its folder.
        backend: that runs it, as ``vcut run`` takes it.
        reference: diffusers folder of the same model for its size on disk and for diffusers; random weights if None.
        threads: of the CPU, for ``vcut run`` and diffusers.
        peers: run diffusers too.
        build: export the model again, without engines, into a temporary folder.
        show: a function of a stage's name that returns a context manager.

    Raises:
        VcutError: there is no such bundle or checkpoint.
    """
    root = Path(bundle)
    manifest = open_bundle(root, hashes=False).manifest
    if reference is not None and not (Path(reference) / "unet").is_dir():
        raise UsageError(f"{reference} is no diffusers folder: give the folder that holds unet/ and vae/")
    host: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="vcut-memory-") as name:
        folder = Path(name)
        _write_image(folder / "image.png", manifest)
        with show("vcut run"):
            host["vcut run"] = _vcut(root, folder / "image.png", backend, threads)
        if peers and "skipped" in host["vcut run"] and not _has_gpu():
            host["diffusers"] = {"skipped": "it is no smaller than what vcut cannot run here, and there is no GPU"}
        elif peers:
            with show("diffusers"):
                given = _random_checkpoint(manifest, folder) if reference is None else Path(reference)
                host["diffusers"] = _diffusers(root, folder / "image.png", given, threads)
        if build:
            with show("vcut export"):
                host["vcut export"] = _export(manifest, folder)
    with show("weights of the checkpoint"):
        parameters = component_parameters(manifest)
    width = _WIDTH[manifest.precision]
    weights = {component: count * width for component, count in parameters.items()}
    return {
        "benchmark": "memory",
        **provenance("vcut bench memory"),
        "bundle": root.name,
        **about(manifest),
        "disk": {
            "graphs": sum(graph.bytes for graph in manifest.graphs.values()),
            "weights": {name: entry.bytes for name, entry in manifest.weights.items()},
            "engines": {target: sum(e.bytes for e in found.engines.values()) for target, found in _engines(manifest)},
            "checkpoint": weights if reference is None else _files(Path(reference)),
            "checkpoint_is": f"{manifest.precision}, from the architecture" if reference is None else "its files",
        },
        "host": host,
        "device_memory": {
            "engines": {target: device_bytes(found) for target, found in _engines(manifest)},
            "diffusers_weights": sum(weights.values()),
        },
    }


def device_bytes(engines: EngineSet) -> dict[str, Any]:
    """Return the device memory of a run with ``engines``, as their builder reports it.

    All engines share one activation memory, as large as the hungriest one's. ``low_memory`` holds one stage's weights
    at a time, of a step and of its shallow step.
    """
    found = engines.engines
    activations = {name: engine.activation_bytes for name, engine in found.items()}
    weights = {name: engine.weight_bytes for name, engine in found.items()}
    shared = max(activations.values(), default=0)

    def stage(graph: str) -> int:
        together = [name for name in found if name == graph or take_turns(name, graph)]
        return max(activations[name] for name in together) + sum(weights[name] for name in together)

    return {
        "activations": activations,
        "weights": weights,
        "all": shared + sum(weights.values()),
        "low_memory": max(map(stage, found), default=0),
    }


def component_parameters(manifest: Manifest) -> dict[str, int]:
    """Return how many parameters each component of the bundle's checkpoint has, without making them."""
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionModelWithProjection

    from vcut_export.build import quiet_libraries
    from vcut_export.weights import empty

    kinds = {
        "unet": UNetSpatioTemporalConditionModel,
        "vae": AutoencoderKLTemporalDecoder,
        "image_encoder": CLIPVisionModelWithProjection,
    }
    with quiet_libraries(), tempfile.TemporaryDirectory() as folder:
        checkpoint = _architecture(manifest, Path(folder))
        models = {name: empty(checkpoint, name, kind) for name, kind in kinds.items()}
    return {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}


def numbers(result: Mapping[str, Any]) -> list[Numbers]:
    """Return what lies on disk, the host memory of each process, and the device memory."""
    host = [
        [name, size(row["peak_bytes"]) if "peak_bytes" in row else "", row.get("skipped", "")]
        for name, row in result["host"].items()
    ]
    return [
        Numbers("Disk", ["", "size", "remark"], _disk_rows(result)),
        Numbers("Host memory", ["", "peak", "remark"], host, "The largest process of each command."),
        Numbers("Device memory", ["", "size", "remark"], _device_rows(result), "Engines: as their builder reports it."),
    ]


def _disk_rows(result: Mapping[str, Any]) -> list[list[str]]:
    disk = result["disk"]
    engines = disk["engines"]
    rows = [["graphs", size(disk["graphs"]), ""]]
    rows += [[name, size(count), ""] for name, count in disk["weights"].items()]
    rows += [[f"engines {target}", size(count), "with their own weights"] for target, count in engines.items()]
    whole = disk["graphs"] + sum(disk["weights"].values()) + sum(engines.values())
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
    for name, row in result["host"].items():
        if row.get("device_bytes"):
            rows.append([name, size(row["device_bytes"]), "measured peak"])
    return rows


def size(count: float) -> str:
    """Return bytes with a decimal unit."""
    for unit, factor, digits in (("GB", 1e9, 2), ("MB", 1e6, 1)):
        if count >= factor:
            return f"{count / factor:.{digits}f} {unit}"
    return f"{count / 1e3:.1f} kB"


def _vcut(root: Path, image: Path, backend: str, threads: int | None) -> dict[str, Any]:
    """Run the bundle for two steps, one of either stage; with shallow steps for four."""
    command = [
        sys.executable,
        "-m",
        "vcut_runtime",
        "run",
        str(root),
        str(image),
        "--output",
        f"{image.parent / 'frames'}",
    ]
    deep = open_bundle(root, hashes=False).manifest.deep_features
    steps = ["--steps=4", "--cut-step=3", "--cache-interval=2"] if deep else ["--steps=2", "--cut-step=2"]
    command += ["--backend", backend, *steps, "--seed=0", "--json"]
    command += [f"--threads={threads}"] if threads else []
    found = peak.run(command)
    if "stdout" in found:
        said = json.loads(found.pop("stdout"))
        found["backend"] = said["backend"]
        found["device_bytes"] = said["videos"][0]["peak_device_memory_bytes"]
    return found


def _diffusers(root: Path, image: Path, checkpoint: Path, threads: int | None) -> dict[str, Any]:
    """Run diffusers' pipeline on ``checkpoint`` for as many."""
    command = [sys.executable, "-m", "vcut_bench.memory", str(root), str(checkpoint), str(image)]
    found = peak.run(command, {"OMP_NUM_THREADS": str(threads)} if threads else {})
    return {**found, **json.loads(found.pop("stdout").splitlines()[-1])} if "stdout" in found else found


def _export(manifest: Manifest, folder: Path) -> dict[str, Any]:
    """Compile the bundle's architecture with random weights, in a process of its own."""
    options = [f"--{name}={getattr(manifest, name)}" for name in ("height", "width", "frames", "precision", "tca")]
    if manifest.deep_features:
        options.append("--deep-cache")
    if manifest.dynamic:
        ranges = ",".join(f"{name}={found.min}:{found.max}" for name, found in manifest.dynamic.items())
        options.append(f"--dynamic={ranges}")
    source = _architecture_folder(manifest, folder / "architecture")
    script = "from vcut_export.cli import main; main()"
    command = [sys.executable, "-c", script, f"--model={source}", "--random-weights", "--engines=none", "--quiet"]
    found = peak.run([*command, f"--output={folder / 'bundle'}", *options])
    found.pop("stdout", None)
    return found


def _random_checkpoint(manifest: Manifest, folder: Path) -> Path:
    """Write a checkpoint of the bundle's architecture, in another process: it takes memory of its own."""
    source = _architecture_folder(manifest, folder / "architecture")
    target = folder / "checkpoint"
    script = (
        "import sys; from pathlib import Path; from vcut_export import resolve, save_checkpoint;"
        "save_checkpoint(resolve(sys.argv[1], random_weights=True), Path(sys.argv[2]), sys.argv[3])"
    )
    done = peak.run([sys.executable, "-c", script, str(source), str(target), manifest.precision])
    if "skipped" in done:
        raise VcutError(f"cannot write a checkpoint to compare with: {done['skipped']}")
    return target


def _run_diffusers(bundle: Path, checkpoint: Path, image: Path) -> dict[str, Any]:
    """Make a video of two steps with diffusers' own pipeline; runs in a process of its own."""
    import torch
    from diffusers import StableVideoDiffusionPipeline
    from PIL import Image

    from vcut_export.build import DTYPES, quiet_libraries

    manifest = open_bundle(bundle, hashes=False, engines=False).manifest
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = {"height": manifest.height, "width": manifest.width, "num_frames": manifest.frames}
    with quiet_libraries():
        pipeline: Any = StableVideoDiffusionPipeline.from_pretrained(
            checkpoint, torch_dtype=DTYPES[manifest.precision], use_safetensors=True
        )
        pipeline.to(device)
        pipeline.set_progress_bar_config(disable=True)
        pipeline(Image.open(image), **sizes, num_inference_steps=2)
    reserved = torch.cuda.max_memory_reserved() if device == "cuda" else None
    return {"backend": f"torch {device}", "device_bytes": reserved}


def _architecture(manifest: Manifest, folder: Path) -> Any:
    from vcut_export import resolve

    return resolve(str(_architecture_folder(manifest, folder)), random_weights=True)


def _architecture_folder(manifest: Manifest, folder: Path) -> Path:
    """Write the manifest's configurations as a diffusers folder without weights."""
    from vcut_export.checkpoint import CONFIG_FILES

    for component, file in CONFIG_FILES.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps(manifest.model.configs[component]))
    return folder


def _write_image(path: Path, manifest: Manifest) -> None:
    from PIL import Image

    rows, columns = np.linspace(0, 255, manifest.height), np.linspace(0, 255, manifest.width)
    red, green = np.meshgrid(columns, rows)
    Image.fromarray(np.stack([red, green, (red + green) / 2], axis=-1).astype(np.uint8)).save(path)


def _files(folder: Path) -> dict[str, int]:
    """Return the size of each component's weights, one variant of them: diffusers prefers fp16's, and reads one."""
    sizes = {}
    for component in ("unet", "vae", "image_encoder"):
        files = list((folder / component).glob("*.safetensors"))
        half = [file for file in files if ".fp16" in file.name]
        sizes[component] = sum(file.stat().st_size for file in half or files)
    return sizes


def _engines(manifest: Manifest) -> list[tuple[str, EngineSet]]:
    return list(manifest.engines.items())


def _has_gpu() -> bool:
    from vcut_runtime.cuda import Cuda

    try:
        Cuda()
    except VcutError:
        return False
    return True


if __name__ == "__main__":
    print(json.dumps(_run_diffusers(*map(Path, sys.argv[1:]))))
