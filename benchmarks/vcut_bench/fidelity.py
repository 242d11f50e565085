"""Frames of the compiled pipeline against diffusers' with the same latents and noise, as a function of the cut step.

    vcut bench fidelity BUNDLE... --images DIR [--tca remove,fold] [--quality-bias mean,cond] [--cut-steps none,10..24]

The cut steps of one image and seed share their first steps, which run once. Each video is also compared with the
converged one of the same bundle: many steps, never cut. The work folder keeps the metrics of each image, seed and
setting. Images are fitted to the bundle's size before both pipelines, because diffusers would show its image encoder
the original image, and the bundle sees the fitted one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np

from vcut_bench import metrics
from vcut_bench.compiled import (
    Progress,
    Setting,
    check_interval,
    default_cut_steps,
    fingerprint,
    interval_suffix,
    load_checked,
    open_bundles,
    open_ours,
    sweep,
)
from vcut_bench.numbers import Numbers
from vcut_bench.provenance import about, provenance
from vcut_bench.reference import Reference, diffusers_frames, draw, find_reference
from vcut_bench.takes import Takes, converged_schedule
from vcut_bench.work import (
    MOST_VIDEOS,
    InputImage,
    check_distinct,
    find_images,
    keep,
    load_input,
    read_kept,
    work_folder,
)
from vcut_runtime import Bundle
from vcut_runtime.bundle.geometry import MOST
from vcut_runtime.bundle.manifest import Tca
from vcut_runtime.command_options import MOST_SEED, MOST_THREADS, check_numbers, check_types, merge, option
from vcut_runtime.errors import UsageError, VcutError
from vcut_runtime.images import Fit
from vcut_runtime.schedule import MOST_STEPS, CutStep, QualityBias, check_cut_step, parse_cut_steps

ALONE = ("input_psnr", "motion")  # metrics that diffusers' own videos have too
METRICS = ("psnr", "ssim", "temporal", "lpips", "converged_psnr", *ALONE)


def parse_words(text: str) -> list[Any]:
    """Return ``mean,cond`` as a list."""
    return [word.strip() for word in text.split(",")]


@dataclass(frozen=True)
class FidelityOptions:
    """What is compared with diffusers.

    Raises:
        UsageError: a value is impossible for every bundle.
    """

    reference: str | None = option(None, "Checkpoint that the bundles were made from. [default: what they name]")
    tca: Sequence[Tca] | None = option(
        None, "remove, fold or both; exported if no bundle has it. [default: the bundles']", parse=parse_words
    )
    quality_bias: Sequence[QualityBias] | None = option(None, "mean, cond or both. [default: mean]", parse=parse_words)
    cut_steps: Sequence[CutStep] | None = option(
        None, "Such as none,10,12..24. [default: none,10..24 of 25 steps, in proportion]", parse=parse_cut_steps
    )
    cache_interval: int = option(1, "Compute the deep layers in every so many steps only.", least=1, most=MOST_STEPS)
    seeds: int | None = option(None, "Videos per image. [default: 1; with --vbench 5]", least=1, most=MOST_VIDEOS)
    first_seed: int = option(0, "The first seed; the others follow.", "--seed", least=0, most=MOST_SEED)
    steps: int | None = option(
        None, "Denoising steps. [default: the bundle's]", "--num-inference-steps", "--steps", least=1, most=MOST_STEPS
    )
    fit: Fit = option("crop", "Fit images to the bundle's size: crop, stretch, pad or blur.")
    work: Path | None = option(None, "Keep results here, and continue from kept results. [default: keep nothing]")
    backend: str = option("auto", "Backend of vcut; as vcut run takes it.")
    threads: int | None = option(None, "CPU threads of vcut.", least=1, most=MOST_THREADS)
    decode_chunk: int | None = option(
        None, "Frames that diffusers decodes at a time. [default: all]", least=1, most=MOST.frames
    )

    def __post_init__(self) -> None:
        check_types(self)
        check_numbers(self)
        for name, values, kind in (("tca", self.tca, Tca), ("quality-bias", self.quality_bias, QualityBias)):
            for value in () if values is None else values or [""]:
                if value not in get_args(kind):
                    raise UsageError(f"unknown --{name} {value!r}: choose {' or '.join(get_args(kind))}, or both")


@dataclass(frozen=True)
class Comparison:
    """Bundles by ``tca`` and diffusers as their reference, the videos that both make, and the folder of results."""

    options: FidelityOptions
    bundles: Mapping[Tca, Bundle]
    reference: Reference
    videos: Sequence[tuple[InputImage, int]]  # image and seed; the seeds of an image follow each other
    folder: Path
    progress: Progress

    def frames_file(self, image: InputImage, seed: int) -> Path:
        """Return the file of diffusers' frames."""
        return self.folder / "reference" / f"{image.key}-{seed}.npy"

    def frames(self, image: InputImage, seed: int) -> np.ndarray | None:
        """Return diffusers' frames, None if they are not kept."""
        return read_kept(self.frames_file(image, seed))

    def summary(self, rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, Any]:
        """Return the statistics of each metric from its values, one row for each video."""
        seeds = self.options.seeds or 1
        images = [rows[i : i + seeds] for i in range(0, len(rows), seeds)]
        return {name: metrics.summarize([[row[name] for row in image] for image in images]) for name in names}


