"""Plans one video: checks the options against the bundle, and decides sizes, steps and chunks before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vcut_runtime.bundle.checks import check_schedule
from vcut_runtime.bundle.geometry import DIMENSIONS, SizeRange, Sizes
from vcut_runtime.bundle.manifest import Manifest
from vcut_runtime.decoding import Chunk, decode_chunks
from vcut_runtime.errors import UsageError
from vcut_runtime.guidance import added_time_ids, guidance_scale
from vcut_runtime.images import resize_matrix
from vcut_runtime.options import RunOptions
from vcut_runtime.schedule import Schedule, check_cut_step, choose_sigmas, default_cut_step, make_schedule

_OF_GUIDANCE = ("cut_step", "guide_from", "quality_bias")
_OF_THE_STEPS = ("num_inference_steps", "sigmas", "solver", "guide_from", "cut_step", "cache_interval", "quality_bias")


@dataclass(frozen=True)
class RunPlan:
    """One video: its sizes, the steps to play, and the values that the graphs' inputs keep throughout.

    Attributes:
        sizes: of the video.
        schedule: the steps to play.
        chunks: to decode.
        constants: inputs of graphs by name.
    """

    sizes: Sizes
    schedule: Schedule
    chunks: list[Chunk]
    constants: dict[str, np.ndarray]


def plan_run(
    manifest: Manifest,
    options: RunOptions,
    most_decoded: int | None = None,
    photo_size: tuple[int, int] | None = None,
) -> RunPlan:
    """Return what a run with ``options`` does.

    Args:
        manifest: of the bundle.
        options: of the run.
        most_decoded: the most frames that the backend decodes at a time.
        photo_size: width and height of the photograph, for the size ``auto``; None plans the bundle's size.

    Raises:
        UsageError: an option does not fit the bundle.
    """
    sizes = choose_sizes(manifest, options, photo_size)
    scales = _guidance_scale(manifest, options, sizes.frames)
    constants = {
        "noise_aug_strength": np.array([options.noise_aug_strength], dtype=np.float32),
        "added_time_ids": added_time_ids(options.fps, options.motion_bucket_id, options.noise_aug_strength),
        "guidance_scale": scales,
        **resize_matrices(manifest, sizes),
    }
    schedule = choose_schedule(manifest, options, guided=bool(scales.max() > 1))
    return RunPlan(sizes, schedule, _chunks(manifest, options, sizes, most_decoded), constants)


def choose_sizes(manifest: Manifest, options: RunOptions, photo_size: tuple[int, int] | None = None) -> Sizes:
    """Return the sizes of a video: those of the options, else the bundle's; for ``auto`` the photograph's shape.

    Raises:
        UsageError: the bundle cannot make them; the message says what it can, or which export could.
    """
    given = (options.num_frames, options.height, options.width)
    for name, own, value in zip(DIMENSIONS, manifest.sizes, given, strict=True):
        sizes = manifest.dynamic.get(name, SizeRange(own, own, 1))
        if value is None or value in sizes:
            continue
        option = "num_frames" if name == "frames" else name
        can = str(sizes) if name in manifest.dynamic else f"{own} only: export it with --dynamic {name}=MIN:MAX"
        raise UsageError(f"{option} is {value}, this bundle makes {can}")
    sizes = Sizes(*(own if value is None else value for own, value in zip(manifest.sizes, given, strict=True)))
    if options.size == "auto" and photo_size is not None:
        height, width = manifest.geometry.size_of_shape(photo_size[0] / photo_size[1])
        sizes = sizes._replace(height=height, width=width)
    return sizes


def choose_schedule(manifest: Manifest, options: RunOptions, *, guided: bool = True) -> Schedule:
    """Return the steps to play: a schedule of the bundle by name, given rows, or rows made from the options.

    Raises:
        UsageError: there is no such schedule, or the bundle cannot play it.
    """
    if options.schedule is not None:
        return _given_schedule(manifest, options)
    if options.cache_interval > 1 and not manifest.deep_features:
        raise UsageError(
            f"cache_interval is {options.cache_interval}, this bundle has no shallow steps: export it with --deep-cache"
        )
    sigmas = choose_sigmas(
        manifest.scheduler, options.sigmas, options.solver, options.num_inference_steps, manifest.steps
    )
    if options.solver == "lcm":
        _check_lcm(options, guided)
        return make_schedule(sigmas, len(sigmas), solver="lcm", guided=False, cache_interval=options.cache_interval)
    if options.cut_step is None:
        cut_step = default_cut_step(manifest.schedule, sigmas)
    else:
        cut_step = check_cut_step(options.cut_step, len(sigmas) - 1)
    if options.guide_from > 1 and options.guide_from >= cut_step:
        raise UsageError(
            f"guide_from is {options.guide_from}, and guidance ends before step {cut_step}: give 1..{cut_step - 1}, "
            "or a later cut_step"
        )
    return make_schedule(
        sigmas,
        cut_step,
        guide_from=options.guide_from,
        solver=options.solver,
        cache_interval=options.cache_interval,
        guided=guided,
        quality_bias=options.quality_bias,
    )


def _check_lcm(options: RunOptions, guided: bool) -> None:
    if guided and (options.max_guidance_scale is not None or not isinstance(options.guidance, str)):
        raise UsageError("the solver lcm has no guidance: leave the guidance scales out, or give at most 1")
    for name in _changed(options, _OF_GUIDANCE):
        raise UsageError(f"the solver lcm has no guidance, so no {name}: leave it out")


def _guidance_scale(manifest: Manifest, options: RunOptions, frames: int) -> np.ndarray:
    """Return the guidance scale of each frame [frames]."""
    if isinstance(options.guidance, str):
        low, high = options.min_guidance_scale, options.max_guidance_scale
        low, high = (manifest.guidance.min if low is None else low), (manifest.guidance.max if high is None else high)
        return guidance_scale(low, high, frames, options.guidance)
    if len(options.guidance) != frames:
        raise UsageError(f"guidance has {len(options.guidance)} numbers, the video {frames} frames: give one for each")
    return np.array(options.guidance, dtype=np.float32)


def _changed(options: RunOptions, names: tuple[str, ...]) -> list[str]:
    """Return those of ``names`` whose option is not the default."""
    defaults = RunOptions()
    return [name for name in names if getattr(options, name) != getattr(defaults, name)]


def _given_schedule(manifest: Manifest, options: RunOptions) -> Schedule:
    for name in _changed(options, _OF_THE_STEPS):
        raise UsageError(f"schedule and {name} exclude each other, a schedule says all steps: leave one out")
    if isinstance(options.schedule, str):
        if options.schedule not in manifest.schedules:
            raise UsageError(f"unknown schedule {options.schedule!r}: choose {', '.join(manifest.schedules)}")
        return manifest.schedules[options.schedule]
    schedule = tuple(options.schedule or ())
    try:
        check_schedule(schedule, manifest)
    except ValueError as error:
        raise UsageError(f"this bundle cannot play the schedule: {error}") from None
    return schedule


def resize_matrices(manifest: Manifest, sizes: Sizes) -> dict[str, np.ndarray]:
    """Return the matrices that ``condition`` takes if an image's size is free; otherwise they are in the graph."""
    if not manifest.geometry.has_free_size:
        return {}
    seen = manifest.geometry.encoder_size
    return {"resize_rows": resize_matrix(sizes.height, seen), "resize_columns": resize_matrix(sizes.width, seen).T}


def _chunks(manifest: Manifest, options: RunOptions, sizes: Sizes, most: int | None) -> list[Chunk]:
    usual = manifest.decode_chunk if most is None else min(manifest.decode_chunk, most)
    chunk = usual if options.decode_chunk_size is None else options.decode_chunk_size
    fixed = manifest.geometry.decode_frames
    if fixed is not None and chunk != fixed:
        raise UsageError(
            f"decode_chunk_size is {chunk}, this bundle decodes {fixed} frames at a time: "
            f"export it with --decode-chunk {chunk}"
        )
    if most is not None and chunk > most:
        raise UsageError(
            f"decode_chunk_size is {chunk}, the decode engine takes up to {most} frames: give at most {most}, "
            f"or run 'vcut build --decode-chunk {chunk}'"
        )
    overlap = options.decode_overlap
    if overlap is None:
        overlap = min(manifest.decode_overlap, (chunk - 1) // 2)
    return decode_chunks(sizes.frames, chunk, overlap, full=fixed is not None)
