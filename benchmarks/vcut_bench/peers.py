"""The peers of the latency benchmark: everybody else who makes the same video.

Every peer is diffusers' ``StableVideoDiffusionPipeline`` on the bundle's checkpoint, sizes, steps, guidance, latents
and noise. What its UNet does in a step is different. A peer that cannot run raises one line that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any, NamedTuple

from vcut_bench.compiled import share_of_steps
from vcut_bench.reference import Reference
from vcut_runtime.errors import UsageError, VcutError, first_line
from vcut_runtime.schedule import CutStep, check_cut_step

OURS, ROOFLINE = "vcut", "roofline"


@dataclass(frozen=True)
class PeerJob:
    """Everything that one side needs to know."""

    side: str  # a name of PEERS, OURS or ROOFLINE
    bundle: str
    backend: str = "auto"
    threads: int = 1
    cut_step: CutStep = 17
    reference: str | None = None  # the checkpoint, as ``find_reference`` takes it
    images: tuple[str, ...] = ()
    seed: int = 0  # of the first image; the others follow


class Prepared(NamedTuple):
    """A pipeline that has become a peer."""

    call: Callable[..., Any]  # makes a video
    guided_steps: int
    facts: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Peer:
    """One peer.

    Attributes:
        title: as tables name it.
        prepare: makes a loaded pipeline the peer.
        exact: it computes the video of diffusers, up to rounding.
        reuses: it reuses results of earlier steps, so nobody has counted the MACs of its steps.
    """

    title: str
    prepare: Callable[[Any, PeerJob, Reference], Prepared]
    exact: bool = True
    reuses: bool = False


def _eager(pipeline: Any, job: PeerJob, reference: Reference) -> Prepared:
    return Prepared(pipeline, reference.steps)


def _compiled(pipeline: Any, job: PeerJob, reference: Reference) -> Prepared:
    # CUDA graphs would be captured again each time that the weights come back to the device.
    mode = "max-autotune-no-cudagraphs" if reference.device == "cuda" else None
    pipeline.unet.compile(mode=mode, dynamic=False)
    return Prepared(pipeline, reference.steps)


def _fewer_steps(steps: int, pipeline: Any, job: PeerJob, reference: Reference) -> Prepared:
    def call(*args: Any, **options: Any) -> Any:
        return pipeline(*args, **{**options, "num_inference_steps": steps})

    return Prepared(call, steps)


def _align_your_steps(solver: str, pipeline: Any, job: PeerJob, reference: Reference) -> Prepared:
    """Give the pipeline the 10 published noise levels of Align Your Steps, and diffusers' solver."""
    import torch
    from diffusers.schedulers.scheduling_edm_dpmsolver_multistep import EDMDPMSolverMultistepScheduler
    from diffusers.schedulers.scheduling_utils import AysSchedules

    sigmas = AysSchedules["StableDiffusionVideoSigmas"]

    class Scheduler(EDMDPMSolverMultistepScheduler):
        """DPM-Solver++ (2M) with SVD's scalings, which are EDM's for sigma_data = 1, and with given noise levels."""

        def set_timesteps(
            self, num_inference_steps: int | None = None, device: Any = None, sigmas: list[float] | None = None
        ) -> None:
            assert sigmas is not None
            super().set_timesteps(len(sigmas) - 1, device)
            self.sigmas = torch.tensor(sigmas, dtype=torch.float32)
            self.timesteps = self.precondition_noise(self.sigmas[:-1]).to(device)

    if solver == "dpmpp":
        config = reference.checkpoint.configs["scheduler"]
        ends = {"sigma_min": config["sigma_min"], "sigma_max": config["sigma_max"]}
        pipeline.scheduler = Scheduler(**ends, sigma_data=1.0, prediction_type="v_prediction", solver_order=2)

    def call(*args: Any, **options: Any) -> Any:
        return pipeline(*args, **{**options, "sigmas": sigmas})

    return Prepared(call, len(sigmas) - 1)


