"""The sides of the latency benchmark: this project, and everybody else who makes the same video.

Every peer is diffusers' ``StableVideoDiffusionPipeline`` on the bundle's checkpoint, sizes, steps, guidance, latents
and noise; what differs is what its UNet does in a step. Where the checkpoint is not at hand, all peers share one set of
random weights of the same architecture. A peer that cannot run raises one line that says why.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from vcut_bench.compiled import share_of_steps, steps_by_graph
from vcut_bench.reference import Reference, draw, find_reference, load_diffusers, video_options
from vcut_export.checkpoint import Checkpoint
from vcut_runtime import Pipeline, open_bundle
from vcut_runtime.bundle.graph import GRAPHS
from vcut_runtime.bundle.manifest import Manifest
from vcut_runtime.errors import UsageError, VcutError, first_line
from vcut_runtime.images import load_image
from vcut_runtime.schedule import CutStep, check_cut_step

OURS, ROOFLINE = "vcut", "roofline"
DEEPCACHE_INTERVAL, DEEPCACHE_BRANCH = 3, 0  # what diffusers' and DeepCache's documentation show, for SVD too
TGATE_STEP = (10, 25)  # T-GATE's default gate, of the steps it is meant for


@dataclass(frozen=True)
class PeerJob:
    """Everything that one side needs to know; it travels to its process as JSON."""

    side: str
    bundle: str
    backend: str = "auto"
    threads: int = 1
    cut_step: CutStep = 17
    reference: str | None = None  # the checkpoint, as ``find_reference`` takes it
    image: str | None = None
    seed: int = 0


@dataclass
class Side:
    """A loaded side: ``run`` makes one video and returns seconds and memory of it, and its frames."""

    facts: dict[str, Any]
    run: Callable[..., tuple[dict[str, Any], np.ndarray | None]]


@dataclass(frozen=True)
class Peer:
    """What is compared with.

    Attributes:
        title: as tables name it.
        exact: whether it computes what diffusers does, to rounding; if not, ``how`` says what it leaves out.
        how: one line.
        prepare: changes a loaded pipeline; returns the number of guided steps, what else is to be called in the
            pipeline's place (None: the pipeline), and facts.
    """

    title: str
    exact: bool
    how: str
    prepare: Callable[[Any, PeerJob, Reference], Prepared]


@dataclass
class Prepared:
    """What became of a pipeline."""

    guided_steps: int
    call: Callable[..., Any] | None = None
    after: Callable[[], object] = lambda: None  # each run
    facts: dict[str, Any] = field(default_factory=dict)


def open_side(job: PeerJob) -> Side:
    """Load the side that ``job`` names.

    Raises:
        VcutError: it cannot run here; one line that says why.
    """
    if job.side == OURS:
        return _ours(job)
    if job.side == ROOFLINE:
        return _roofline(job)
    return _diffusers(job, PEERS[job.side])


def choose_reference(manifest: Manifest, given: str | None) -> tuple[Reference, str | None]:
    """Return the checkpoint for peers, and None, or why it is random weights of the bundle's architecture instead.

    Raises:
        UsageError: the one ``given`` is not to be had.
    """
    chunk = manifest.decode_chunk if manifest.decode_chunk < manifest.frames else None
    try:
        return find_reference(manifest, given, decode_chunk=chunk), None
    except VcutError as error:
        if given is not None or find_spec("torch") is None:
            raise
        configs = manifest.model.configs
        random = Checkpoint(manifest.model.id, configs, None, None, None, 0, {})
        return Reference(manifest, {}, random, manifest.steps, chunk), str(error)


def input_image(manifest: Manifest, path: str | None) -> np.ndarray:
    """Return the photograph [H, W, 3], uint8; without one a smooth image of random colours."""
    if path is not None:
        pixels = load_image(Path(path), manifest.height, manifest.width, "crop")
        return np.round(pixels[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    colours = np.random.default_rng(0).random((3, 4, 3)) * 255
    smooth = load_image(colours.astype(np.uint8), manifest.height, manifest.width)
    return np.round(smooth[0].transpose(1, 2, 0) * 255).astype(np.uint8)


def _ours(job: PeerJob) -> Side:
    pipeline = Pipeline.load(job.bundle, job.backend, threads=job.threads)
    manifest = pipeline.manifest
    image = input_image(manifest, job.image)
    noise, latents = draw(manifest, job.seed)

    def run(cut_step: CutStep, cache_interval: int = 1) -> tuple[dict[str, Any], np.ndarray]:
        start = time.perf_counter()
        video = pipeline(image, cut_step=cut_step, cache_interval=cache_interval, latents=latents, noise=noise)
        wall = time.perf_counter() - start
        stages = {stage: seconds for stage, seconds in video.timings.items() if stage != "load"}
        steps: Counter[str] = Counter()
        for graph, count in steps_by_graph(manifest, cut_step, cache_interval).items():
            steps[GRAPHS[graph].stage] += count
        return {
            "stages": stages,
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
    manifest = open_bundle(job.bundle, hashes=False).manifest
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = manifest.precision if device == "cuda" else "fp32"
    measured = rates(device, precision)
    facts = {"backend": f"torch {device}", "precision": precision}
    return Side(facts, lambda: ({"macs_per_second": {name: rate() for name, rate in measured.items()}}, None))


def _diffusers(job: PeerJob, peer: Peer) -> Side:
    """Open a peer: load diffusers' pipeline, prepare it, and time what it calls between its own landmarks."""
    import torch
    from PIL import Image

    from vcut_export.libraries import quiet_libraries

    torch.set_num_threads(job.threads)
    manifest = open_bundle(job.bundle, hashes=False).manifest
    reference, _ = choose_reference(manifest, job.reference)
    pipeline = load_diffusers(reference)
    device = reference.device
    with quiet_libraries():
        prepared = peer.prepare(pipeline, job, reference)
    call = prepared.call or pipeline
    of_torch = device == "cuda" and pipeline.unet.device.type != "meta"  # else torch does not know all of it
    _, latents = draw(manifest, job.seed)
    image = Image.fromarray(input_image(manifest, job.image))
    clock = _StepClock(device)
    draw_latents = pipeline.prepare_latents

    def prepare_latents(*args: Any, **kwargs: Any) -> Any:
        found = draw_latents(*args, **kwargs)
        clock.mark()  # the last thing that the pipeline does before its loop, but for a few scalars
        return found

    def step_end(*_: Any) -> dict[str, Any]:
        clock.mark()
        return {}

    pipeline.prepare_latents = prepare_latents

    def run() -> tuple[dict[str, Any], np.ndarray]:
        _place(pipeline, device)
        clock.reset()
        start = time.perf_counter()
        clock.mark()
        try:
            frames = call(
                image,
                **video_options(reference, latents, pipeline.vae.dtype, job.seed),
                callback_on_step_end=step_end,
            ).frames[0]
        except torch.OutOfMemoryError:
            raise VcutError("out of GPU memory: close other programs, or name fewer --peers") from None
        clock.mark()
        times = clock.seconds()
        wall = time.perf_counter() - start
        prepared.after()
        if device == "cuda":  # between its turns it leaves the device to the others
            _place(pipeline, "cpu")
            torch.cuda.empty_cache()
        condition, *loop, decode = times
        guided = prepared.guided_steps
        stages = {"semantic_binding": loop[:guided], "quality_improvement": loop[guided:]}
        return {
            "stages": {
                "condition": condition,
                **{stage: sum(steps) for stage, steps in stages.items() if steps},
                "decode": decode,
            },
            "steps": {stage: len(steps) for stage, steps in stages.items() if steps},
            "video": wall,
            "peak_device_memory_bytes": torch.cuda.max_memory_reserved() if of_torch else None,
        }, np.round(frames * 255).astype(np.uint8)

    facts = {"backend": f"torch {device}", "precision": reference.precision, **prepared.facts}
    return Side(facts, run)


