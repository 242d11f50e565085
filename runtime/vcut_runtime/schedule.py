"""The VCUT schedule: sigmas, stages, guidance and the bias of each stage, all in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vcut_runtime.errors import UsageError
from vcut_runtime.manifest import Manifest, Scheduler

StageName = Literal["semantic_binding", "quality_improvement"]
QualityBias = Literal["mean", "cond"]


@dataclass(frozen=True)
class Step:
    """One denoising step; ``index`` is 1-based, like the paper's cut step."""

    index: int
    stage: StageName
    sigma: float
    sigma_next: float
    shallow: bool = False  # takes the deep features of an earlier step of its stage


def karras_sigmas(scheduler: Scheduler, steps: int) -> np.ndarray:
    """Return the noise levels [steps + 1], float32, from ``sigma_max`` to ``final_sigma`` (Karras et al., eq. 5)."""
    ramp = np.linspace(0, 1, steps)
    low, high = scheduler.sigma_min ** (1 / scheduler.rho), scheduler.sigma_max ** (1 / scheduler.rho)
    sigmas = (high + ramp * (low - high)) ** scheduler.rho
    return np.append(sigmas, scheduler.final_sigma).astype(np.float32)


def plan_steps(scheduler: Scheduler, steps: int, cut_step: int, cache_interval: int = 1) -> list[Step]:
    """Return the steps of one run; step ``cut_step`` is the first of the quality improvement stage.

    Of each stage the first step computes all layers, and then every ``cache_interval``-th; those between are shallow.
    """
    sigmas = karras_sigmas(scheduler, steps)
    return [
        Step(
            index=i + 1,
            stage="semantic_binding" if i + 1 < cut_step else "quality_improvement",
            sigma=float(sigmas[i]),
            sigma_next=float(sigmas[i + 1]),
            shallow=(i if i + 1 < cut_step else i + 1 - cut_step) % cache_interval != 0,
        )
        for i in range(steps)
    ]


def check_cut_step(cut_step: int | None, steps: int) -> int:
    """Return the cut step as a number; ``None`` never cuts and is ``steps + 1``.

    Raises:
        UsageError: it is outside 1..steps+1.
    """
    if cut_step is None:
        return steps + 1
    if not 1 <= cut_step <= steps + 1:
        raise UsageError(
            f"cut step {cut_step} is outside 1..{steps + 1}: with {steps} steps choose one in that range, "
            f"or none ({steps + 1}) to guide every step"
        )
    return cut_step


def scale_cut_step(cut_step: int, steps: int, new_steps: int) -> int:
    """Return the cut step that guides the same share of ``new_steps`` steps (17 of 25 becomes 7 of 10)."""
    return round((cut_step - 1) * new_steps / steps) + 1


def guidance_scale(minimum: float, maximum: float, frames: int) -> np.ndarray:
    """Return the per-frame guidance scale [frames], float32, linear from the first frame to the last."""
    return np.linspace(minimum, maximum, frames, dtype=np.float32)


def added_time_ids(fps: int, motion_bucket_id: float, noise_aug_strength: float) -> np.ndarray:
    """Return the micro-conditioning [1, 3]; SVD was trained on ``fps - 1``."""
    return np.array([[fps - 1, motion_bucket_id, noise_aug_strength]], dtype=np.float32)


def stage_bias(sca_bias: np.ndarray, kind: QualityBias) -> np.ndarray:
    """Return the bias [1, N] of the quality improvement stage from both rows [2, N]: their mean (Eq. 4), or row 1."""
    return sca_bias.mean(axis=0, keepdims=True) if kind == "mean" else sca_bias[1:]


@dataclass(frozen=True)
class Chunk:
    """Frames ``start`` .. ``stop`` are decoded together; of them ``keep_from`` .. ``keep_to`` are kept."""

    start: int
    stop: int
    keep_from: int
    keep_to: int


def decode_chunks(frames: int, size: int, overlap: int, *, full: bool = True) -> list[Chunk]:
    """Return the chunks that decode ``frames`` frames, ``size`` at a time; without ``full`` the last may be shorter.

    The VAE decoder mixes neighbouring frames, so a frame at a chunk's edge would lack its neighbours: at every seam
    ``overlap`` frames on each side are decoded for context and not kept. ``size`` must be more than twice that.

    Raises:
        UsageError: it is not.
    """
    if size >= frames:
        return [Chunk(0, frames, 0, frames)]
    if size <= 2 * overlap:
        raise UsageError(
            f"chunks of {size} frames are too small for {overlap} frames of overlap on both sides: decode at least "
            f"{2 * overlap + 1} at a time, or lower the overlap"
        )
    chunks, done = [], 0
    while done < frames:
        start = max(0, done - overlap)
        if full:
            start = min(start, frames - size)  # the last chunk has all the context it can
        stop = min(frames, start + size)
        keep_to = frames if stop == frames else stop - overlap
        chunks.append(Chunk(start, stop, done, keep_to))
        done = keep_to
    return chunks


def default_cut_step(manifest: Manifest, steps: int) -> int:
    """Return the bundle's cut step for a run of ``steps`` steps."""
    return manifest.cut_step if steps == manifest.steps else scale_cut_step(manifest.cut_step, manifest.steps, steps)
