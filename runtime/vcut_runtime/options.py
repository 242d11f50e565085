"""The options of a run, and of the backend that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vcut_runtime.bundle.geometry import MOST
from vcut_runtime.command_options import MOST_SEED, MOST_THREADS, check_numbers, check_types, option
from vcut_runtime.errors import UsageError
from vcut_runtime.guidance import check_guidance, parse_guidance
from vcut_runtime.images import Fit
from vcut_runtime.schedule import (
    MOST_STEPS,
    CutStep,
    QualityBias,
    Schedule,
    Solver,
    Step,
    check_sigmas,
    parse_cut_step,
    parse_sigmas,
)


@dataclass(frozen=True)
class RunOptions:
    """What a video is made with. Options have diffusers' names and meaning.

    Raises:
        UsageError: a value is impossible in every bundle.
    """

    schedule: str | Schedule | None = option(
        None,
        "Named schedule of the bundle to play, such as vcut, exact, balanced or fast. "
        "[default: made from the options below]",
        parse=str,
    )
    size: Literal["auto"] | None = option(
        None,
        "With auto the video has the size nearest to the photograph's shape, of those that the bundle can make, and "
        "about the bundle's area. [default: the bundle's size]",
    )
    height: int | None = option(
        None,
        "Pixels; other sizes need an export with --dynamic. [default: the bundle's]",
        least=1,
        most=MOST.height,
    )
    width: int | None = option(None, "Pixels. [default: the bundle's]", least=1, most=MOST.width)
    num_frames: int | None = option(
        None, "Frames of the video. [default: the bundle's]", "--num-frames", "--frames", least=1, most=MOST.frames
    )
    num_inference_steps: int | None = option(
        None,
        "Denoising steps. [default: the bundle's; 10 of ays, 4 of lcm]",
        "--num-inference-steps",
        "--steps",
        least=1,
        most=MOST_STEPS,
    )
    sigmas: str | Sequence[float] | None = option(
        None,
        "Noise levels: karras, ays (Align Your Steps), lcm, or numbers that fall to 0, such as 700,54.5,0. "
        "[default: karras; lcm for the solver lcm]",
        parse=parse_sigmas,
    )
    solver: Solver = option(
        "euler",
        "Sampler: euler (diffusers'), dpmpp-2m (DPM-Solver++ 2M), or lcm (for AnimateLCM-SVD; without guidance).",
    )
    guide_from: int = option(
        1, "First guided step, 1-based. The steps before it are conditional only.", least=1, most=MOST_STEPS
    )
    cut_step: CutStep | None = option(
        None,
        "First step of the quality improvement stage, 1-based; none guides every step. "
        "[default: the bundle's, at the same noise level for another number of steps]",
        parse=parse_cut_step,
    )
    cache_interval: int = option(
        1,
        "Run the deep layers in every so many steps only and reuse their output between (DeepCache): faster, and "
        "another video. More than 1 needs a bundle exported with --deep-cache.",
        least=1,
        most=MOST_STEPS,
    )
    quality_bias: QualityBias = option(
        "mean", "Bias of the quality improvement stage: mean (the paper's Eq. 4) or cond."
    )
    min_guidance_scale: float | None = option(None, "Guidance of the first frame. [default: the bundle's]")
    max_guidance_scale: float | None = option(
        None, "Guidance of the last frame; 1 or less guides nothing, as in diffusers. [default: the bundle's]"
    )
    guidance: str | Sequence[float] = option(
        "linear",
        "Guidance over the frames: linear from the first to the last, triangle (the maximum is in the middle), or a "
        "number for each frame, such as 1,2,3. [default: linear]",
        parse=parse_guidance,
    )
    fps: float = option(7, "Frames per second, as a condition of the model.", least=1, most=1000)
    output_fps: float | None = option(
        None, "Frames per second that the video plays at. [default: those of --fps]", least=1, most=1000
    )
    motion_bucket_id: float = option(127, "How much motion, about 1 to 255.")
    noise_aug_strength: float = option(0.02, "Noise added to the photograph.", least=0)
    seed: int | None = option(None, "Seed; image i gets seed + i. [default: random]", least=0, most=MOST_SEED)
    decode_chunk_size: int | None = option(
        None,
        "Frames decoded at a time. [default: the bundle's]",
        "--decode-chunk-size",
        "--decode-chunk",
        least=1,
        most=MOST.frames,
    )
    decode_overlap: int | None = option(
        None,
        "Frames decoded on each side of a chunk for context and not kept. [default: the bundle's]",
        least=0,
        most=MOST.frames,
    )
    fit: Fit = option(
        "stretch",
        "How to fit an image of another shape: stretch (as diffusers does), crop, pad (black borders) or blur (borders "
        "of the blurred image).",
    )

    def __post_init__(self) -> None:
        check_types(self)
        check_numbers(self)
        if self.size is not None and (self.height, self.width) != (None, None):
            raise UsageError("size excludes height and width: leave one of them out")
        if self.schedule is not None and not isinstance(self.schedule, str):
            if not all(isinstance(step, Step) for step in self.schedule):
                raise UsageError("schedule is a list of other things than steps: give a name, or rows of class Step")
            object.__setattr__(self, "schedule", tuple(self.schedule))
        if self.sigmas is not None:
            object.__setattr__(self, "sigmas", check_sigmas(self.sigmas))
        object.__setattr__(self, "guidance", check_guidance(self.guidance))
        if not isinstance(self.guidance, str) and (self.min_guidance_scale, self.max_guidance_scale) != (None, None):
            raise UsageError(
                "a guidance of each frame excludes min_guidance_scale and max_guidance_scale: leave them out"
            )


@dataclass(frozen=True)
class BackendOptions:
    """How a backend runs. Backends ignore options that they do not use."""

    threads: int | None = option(
        None, "CPU threads of ONNX Runtime. [default: its own choice]", least=1, most=MOST_THREADS
    )
    low_memory: bool | None = option(
        None,
        "Keep the weights of one stage at a time on the GPU. [default: if not all fit]",
        "--low-memory/--no-low-memory",
    )
    cuda_graphs: bool = option(
        True, "Launch each TensorRT step as one captured CUDA graph.", "--cuda-graphs/--no-cuda-graphs"
    )

    def __post_init__(self) -> None:
        check_types(self)
        check_numbers(self)