class _StepClock:
    """Points in time between steps: the GPU's own where there is one, so that the host need not wait in between."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        self.marks: list[Any] = []

    def reset(self) -> None:
        self.marks.clear()

    def mark(self) -> None:
        if self.cuda:
            import torch

            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Return the time between each mark and the next."""
        pairs = list(zip(self.marks, self.marks[1:], strict=False))
        if not self.cuda:
            return [end - start for start, end in pairs]
        self.marks[-1].synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in pairs]


def _place(pipeline: Any, device: str) -> None:
    """Move the weights that are there; an engine in the UNet's place leaves a module without any."""
    for module in (pipeline.vae, pipeline.image_encoder, pipeline.unet):
        if module.device.type not in ("meta", device):
            module.to(device)


def _as_it_is(pipeline: Any, job: PeerJob, reference: Reference) -> Prepared:
    return Prepared(reference.steps)


def _compiled(pipeline: Any, job: PeerJob, reference: Reference) -> Prepared:
    # CUDA graphs would be captured again each time that the weights come back to the device.
    mode = "max-autotune-no-cudagraphs" if reference.device == "cuda" else None
    pipeline.unet.compile(mode=mode, dynamic=False)
    return Prepared(reference.steps)


def _vcut_schedule(pipeline: Any, job: PeerJob, reference: Reference) -> Prepared:
    """The paper's schedule on unmodified modules.

    From the cut on only the conditional row is computed, and handed on as both, which makes guidance a no-op. Eq. 4
    averages the outputs of each cross-attention for the image's embedding and for zeros; of a single key an attention
    is affine in the embedding, so their mean is the output for half of it.
    """
    import torch

    cut_step = check_cut_step(job.cut_step, reference.steps)
    forward, scheduler = pipeline.unet.forward, pipeline.scheduler

    def half(sample: Any, timestep: Any, encoder_hidden_states: Any, added_time_ids: Any, **options: Any) -> Any:
        if scheduler.step_index + 1 < cut_step:
            return forward(sample, timestep, encoder_hidden_states, added_time_ids, **options)
        embedding = encoder_hidden_states.mean(dim=0, keepdim=True)
        (velocity, *_) = forward(sample[1:], timestep, embedding, added_time_ids[1:], **options)
        return (torch.cat([velocity, velocity]),)

    pipeline.unet.forward = half
    return Prepared(cut_step - 1)


