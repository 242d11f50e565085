"""The paper's metrics through the ``vbench`` package: the columns of Table IV for diffusers and for each cut step.

    vcut bench fidelity BUNDLE --images crop/16-9 --vbench vbench2_i2v_full_info.json --work DIR

VBench's image suite has 1,118 prompts on 355 images. The columns score 355 prompts, with five videos each; the other
prompts are about camera motion. The work folder keeps videos and scores. ``vbench_worker.py`` scores them in the Python
that has ``vbench``. This code has never run with the real weights of ``vbench``, only with a stand-in for the package.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from vcut_bench.compiled import (
    Progress,
    check_interval,
    fingerprint,
    interval_suffix,
    load_checked,
    open_bundles,
    open_ours,
)
from vcut_bench.numbers import Numbers
from vcut_bench.paper import paper, quality, setting
from vcut_bench.provenance import about, provenance
from vcut_bench.reference import diffusers_frames, draw, find_reference
from vcut_bench.vbench_scores import DIMENSIONS, SEEDS, Clip, check_vbench, missing_files, read_suite, score
from vcut_bench.work import keep, load_input, read_kept, work_folder
from vcut_runtime.errors import UsageError
from vcut_runtime.images import Fit
from vcut_runtime.schedule import CutStep, QualityBias, check_cut_step
from vcut_runtime.video import Video

CUT_STEPS = (10, 17, 20)  # of Table IV
RATIOS = {"1-1": 1.0, "8-5": 1.6, "7-4": 1.75, "16-9": 16 / 9}  # the suite has its images cropped to each


def measure(
    bundles: Sequence[str | Path],
    images: str | Path,
    info: str | Path,
    *,
    reference: str | None = None,
    quality_bias: QualityBias = "mean",
    cut_steps: Sequence[int] | None = None,
    cache_interval: int = 1,
    seeds: int = SEEDS,
    first_seed: int = 0,
    steps: int | None = None,
    fit: Fit = "crop",
    work: str | Path | None = None,
    python: str | Path | None = None,
    all_prompts: bool = False,
    backend: str = "auto",
    threads: int | None = None,
    decode_chunk: int | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Make the suite's videos with diffusers and with one bundle, and score them.

    ``images`` is the suite's folder of cropped images, or its folder of one ratio; ``info`` is the suite's
    ``vbench2_i2v_full_info.json``; ``python`` has vbench. With ``all_prompts`` there are videos of prompts that no
    column scores. The other arguments are those of :func:`vcut_bench.fidelity.measure`.

    Returns:
        Provenance, and ``rows`` in the shape of Table IV: for each setting its ``values`` by column, in percent, with
        the median seconds of a video, and the ``paper``'s. ``skipped`` names the files that a missing column needs.

    Raises:
        UsageError: vbench, all its weights, or images of the suite are missing; or an option is impossible.
        VcutError: a backend failed, or vbench.
    """
    if work is None:
        raise UsageError("the paper's metrics take thousands of videos: name a folder to keep them in with --work")
    given = open_bundles(bundles)
    if len(given) > 1:
        raise UsageError("the paper's metrics are those of one bundle: name one")
    ((tca, bundle),) = given.items()
    manifest = bundle.manifest
    ref = find_reference(manifest, reference, steps=steps, decode_chunk=decode_chunk)
    cuts = sorted({check_cut_step(cut, ref.steps) for cut in cut_steps or CUT_STEPS})
    check_interval(cache_interval, given)
    if quality_bias not in ("mean", "cond"):
        raise UsageError(f"unknown --quality-bias {quality_bias!r}: choose mean or cond")
    if not 1 <= seeds <= SEEDS or first_seed < 0:
        raise UsageError(f"--seeds is {seeds}: vbench looks for up to {SEEDS} videos of a prompt; --seed from 0 on")
    interpreter = str(python or sys.executable)
    check_vbench(interpreter)
    skipped = {column: "; ".join(missing) for column, name in DIMENSIONS.items() if (missing := missing_files(name))}
    scored = {column: name for column, name in DIMENSIONS.items() if column not in skipped}
    if not scored:
        raise UsageError("vbench has no weights: put them at " + "; ".join(dict.fromkeys(skipped.values())))
    ratio = min(RATIOS, key=lambda name: abs(RATIOS[name] - manifest.width / manifest.height))
    cropped = Path(images) / ratio if (Path(images) / ratio).is_dir() else Path(images)
    clips = read_suite(Path(info), cropped, None if all_prompts else set(scored.values()), seeds, first_seed)
    identity = {
        "benchmark": "vbench",
        **ref.identity,
        "quality_bias": quality_bias,
        "first_seed": first_seed,
        "image_fit": fit,
        "bundle": [list(manifest.sources(name)) for name in sorted(manifest.graphs)],
    }
    settings: dict[str, tuple[CutStep, int]] = {setting("none"): ("none", 1)}
    if cache_interval > 1:
        settings[f"none{interval_suffix(cache_interval)}"] = "none", cache_interval
    settings |= {setting(cut) + interval_suffix(cache_interval): (cut, cache_interval) for cut in cuts}
    with work_folder(Path(work).absolute(), identity) as folder:
        listed = [{"video": clip.name, "image": clip.prompt.image_name, "seed": clip.seed} for clip in clips]
        keep(folder / "manifest.json", {"ratio": ratio, "videos": listed})

        def load(clip: Clip) -> np.ndarray:
            return load_input(cropped / clip.prompt.image_name, manifest.height, manifest.width, fit).pixels

        def base(clip: Clip) -> np.ndarray:
            return diffusers_frames(ref, diffusers, load(clip), clip.seed)

        def ours(cut: CutStep, clip: Clip) -> np.ndarray:
            noise, latents = draw(manifest, clip.seed)
            return pipeline(load(clip), noise=noise, latents=latents, cut_step=cut, **common).frames

        biases, original = folder / "biases.json", setting("none")
        diffusers = None
        if read_kept(biases) is None or missing_videos(clips, folder, original):
            diffusers = load_checked(ref, given, backend, biases)
        seconds = {original: make_videos(clips, folder, original, base, progress)}
        diffusers = None  # its weights and ours need not fit together
        pipeline = open_ours(ref, given, tca, folder, read_kept(biases), backend, threads, progress)
        common = {"num_inference_steps": ref.steps, "quality_bias": quality_bias, "cache_interval": cache_interval}
        for name, (cut, _) in list(settings.items())[1:]:
            seconds[name] = make_videos(clips, folder, name, partial(ours, cut), progress)
        scores: dict[str, dict[str, Any]] = {name: {} for name in settings}
        for done, (name, column) in enumerate(product(settings, scored)):
            progress("vbench", done, len(settings) * len(scored))
            scores[name][column] = score(interpreter, folder, name, scored[column], clips, cropped, ratio)
        progress("vbench", len(settings) * len(scored), len(settings) * len(scored))
    rows = [
        {
            "setting": name,
            "cut_step": cut,
            "cache_interval": interval,
            "values": {
                **{column: kept["percent"] for column, kept in scores[name].items()},
                "latency_s": seconds[name],
            },
            "videos": {column: kept["videos"] for column, kept in scores[name].items()},
            "paper": quality(manifest.model.id, cut) if interval == 1 else None,
        }
        for name, (cut, interval) in settings.items()
    ]
    return {
        "benchmark": "vbench",
        **provenance("vcut bench fidelity"),
        **about(manifest),
        "steps": ref.steps,
        "tca": tca,
        "quality_bias": quality_bias,
        "cache_interval": cache_interval,
        "backend": pipeline.backend.name,
        "bundle": fingerprint(pipeline),
        "reference": ref.describe(),
        "prompts": len(clips) // seeds,
        "seeds": seeds,
        "first_seed": first_seed,
        "columns": list(paper().table4_columns),
        "rows": rows,
        "skipped": skipped,
    }