def measure(
    bundles: Sequence[str | Path],
    images: str | Path,
    options: FidelityOptions | None = None,
    *,
    progress: Progress = lambda stage, done, total: None,
    **fields: Any,
) -> dict[str, Any]:
    """Compare bundles of one model, one for each ``tca``, with diffusers, over all images in a folder and all seeds.

    The never-cut video is always compared. ``progress`` is called with what is done, done and total.

    Returns:
        Provenance, and ``curves``: for each ``tca``, ``quality_bias`` and ``cut_step`` the mean, standard deviation,
        number and 95 % interval of each metric. PSNR and ``input_psnr`` are in dB, ``temporal`` and ``motion`` in
        levels of 255. ``baseline`` has the metrics that need no reference, of diffusers' videos.

    Raises:
        UsageError: an option is impossible, or the checkpoint is not the bundles'.
        VcutError: a backend failed, or a download.
    """
    options = merge(FidelityOptions, options, fields)
    given = open_bundles(bundles)
    manifest = next(iter(given.values())).manifest
    ref = find_reference(manifest, options.reference, steps=options.steps, decode_chunk=options.decode_chunk)
    cut_steps = default_cut_steps(ref.steps) if options.cut_steps is None else options.cut_steps
    cuts = sorted({check_cut_step(cut, ref.steps) for cut in cut_steps if cut != "none"})
    check_interval(options.cache_interval, given)
    if min(manifest.height, manifest.width) < metrics.SSIM_WINDOW:
        raise UsageError(f"frames of {manifest.height}x{manifest.width} are too small for SSIM: use a larger bundle")
    inputs = [load_input(path, manifest.height, manifest.width, options.fit) for path in find_images(images)]
    check_distinct(inputs)
    seeds = range(options.first_seed, options.first_seed + (options.seeds or 1))
    listed = {"images": [{"name": i.name, "sha256": i.sha256} for i in inputs], "seeds": list(seeds)}
    missing_lpips = metrics.missing_lpips()
    lpips = None if missing_lpips else metrics.load_lpips()
    curves: list[dict[str, Any]] = []
    backends: dict[str, str] = {}
    with work_folder(options.work, {"benchmark": "fidelity", **ref.identity}) as folder:
        comparison = Comparison(options, given, ref, list(product(inputs, seeds)), folder, progress)
        keep(folder / "manifest.json", listed)
        weights = make_reference_frames(comparison)
        alone = [metrics.alone(_kept_frames(comparison, *video), video[0].pixels) for video in comparison.videos]
        for tca in dict.fromkeys(options.tca or given):
            backends[tca], points = compare(comparison, tca, weights, cuts, lpips)
            curves += points
    return {
        "benchmark": "fidelity",
        **provenance("vcut bench fidelity"),
        **about(manifest),
        "steps": ref.steps,
        "cache_interval": options.cache_interval,
        "backends": backends,
        "reference": ref.describe(),
        **listed,
        "fit": options.fit,
        "lpips": f"skipped: {missing_lpips}" if missing_lpips else "AlexNet, version 0.1",
        "baseline": comparison.summary(alone, ALONE),
        "curves": curves,
        "monotone": monotone(curves),
    }


def make_reference_frames(comparison: Comparison) -> Any:
    """Make diffusers' videos that are not kept yet; return what identifies its weights.

    Diffusers' pipeline is loaded only if a video is missing.
    """
    pipeline, ref, videos = None, comparison.reference, comparison.videos
    biases = comparison.folder / "reference" / "biases.json"
    for done, (image, seed) in enumerate(videos):
        comparison.progress("diffusers", done, len(videos))
        if read_kept(biases) is None or comparison.frames(image, seed) is None:
            pipeline = pipeline or load_checked(ref, comparison.bundles, comparison.options.backend, biases)
            keep(comparison.frames_file(image, seed), diffusers_frames(ref, pipeline, image.pixels, seed))
    comparison.progress("diffusers", len(videos), len(videos))
    return read_kept(biases)