def _deepcache(pipeline: Any, job: PeerJob, reference: Reference, interval: int = DEEPCACHE_INTERVAL) -> Prepared:
    helper = _import("DeepCache", "DeepCache").DeepCacheSDHelper(pipe=pipeline)
    helper.set_params(cache_interval=interval, cache_branch_id=DEEPCACHE_BRANCH)
    helper.enable()
    facts = {"library": _version("DeepCache"), "cache_interval": interval, "cache_branch_id": DEEPCACHE_BRANCH}
    return Prepared(reference.steps, after=helper.cached_output.clear, facts=facts)


def _tgate(pipeline: Any, job: PeerJob, reference: Reference) -> Prepared:
    loader = _import("tgate", "tgate").TgateSVDLoader
    default, of = TGATE_STEP
    gate = min(reference.steps, max(1, share_of_steps(default + 1, of, reference.steps) - 1))
    call = partial(loader(pipeline).tgate, gate_step=gate)
    return Prepared(gate, call=call, facts={"library": _version("tgate"), "gate_step": gate})


def _unfolded(library: str, pipeline: Any, job: PeerJob, reference: Reference) -> Prepared:
    from vcut_bench import unfolded

    facts = unfolded.replace_unet(pipeline, reference, library, job.backend, job.threads)
    return Prepared(reference.steps, facts=facts)


PEERS: Mapping[str, Peer] = {
    "diffusers": Peer("diffusers, eager", True, "every step guided", _as_it_is),
    "diffusers-compiled": Peer("diffusers, torch.compile", True, "every step guided", _compiled),
    "diffusers-vcut": Peer(
        "diffusers, eager, VCUT's schedule", False, "guidance cut at the same step, nothing folded", _vcut_schedule
    ),
    "deepcache": Peer(
        f"DeepCache, interval {DEEPCACHE_INTERVAL}",
        False,
        f"deep features computed in every {DEEPCACHE_INTERVAL}rd step only",
        _deepcache,
    ),
    "deepcache-2": Peer(
        "DeepCache, interval 2", False, "deep features computed in every 2nd step only", partial(_deepcache, interval=2)
    ),
    "tgate": Peer("T-GATE", False, "attentions reused, guidance cut at its gate", _tgate),
    "onnxruntime-unfolded": Peer(
        "ONNX Runtime, unfolded UNet", True, "the same compiler without folding, every step guided",
        partial(_unfolded, "onnxruntime"),
    ),
    "tensorrt-unfolded": Peer(
        "TensorRT, unfolded UNet", True, "the same compiler without folding, every step guided",
        partial(_unfolded, "tensorrt"),
    ),
}  # fmt: skip


def _import(module: str, package: str) -> Any:
    from importlib import import_module

    if find_spec(module) is None:
        raise UsageError(f"{package} is not installed: pip install --no-deps {package}")
    try:
        return import_module(module)
    except Exception as error:  # written for another diffusers
        raise VcutError(
            f"{_version(package)} does not import beside diffusers {metadata.version('diffusers')}: {first_line(error)}"
        ) from None


def _version(package: str) -> str:
    return f"{package} {metadata.version(package)}"