def numbers(result: Mapping[str, Any]) -> list[Numbers]:
    """Return Table IV turned over: a row for each metric, and a column for each setting with the paper's beside it."""
    columns: list[tuple[str, Mapping[str, float]]] = []
    for row in result["rows"]:
        cut, interval = row["cut_step"], row["cache_interval"]
        name = "vcut, never cut" if cut == "none" else f"vcut, c={cut}"
        name += f", cache interval {interval}" if interval > 1 else ""
        columns.append(("diffusers" if row["setting"] == setting("none") else name, row["values"]))
        if row["paper"]:
            columns.append(("the paper", row["paper"]))
    rows = []
    for metric in result["columns"]:
        title = metric.replace("video_image", "video-image").replace("latency_s", "seconds").replace("_", " ")
        rows.append([title, *(f"{values[metric]:.2f}" if metric in values else "" for _, values in columns)])
    note = f"In percent, and seconds of a video; {result['prompts']} prompts x {result['seeds']} videos."
    for metric, missing in result["skipped"].items():
        note += f" No {metric.replace('_', ' ')} without {missing}."
    return [Numbers("The paper's Table IV", ["", *(name for name, _ in columns)], rows, note)]


def missing_videos(clips: Sequence[Clip], folder: Path, name: str) -> list[Clip]:
    """Return the videos that a setting lacks, or whose time is unknown."""
    seconds = read_kept(folder / "seconds" / f"{name}.json") or {}
    return [clip for clip in clips if clip.name not in seconds or not (folder / "videos" / name / clip.name).is_file()]


def make_videos(
    clips: Sequence[Clip], folder: Path, name: str, make: Callable[[Clip], np.ndarray], progress: Progress
) -> float:
    """Make the videos that a setting lacks; return the median of the seconds that one takes."""
    path = folder / "seconds" / f"{name}.json"
    seconds: dict[str, float] = read_kept(path) or {}
    missing = missing_videos(clips, folder, name)
    for done, clip in enumerate(missing, len(clips) - len(missing)):
        progress(f"videos, {name}", done, len(clips))
        start = time.perf_counter()
        frames = make(clip)
        seconds[clip.name] = time.perf_counter() - start
        Video(frames, fps=7).save(folder / "videos" / name / clip.name)
        keep(path, seconds)
    progress(f"videos, {name}", len(clips), len(clips))
    return statistics.median(seconds[clip.name] for clip in clips)
