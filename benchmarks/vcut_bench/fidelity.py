"""Frames of the compiled pipeline against diffusers' with the same latents and noise, as a function of the cut step.

    vcut bench fidelity BUNDLE... --images DIR [--tca remove,fold] [--quality-bias mean,cond] [--cut-steps none,10..24]

The cut steps of one image and seed share their first steps: the never-cut video is made once, and every cut starts from
its latents before step c, which are the same to the bit. What was found stays in the work folder, by image, seed and
setting. Images are fitted to the bundle's size before both pipelines, for diffusers shows its image encoder the
original, the bundle the fitted one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer

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
    parse_cut_steps,
    sweep,
)
from vcut_bench.numbers import Numbers, show
from vcut_bench.provenance import about, provenance, save
from vcut_bench.reference import Reference, diffusers_frames, find_reference
from vcut_bench.work import (
    InputImage,
    check_distinct,
    find_images,
    load_input,
    read_frames,
    read_json,
    work_folder,
    write_frames,
    write_json,
)
from vcut_runtime import Bundle
from vcut_runtime.errors import UsageError, VcutError
from vcut_runtime.images import Fit
from vcut_runtime.manifest import Tca
from vcut_runtime.schedule import QualityBias, check_cut_step

METRICS = ("psnr", "ssim", "temporal", "lpips", "input_psnr", "motion")
BASELINE = ("input_psnr", "motion")  # of diffusers' own videos


def measure(
    bundles: Sequence[str | Path],
    images: str | Path,
    *,
    reference: str | None = None,
    tca: Sequence[Tca] | None = None,
    quality_bias: Sequence[QualityBias] = ("mean",),
    cut_steps: Sequence[int] | None = None,
    cache_interval: int = 1,
    seeds: int = 1,
    first_seed: int = 0,
    steps: int | None = None,
    fit: Fit = "crop",
    work: str | Path | None = None,
    backend: str = "auto",
    threads: int | None = None,
    decode_chunk: int | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Compare bundles of one model with diffusers, over all images and seeds.

    Args:
        bundles: one, or one for each ``tca``.
        images: a folder.
        reference: the checkpoint that the bundles were made from; what their manifest names by default.
        tca: modes to compare, those of the bundles by default. Modes without a bundle are compiled.
        quality_bias: biases of the quality improvement stage to compare.
        cut_steps: first quality improvement steps, 1-based; 10 to 24 of 25, in proportion, by default. The video that
            is never cut is always compared.
        cache_interval: compute the deep layers in every so many steps only, see :class:`vcut_runtime.Pipeline`.
        seeds: videos per image.
        first_seed: the others follow.
        steps: denoising steps; the bundle's by default.
        fit: how images are fitted to the bundle's size.
        work: folder of what was found, so that a second call goes on; a temporary one by default.
        backend: of the bundles.
        threads: CPU threads of the bundles.
        decode_chunk: frames that diffusers decodes at a time; all by default, as it does.
        progress: called with what is done, done and total.

    Returns:
        Provenance, and ``curves``: for each ``tca``, ``quality_bias`` and ``cut_step`` (None is never cut) the mean,
        standard deviation, number and 95 % interval of each metric. PSNR and ``input_psnr`` in dB, ``temporal`` and
        ``motion`` in levels of 255. ``baseline`` has what needs no reference, of diffusers' videos.

    Raises:
        UsageError: an option is impossible, or the checkpoint is not the bundles'.
        VcutError: a backend failed, or a download.
    """
    given = open_bundles(bundles)
    manifest = next(iter(given.values())).manifest
    ref = find_reference(manifest, reference, steps=steps, decode_chunk=decode_chunk)
    cuts = default_cut_steps(ref.steps) if cut_steps is None else sorted(set(cut_steps))
    modes = list(dict.fromkeys(tca or given))
    check_options(modes, quality_bias, cuts, ref.steps, seeds, first_seed)
    check_interval(cache_interval, given)
    if min(manifest.height, manifest.width) < metrics.SSIM_WINDOW:
        raise UsageError(f"frames of {manifest.height}x{manifest.width} are too small for SSIM: use a larger bundle")
    inputs = [load_input(path, manifest.height, manifest.width, fit) for path in find_images(images)]
    check_distinct(inputs)
    numbers = list(range(first_seed, first_seed + seeds))
    lacking = metrics.missing_lpips()
    lpips = None if lacking else metrics.load_lpips()
    names = [name for name in METRICS if name != "lpips" or lpips]
    settings: list[Setting] = [(None, None), *product(quality_bias, cuts)]
    curves: list[dict[str, Any]] = []
    backends: dict[str, str] = {}
    with work_folder(work, {"benchmark": "fidelity", **ref.identity}) as folder:
        listed = {"images": [{"name": i.name, "sha256": i.sha256} for i in inputs], "seeds": numbers}
        write_json(folder / "manifest.json", listed)
        todo = list(product(inputs, numbers))
        make_reference_frames(ref, given, backend, inputs, numbers, folder, progress)
        alone = [[metrics.alone(_kept(ref, folder, i, seed), i.pixels) for seed in numbers] for i in inputs]
        baseline = _summary(alone, BASELINE)
        biases = read_json(folder / "reference" / "biases.json")
        for mode in modes:
            pipeline = open_ours(ref, given, mode, folder, biases, backend, threads, progress)
            backends[mode] = pipeline.backend.name
            place = folder / "results" / f"{mode}-{fingerprint(pipeline)}{interval_suffix(cache_interval)}"
            options = {"cache_interval": cache_interval}
            for done, (image, seed) in enumerate(todo):
                progress(f"vcut, tca {mode}", done, len(todo))
                paths = {setting: place / _name(setting) / f"{image.key}-{seed}.json" for setting in settings}
                missing = [setting for setting, path in paths.items() if not _is_whole(read_json(path), names)]
                if missing:
                    target = _kept(ref, folder, image, seed)
                    for setting, frames in sweep(pipeline, image.pixels, seed, missing, ref.steps, options=options):
                        found = {**metrics.compare(frames, target, lpips), **metrics.alone(frames, image.pixels)}
                        write_json(paths[setting], found)
            progress(f"vcut, tca {mode}", len(todo), len(todo))
            for bias, cut in product(quality_bias, [None, *cuts]):
                where = place / _name((None, None) if cut is None else (bias, cut))
                kept = [[read_json(where / f"{i.key}-{seed}.json") for seed in numbers] for i in inputs]
                curves.append({"tca": mode, "quality_bias": bias, "cut_step": cut, **_summary(kept, names)})
    return {
        "benchmark": "fidelity",
        **provenance("vcut bench fidelity"),
        **about(manifest),
        "steps": ref.steps,
        "cache_interval": cache_interval,
        "backends": backends,
        "reference": ref.describe(),
        **listed,
        "fit": fit,
        "lpips": f"skipped: {lacking}" if lacking else "AlexNet, version 0.1",
        "baseline": baseline,
        "curves": curves,
        "monotone": monotone(curves),
    }