def compare(
    comparison: Comparison, tca: Tca, weights: Any, cuts: Sequence[int], lpips: metrics.Lpips | None
) -> tuple[str, list[dict[str, Any]]]:
    """Make the videos of one ``tca`` whose metrics are not kept; return the backend's name and the curves' points."""
    options, ref, folder, progress = comparison.options, comparison.reference, comparison.folder, comparison.progress
    names = [name for name in METRICS if name != "lpips" or lpips]
    biases: Sequence[QualityBias] = options.quality_bias or ("mean",)
    pipeline = open_ours(ref, comparison.bundles, tca, folder, weights, options.backend, options.threads, progress)
    place = folder / "results" / f"{tca}-{fingerprint(pipeline)}{interval_suffix(options.cache_interval)}"

    def kept(setting: Setting, image: InputImage, seed: int) -> Path:
        return place / _name(setting) / f"{image.key}-{seed}.json"

    settings: list[Setting] = [(None, None), *product(biases, cuts)]
    for done, (image, seed) in enumerate(comparison.videos):
        progress(f"vcut, tca {tca}", done, len(comparison.videos))
        missing = [s for s in settings if not _is_whole(read_kept(kept(s, image, seed)), names)]
        if missing:
            target, manifest = _kept_frames(comparison, image, seed), pipeline.manifest
            takes = Takes(pipeline, image.pixels, *draw(manifest, seed))
            converged = takes.frames(converged_schedule(manifest))
            videos = sweep(takes, manifest, missing, ref.steps, cache_interval=options.cache_interval)
            for setting, frames in videos:
                row = {**metrics.compare(frames, target, lpips), **metrics.alone(frames, image.pixels)}
                keep(kept(setting, image, seed), {**row, "converged_psnr": metrics.psnr(frames, converged)})
    progress(f"vcut, tca {tca}", len(comparison.videos), len(comparison.videos))
    points = []
    for bias in biases:
        for setting in [(None, None), *((bias, cut) for cut in cuts)]:
            rows = [read_kept(kept(setting, image, seed)) for image, seed in comparison.videos]
            point = {"tca": tca, "quality_bias": bias, "cut_step": setting[1] or "none"}
            points.append({**point, **comparison.summary(rows, names)})
    return pipeline.backend.name, points


def monotone(curves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each curve whether its mean PSNR never falls from a cut step to the next, and where it does."""
    claims = []
    for tca, bias in dict.fromkeys((curve["tca"], curve["quality_bias"]) for curve in curves):
        own = [c for c in curves if (c["tca"], c["quality_bias"]) == (tca, bias) and c["cut_step"] != "none"]
        means = [curve["psnr"]["mean"] for curve in own]
        falls = [b["cut_step"] for b, x, y in zip(own[1:], means, means[1:], strict=False) if y < x]
        claims.append({"tca": tca, "quality_bias": bias, "psnr_rises_with_cut_step": not falls, "falls_at": falls})
    return claims


def numbers(result: Mapping[str, Any]) -> list[Numbers]:
    """Return one table: a row for diffusers' own videos and one for each setting."""
    heads = {"psnr": "PSNR, dB", "converged_psnr": "to converged", "ssim": "SSIM", "lpips": "LPIPS"}
    heads |= {"temporal": "temporal"}
    heads |= {"input_psnr": "frame 1", "motion": "motion"}
    columns = [name for name in heads if any(name in curve for curve in result["curves"])]
    rows = [["diffusers", "", "", *(_cell(result["baseline"].get(name), name) for name in columns)]]
    for curve in result["curves"]:
        cells = (_cell(curve.get(name), name) for name in columns)
        rows.append([f"TCA {curve['tca']}", curve["quality_bias"], str(curve["cut_step"]), *cells])
    interval = result.get("cache_interval", 1)
    title = "Frames against diffusers'" + (f", cache interval {interval}" if interval > 1 else "")
    note = (
        f"Means over {len(result['images'])} images x {len(result['seeds'])} seeds, of PSNR with the standard "
        "deviation. To converged: PSNR against the same bundle's video of many steps, never cut. Temporal: error of "
        "the change from frame to frame, RMS in levels of 255. Of the video alone: PSNR of its first frame against the "
        "photograph, and motion, the change from frame to frame. "
    )
    claims = [f"TCA {claim['tca']}, bias {claim['quality_bias']}: {_rise(claim)}" for claim in result["monotone"]]
    note += f"PSNR rises with the cut step? {'; '.join(claims)}."
    if (lpips := str(result.get("lpips", ""))).startswith("skipped"):
        note += f" LPIPS {lpips}"
    return [Numbers(title, ["", "bias", "cut step", *(heads[name] for name in columns)], rows, note)]


def _kept_frames(comparison: Comparison, image: InputImage, seed: int) -> np.ndarray:
    frames = comparison.frames(image, seed)
    if frames is None:
        raise VcutError(f"frames vanished from {comparison.folder} while it was measured: run again")
    return frames


def _cell(value: Mapping[str, Any] | None, name: str) -> str:
    if value is None:
        return ""
    if name in ("psnr", "converged_psnr"):
        return f"{value['mean']:.1f} ± {value['std']:.1f}"
    return f"{value['mean']:.3f}" if name in ("ssim", "lpips") else f"{value['mean']:.1f}"


def _rise(claim: Mapping[str, Any]) -> str:
    return "at every step" if claim["psnr_rises_with_cut_step"] else f"not at {', '.join(map(str, claim['falls_at']))}"


def _name(setting: Setting) -> str:
    bias, cut = setting
    return "none" if cut is None else f"{bias}-{cut}"


def _is_whole(row: Any, names: Sequence[str]) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(name), int | float) for name in names)