def _vcut_schedule(pipeline: Any, job: PeerJob, reference: Reference) -> Prepared:
    """Apply the paper's schedule to unmodified modules.

    From the cut on only the conditional row is computed. The pipeline gets it as both rows, so guidance changes
    nothing. Eq. 4 averages the outputs of each cross-attention for the image's embedding and for zeros. Attention to a
    single key is affine in the embedding, so the mean is the output for half the embedding.
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
    return Prepared(pipeline, cut_step - 1)


def _deepcache(interval: int, pipeline: Any, job: PeerJob, reference: Reference) -> Prepared:
    settings = {"cache_interval": interval, "cache_branch_id": 0}  # the branch of DeepCache's examples
    helper = _library("DeepCache").DeepCacheSDHelper(pipe=pipeline)
    helper.set_params(**settings)
    helper.enable()

    def call(*args: Any, **options: Any) -> Any:
        helper.cached_output.clear()  # of the last video
        return pipeline(*args, **options)

    return Prepared(call, reference.steps, {"library": _version("DeepCache"), **settings})


def _tgate(pipeline: Any, job: PeerJob, reference: Reference) -> Prepared:
    loader = _library("tgate").TgateSVDLoader
    gate = min(reference.steps, max(1, share_of_steps(11, 25, reference.steps) - 1))  # its default: 10 of 25 steps
    call = partial(loader(pipeline).tgate, gate_step=gate)
    return Prepared(call, gate, {"library": _version("tgate"), "gate_step": gate})


def _unfolded(library: str, pipeline: Any, job: PeerJob, reference: Reference) -> Prepared:
    from vcut_bench.unfolded import replace_unet

    backend = replace_unet(pipeline, reference, library, job.backend, job.threads)
    return Prepared(pipeline, reference.steps, {"backend": backend})


PEERS: Mapping[str, Peer] = {
    "diffusers": Peer("diffusers, eager", _eager),
    "diffusers-compiled": Peer("diffusers, torch.compile", _compiled),
    "diffusers-vcut": Peer("diffusers, eager, VCUT's schedule", _vcut_schedule, exact=False),
    "diffusers-15": Peer("diffusers, 15 steps", partial(_fewer_steps, 15), exact=False),
    "diffusers-10": Peer("diffusers, 10 steps", partial(_fewer_steps, 10), exact=False),
    "diffusers-ays": Peer("diffusers, AYS, 10 steps", partial(_align_your_steps, "euler"), exact=False),
    "diffusers-dpmpp": Peer("diffusers, AYS, DPM-Solver++", partial(_align_your_steps, "dpmpp"), exact=False),
    "deepcache": Peer("DeepCache, interval 3", partial(_deepcache, 3), False, reuses=True),
    "deepcache-2": Peer("DeepCache, interval 2", partial(_deepcache, 2), False, reuses=True),
    "tgate": Peer("T-GATE", _tgate, exact=False, reuses=True),
    "onnxruntime-unfolded": Peer("ONNX Runtime, unfolded UNet", partial(_unfolded, "onnxruntime")),
    "tensorrt-unfolded": Peer("TensorRT, unfolded UNet", partial(_unfolded, "tensorrt")),
}


def choose_peers(text: str) -> list[str]:
    """Return the names in ``diffusers,tgate``, each once; ``all`` are all peers, ``none`` is an empty list.

    Raises:
        UsageError: there is no such peer.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if words in (["all"], ["none"]):
        return list(PEERS) if words == ["all"] else []
    if unknown := [word for word in words if word not in PEERS]:
        raise UsageError(f"unknown --peers {unknown[0]!r}: choose all, none, or from {', '.join(PEERS)}")
    return list(dict.fromkeys(words))


def _library(name: str) -> Any:
    """Import a package whose module has the same name."""
    if find_spec(name) is None:
        raise UsageError(f"{name} is not installed: pip install --no-deps {name}")
    try:
        return import_module(name)
    except Exception as error:  # written for another diffusers
        raise VcutError(
            f"{_version(name)} does not import beside diffusers {metadata.version('diffusers')}: {first_line(error)}"
        ) from None


def _version(package: str) -> str:
    return f"{package} {metadata.version(package)}"