def check_options(
    tca: Sequence[str], quality_bias: Sequence[str], cut_steps: Sequence[int], steps: int, seeds: int, first_seed: int
) -> None:
    """Raise UsageError where an option is impossible."""
    for option, values, known in (
        ("--tca", tca, ("remove", "fold")),
        ("--quality-bias", quality_bias, ("mean", "cond")),
    ):
        if unknown := [value for value in values if value not in known] or ([""] if not values else []):
            raise UsageError(f"unknown {option} {unknown[0]!r}: choose {' or '.join(known)}, or both")
    for cut in cut_steps:
        check_cut_step(cut, steps)
    if min(seeds, steps) < 1 or first_seed < 0:
        raise UsageError("--seeds and --steps must be at least 1, --seed at least 0")


def make_reference_frames(
    ref: Reference,
    given: Mapping[Tca, Bundle],
    backend: str,
    images: Sequence[InputImage],
    seeds: Sequence[int],
    folder: Path,
    progress: Progress,
) -> None:
    """Make diffusers' videos that are not kept yet; its pipeline is loaded only if one is missing."""
    pipeline = None
    biases = folder / "reference" / "biases.json"
    todo = list(product(images, seeds))
    for done, (image, seed) in enumerate(todo):
        progress("diffusers", done, len(todo))
        path = _reference_path(folder, image, seed)
        if read_json(biases) is not None and read_frames(path, _shape(ref)) is not None:
            continue
        if pipeline is None:
            pipeline = load_checked(ref, given, backend, biases)
        write_frames(path, diffusers_frames(ref, pipeline, image.pixels, seed))
    progress("diffusers", len(todo), len(todo))


