"""Plans one video: checks the options against the bundle, and decides sizes, steps and chunks before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vcut_runtime.bundle.checks import check_schedule
from vcut_runtime.bundle.geometry import DIMENSIONS, SizeRange, Sizes
from vcut_runtime.bundle.manifest import Manifest
from vcut_runtime.decoding import Chunk, decode_chunks
from vcut_runtime.errors import UsageError
from vcut_runtime.images import resize_matrix
from vcut_runtime.options import RunOptions
from vcut_runtime.schedule import (
    Schedule,
    added_time_ids,
    check_cut_step,
    default_cut_step,
    guidance_scale,
    karras_sigmas,
    make_schedule,
)


@dataclass(frozen=True)
class RunPlan:
    """One video: its sizes, the steps to play, and the values that the graphs' inputs keep throughout.

    Attributes:
        sizes: of the video.
        schedule: the steps to play.
        first_step: number of the first of them, 1-based.
        chunks: to decode.
        constants: inputs of graphs by name.
    """

    sizes: Sizes
    schedule: Schedule
    first_step: int
    chunks: list[Chunk]
    constants: dict[str, np.ndarray]


def plan_run(manifest: Manifest, options: RunOptions, most_decoded: int | None = None) -> RunPlan:
    """Return what a run with ``options`` does; ``most_decoded`` is the most frames that the backend decodes at a time.

    Raises:
        UsageError: an option does not fit the bundle.
    """
    sizes = choose_sizes(manifest, options)
    guidance = (
        manifest.guidance.min if options.min_guidance_scale is None else options.min_guidance_scale,
        manifest.guidance.max if options.max_guidance_scale is None else options.max_guidance_scale,
    )
    constants = {
        "noise_aug_strength": np.array([options.noise_aug_strength], dtype=np.float32),
        "added_time_ids": added_time_ids(options.fps, options.motion_bucket_id, options.noise_aug_strength),
        "guidance_scale": guidance_scale(*guidance, sizes.frames),
        **resize_matrices(manifest, sizes),
    }
    schedule = choose_schedule(manifest, options, guided=guidance[1] > 1.0)
    return RunPlan(sizes, schedule, options.start_step, _chunks(manifest, options, sizes, most_decoded), constants)


def choose_sizes(manifest: Manifest, options: RunOptions) -> Sizes:
    """Return the sizes of a video: those of the options, else the bundle's.

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
    return Sizes(*(own if value is None else value for own, value in zip(manifest.sizes, given, strict=True)))


def choose_schedule(manifest: Manifest, options: RunOptions, *, guided: bool = True) -> Schedule:
    """Return the steps to play: a schedule of the bundle by name, given rows, or rows made from the options.

    Raises:
        UsageError: there is no such schedule, or the bundle cannot play it.
    """
    if options.schedule is not None:
        return _given_schedule(manifest, options)
    steps = manifest.steps if options.num_inference_steps is None else options.num_inference_steps
    if options.cut_step is None:
        cut_step = default_cut_step(manifest.schedule, manifest.scheduler, steps)
    else:
        cut_step = check_cut_step(options.cut_step, steps)
    if options.cache_interval > 1 and not manifest.deep_features:
        raise UsageError(
            f"cache_interval is {options.cache_interval}, this bundle has no shallow steps: export it with --deep-cache"
        )
    if options.start_step > steps:
        raise UsageError(f"start_step is {options.start_step}: give 1..{steps}")
    return make_schedule(
        karras_sigmas(manifest.scheduler, steps),
        cut_step,
        cache_interval=options.cache_interval,
        guided=guided,
        quality_bias=options.quality_bias,
        start_step=options.start_step,
    )


def _given_schedule(manifest: Manifest, options: RunOptions) -> Schedule:
    defaults = RunOptions()
    for name in ("num_inference_steps", "cut_step", "cache_interval", "quality_bias", "start_step"):
        if getattr(options, name) != getattr(defaults, name):
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
    chunk = usual if options.decode_chunk is None else options.decode_chunk
    fixed = manifest.geometry.decode_frames
    if fixed is not None and chunk != fixed:
        raise UsageError(
            f"decode_chunk is {chunk}, this bundle decodes {fixed} frames at a time: "
            f"export it with --decode-chunk {chunk}"
        )
    if most is not None and chunk > most:
        raise UsageError(
            f"decode_chunk is {chunk}, the decode engine takes up to {most} frames: give at most {most}, "
            f"or run 'vcut build --decode-chunk {chunk}'"
        )
    overlap = options.decode_overlap
    if overlap is None:
        overlap = min(manifest.decode_overlap, (chunk - 1) // 2)
    return decode_chunks(sizes.frames, chunk, overlap, full=fixed is not None)
