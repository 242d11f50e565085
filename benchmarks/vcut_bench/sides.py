"""The sides of the latency benchmark, opened in this process: this project, each peer, and the machine's limit."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from vcut_bench.compiled import steps_by_graph
from vcut_bench.peers import OURS, PEERS, ROOFLINE, Peer, PeerJob
from vcut_bench.reference import choose_reference, draw, load_diffusers, video_options
from vcut_bench.work import load_pixels
from vcut_runtime import Pipeline, open_bundle
from vcut_runtime.bundle.graph import GRAPHS
from vcut_runtime.bundle.manifest import Manifest


@dataclass(frozen=True)
class Side:
    """A loaded side: ``run`` makes one video, and returns its seconds and memory, and its frames."""

    facts: Mapping[str, Any]
    run: Callable[..., tuple[dict[str, Any], np.ndarray | None]]


def open_side(job: PeerJob) -> Side:
    """Load the side that ``job`` names.

    Raises:
        VcutError: it cannot run here; one line that says why.
    """
    if job.side == OURS:
        return _ours(job)
    return _roofline(job) if job.side == ROOFLINE else _diffusers(job, PEERS[job.side])


def input_images(manifest: Manifest, paths: Sequence[str]) -> list[np.ndarray]:
    """Return the photographs [H, W, 3], uint8; without any a smooth image of random colours."""
    if paths:
        return [load_pixels(path, manifest.height, manifest.width) for path in paths]
    colours = (np.random.default_rng(0).random((3, 4, 3)) * 255).astype(np.uint8)
    return [load_pixels(colours, manifest.height, manifest.width, "stretch")]


def _ours(job: PeerJob) -> Side:
    pipeline = Pipeline.load(job.bundle, job.backend, threads=job.threads)
    manifest = pipeline.manifest
    images = input_images(manifest, job.images)

    def run(number: int = 0, **options: Any) -> tuple[dict[str, Any], np.ndarray]:
        noise, latents = draw(manifest, job.seed + number)
        start = time.perf_counter()
        video = pipeline(images[number], **options, latents=latents, noise=noise)
        wall = time.perf_counter() - start
        steps: Counter[str] = Counter()
        for graph, count in steps_by_graph(manifest, **options).items():
            steps[GRAPHS[graph].stage] += count
        return {
            "stages": {stage: seconds for stage, seconds in video.timings.items() if stage != "load"},
            "steps": dict(steps),
            "video": wall - video.timings.get("load", 0.0),
            "peak_device_memory_bytes": video.peak_memory,
        }, video.frames

    facts = {"backend": pipeline.backend.name, "precision": manifest.precision, "notes": pipeline.backend.notes}
    return Side(facts, run)


def _roofline(job: PeerJob) -> Side:
    import torch

    from vcut_bench.roofline import rates

    torch.set_num_threads(job.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = open_bundle(job.bundle, hashes=False).manifest.precision if device == "cuda" else "fp32"
    products = rates(device, precision)
    facts = {"backend": f"torch {device}", "precision": precision}
    return Side(facts, lambda number=0: ({"macs_per_second": {name: rate() for name, rate in products.items()}}, None))


def _diffusers(job: PeerJob, peer: Peer) -> Side:
    """Load diffusers' pipeline, make it the peer, and time what it calls: its latents' maker, and the end of a step."""
    import torch
    from PIL import Image

    from vcut_export.libraries import quiet_libraries

    torch.set_num_threads(job.threads)
    manifest = open_bundle(job.bundle, hashes=False).manifest
    reference, _ = choose_reference(manifest, job.reference)
    pipeline, device = load_diffusers(reference), reference.device
    with quiet_libraries():
        prepared = peer.prepare(pipeline, job, reference)
    # Torch does not know the memory of an engine in the UNet's place.
    measures_memory = device == "cuda" and pipeline.unet.device.type != "meta"
    images = [Image.fromarray(image) for image in input_images(manifest, job.images)]
    marks: list[Any] = []
    draw_latents = pipeline.prepare_latents

    def prepare_latents(*args: Any, **kwargs: Any) -> Any:
        latents = draw_latents(*args, **kwargs)
        marks.append(_mark(device))  # only a few scalars follow before the loop
        return latents

    def step_end(*_: Any) -> dict[str, Any]:
        marks.append(_mark(device))
        return {}

    pipeline.prepare_latents = prepare_latents

    def run(number: int = 0) -> tuple[dict[str, Any], np.ndarray]:
        _place(pipeline, device)
        options = video_options(reference, job.seed + number)
        start = time.perf_counter()
        marks[:] = [_mark(device)]
        frames = prepared.call(images[number], **options, callback_on_step_end=step_end).frames[0]
        marks.append(_mark(device))
        condition, *loop, decode = _seconds(marks)
        wall = time.perf_counter() - start
        if device == "cuda":  # the others need its memory
            _place(pipeline, "cpu")
            torch.cuda.empty_cache()
        guided = prepared.guided_steps
        stages = {"semantic_binding": loop[:guided], "quality_improvement": loop[guided:]}
        steps = {stage: seconds for stage, seconds in stages.items() if seconds}
        return {
            "stages": {"condition": condition, **{s: sum(steps[s]) for s in steps}, "decode": decode},
            "steps": {stage: len(steps[stage]) for stage in steps},
            "video": wall,
            "peak_device_memory_bytes": torch.cuda.max_memory_reserved() if measures_memory else None,
        }, np.round(frames * 255).astype(np.uint8)

    return Side({"backend": f"torch {device}", "precision": reference.precision, **prepared.facts}, run)


def _mark(device: str) -> Any:
    """Return this point in time: on a GPU in its own time, so that the host does not wait for it."""
    if device != "cuda":
        return time.perf_counter()
    import torch

    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds(marks: list[Any]) -> list[float]:
    """Return the time between each mark and the next."""
    if isinstance(marks[0], float):
        return [end - start for start, end in pairwise(marks)]
    marks[-1].synchronize()
    return [start.elapsed_time(end) / 1000 for start, end in pairwise(marks)]


def _place(pipeline: Any, device: str) -> None:
    """Move the weights. A UNet that an engine replaced has none."""
    for module in (pipeline.vae, pipeline.image_encoder, pipeline.unet):
        if module.device.type not in ("meta", device):
            module.to(device)