def monotone(curves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each curve whether its mean PSNR never falls from a cut step to the next, and where it does."""
    found = []
    for mode, bias in dict.fromkeys((curve["tca"], curve["quality_bias"]) for curve in curves):
        own = [c for c in curves if (c["tca"], c["quality_bias"]) == (mode, bias) and c["cut_step"] is not None]
        means = [curve["psnr"]["mean"] for curve in own]
        falls = [b["cut_step"] for b, x, y in zip(own[1:], means, means[1:], strict=False) if y < x]
        found.append({"tca": mode, "quality_bias": bias, "psnr_rises_with_cut_step": not falls, "falls_at": falls})
    return found


def numbers(result: Mapping[str, Any]) -> list[Numbers]:
    """Return one table: a row for diffusers' own videos and one for each setting."""
    heads = {"psnr": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS", "temporal": "temporal"}
    heads |= {"input_psnr": "frame 1", "motion": "motion"}
    columns = [name for name in heads if any(name in curve for curve in result["curves"])]
    rows = [["diffusers", "", "", *(_cell(result["baseline"].get(name), name) for name in columns)]]
    for curve in result["curves"]:
        cut = "none" if curve["cut_step"] is None else str(curve["cut_step"])
        cells = (_cell(curve.get(name), name) for name in columns)
        rows.append([f"TCA {curve['tca']}", curve["quality_bias"], cut, *cells])
    interval = result.get("cache_interval", 1)
    title = "Frames against diffusers'" + (f", cache interval {interval}" if interval > 1 else "")
    note = (
        f"Means over {len(result['images'])} images x {len(result['seeds'])} seeds, of PSNR with the standard "
        "deviation. Temporal: error of the change from frame to frame, RMS in levels of 255. Of the video alone: PSNR "
        "of its first frame against the photograph, and motion, the change from frame to frame. "
    )
    claims = [f"TCA {claim['tca']}, bias {claim['quality_bias']}: {_rise(claim)}" for claim in result["monotone"]]
    note += f"PSNR rises with the cut step? {'; '.join(claims)}."
    lpips = str(result.get("lpips", ""))
    return [Numbers(title, ["", "bias", "cut step", *(heads[name] for name in columns)], rows,
                    f"{note} LPIPS {lpips}" if lpips.startswith("skipped") else note)]  # fmt: skip


def _cell(value: Mapping[str, Any] | None, name: str) -> str:
    if value is None:
        return ""
    if name == "psnr":
        return f"{value['mean']:.1f} ± {value['std']:.1f}"
    return f"{value['mean']:.3f}" if name in ("ssim", "lpips") else f"{value['mean']:.1f}"


def _rise(claim: Mapping[str, Any]) -> str:
    return "at every step" if claim["psnr_rises_with_cut_step"] else f"not at {', '.join(map(str, claim['falls_at']))}"


def fidelity_command(
    bundles: Annotated[list[Path], typer.Argument(help="Of one model, one for each --tca.", show_default=False)],
    images: Annotated[Path, typer.Option(help="Folder of images.", show_default=False)],
    reference: Annotated[
        str | None,
        typer.Option(metavar="CHECKPOINT", help="What the bundles were made from. [default: what they name]"),
    ] = None,
    tca: Annotated[
        str | None, typer.Option(help="remove, fold or both; compiled where no bundle has it. [default: the bundles']")
    ] = None,
    quality_bias: Annotated[str, typer.Option(help="mean, cond or both.")] = "mean",
    cut_steps: Annotated[
        str | None, typer.Option(help="Such as none,10,12..24. [default: none,10..24 of 25 steps, in proportion]")
    ] = None,
    cache_interval: Annotated[
        int, typer.Option(min=1, help="Compute the deep layers in every so many steps only.")
    ] = 1,
    seeds: Annotated[int | None, typer.Option(min=1, help="Videos per image. [default: 1; with --vbench 5]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    steps: Annotated[
        int | None, typer.Option("--num-inference-steps", "--steps", help="Denoising steps. [default: the bundle's]")
    ] = None,
    fit: Annotated[str, typer.Option(help="Fit images to the bundle's size: crop or stretch.")] = "crop",
    work: Annotated[
        Path | None, typer.Option(help="Keep what is found here, and go on from what is kept. [default: keep nothing]")
    ] = None,
    vbench: Annotated[
        Path | None,
        typer.Option(
            metavar="INFO.json",
            help="The paper's metrics instead, through the vbench package: its vbench2_i2v_full_info.json.",
        ),
    ] = None,
    vbench_python: Annotated[
        Path | None, typer.Option(help="Python of the environment that has vbench. [default: this one]")
    ] = None,
    vbench_all: Annotated[
        bool, typer.Option("--vbench-all", help="Make the videos of all prompts, not only of those that are scored.")
    ] = False,
    backend: Annotated[str, typer.Option(help="Of vcut; as vcut run takes it.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of vcut.")] = None,
    decode_chunk: Annotated[
        int | None, typer.Option(min=1, help="Frames that diffusers decodes at a time. [default: all]")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the result here, as JSON.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Compare videos with diffusers' own, frame by frame, or by the paper's metrics."""
    from vcut_bench import vbench as vbench_module
    from vcut_runtime.terminal import print_json, progress_bars

    if vbench is not None and tca is not None:
        raise UsageError("--tca with --vbench is the bundle's: leave it out")
    common: dict[str, Any] = {
        "reference": reference,
        "cut_steps": None if cut_steps is None else parse_cut_steps(cut_steps),
        "cache_interval": cache_interval,
        "first_seed": seed,
        "steps": steps,
        "fit": fit,
        "work": work,
        "backend": backend,
        "threads": threads,
        "decode_chunk": decode_chunk,
    }
    with progress_bars(quiet or json) as progress:
        if vbench is None:
            modes = None if tca is None else cast(Any, _words(tca))
            biases = cast(Any, _words(quality_bias))
            result = measure(
                bundles,
                images,
                tca=modes,
                quality_bias=biases,
                seeds=seeds or 1,
                progress=progress,
                **common,
            )
        else:
            result = vbench_module.measure(
                bundles,
                images,
                vbench,
                quality_bias=cast(Any, quality_bias),
                seeds=seeds or vbench_module.SEEDS,
                python=vbench_python,
                all_prompts=vbench_all,
                progress=progress,
                **common,
            )
    if output is not None:
        save(result, output)
    if json:
        print_json(result)
    else:
        show(numbers(result) if vbench is None else vbench_module.numbers(result))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _name(setting: Setting) -> str:
    bias, cut = setting
    return "none" if cut is None else f"{bias}-{cut}"


def _shape(ref: Reference) -> tuple[int, ...]:
    return (*ref.manifest.sizes, 3)


def _reference_path(folder: Path, image: InputImage, seed: int) -> Path:
    return folder / "reference" / f"{image.key}-{seed}.npy"


def _kept(ref: Reference, folder: Path, image: InputImage, seed: int) -> np.ndarray:
    found = read_frames(_reference_path(folder, image, seed), _shape(ref))
    if found is None:
        raise VcutError(f"frames vanished from {folder} while it was measured: run again")
    return found


def _is_whole(found: Any, names: Sequence[str]) -> bool:
    return isinstance(found, dict) and all(isinstance(found.get(name), int | float) for name in names)


def _summary(groups: Sequence[Sequence[Mapping[str, float]]], names: Sequence[str]) -> dict[str, Any]:
    return {name: metrics.summarize([[found[name] for found in group] for group in groups]) for name in names}
