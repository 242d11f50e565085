"""The paper's own metrics, through the ``vbench`` package: Table IV's columns for diffusers and for every cut step.

    vcut bench fidelity BUNDLE --images crop/16-9 --vbench vbench2_i2v_full_info.json --work DIR

VBench's image suite has 1,118 prompts on 355 images; the eight columns here look at the 355 prompts that are no camera
motion, five videos each. Videos and scores are kept in the work folder. Scoring runs in a process of its own, if need
be of another Python. This has never run with vbench's real weights: where this project is developed there are none.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from vcut_bench.compact import compact_table
from vcut_bench.compiled import (
    Progress,
    check_interval,
    fingerprint,
    interval_suffix,
    load_checked,
    open_bundles,
    open_ours,
    setting_name,
)
from vcut_bench.paper import paper, quality, setting
from vcut_bench.provenance import about, provenance
from vcut_bench.reference import Reference, diffusers_frames, draw, find_reference
from vcut_bench.vbench_scores import DIMENSIONS, SEEDS, Prompt, check_vbench, missing_files, read_prompts, score
from vcut_bench.work import InputImage, load_input, read_json, work_folder, write_json
from vcut_runtime import Bundle
from vcut_runtime.errors import UsageError
from vcut_runtime.images import Fit
from vcut_runtime.manifest import Tca
from vcut_runtime.schedule import QualityBias, check_cut_step
from vcut_runtime.video import Video

CUT_STEPS = (10, 17, 20)  # Table IV's
_SHORT: Mapping[str, str] = {  # its columns, for a terminal
    "subject_consistency": "subj.\ncons.",
    "background_consistency": "backg.\ncons.",
    "motion_smoothness": "motion\nsmooth",
    "dynamic_degree": "dyn.\ndegree",
    "aesthetic_quality": "aesth.\nqual.",
    "imaging_quality": "imag.\nqual.",
    "video_image_subject_consistency": "v.-i.\nsubj.\ncons.",
    "video_image_background_consistency": "v.-i.\nbackg.\ncons.",
    "latency_s": "time",
}
RATIOS = {"1-1": 1.0, "8-5": 1.6, "7-4": 1.75, "16-9": 16 / 9}  # that the suite's images are cropped to


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
    """Make the suite's videos with diffusers and with a bundle, and score them.

    Arguments without a word are those of :func:`vcut_bench.fidelity.measure`.

    Args:
        bundles: one.
        images: the suite's folder of cropped images, or its folder of one ratio.
        info: the suite's ``vbench2_i2v_full_info.json``.
        quality_bias: one.
        cut_steps: 10, 17 and 20 by default.
        cache_interval: compute the deep layers in every so many steps only; videos never cut are made so too.
        seeds: videos of a prompt, up to 5.
        first_seed: the others follow; further prompts of an image go on where the first ended.
        work: wanted, for this takes days.
        python: the Python that has vbench.
        all_prompts: make the videos of all prompts, those of camera motion too, which no column looks at.

    Returns:
        Provenance, and ``rows`` in the shape of Table IV: for each setting its ``values`` by column, in percent (and
        seconds), None where vbench lacks a file, which ``skipped`` names; beside them the ``paper``'s.

    Raises:
        UsageError: vbench, all its weights, or images of the suite are missing; or an option is impossible.
        VcutError: a backend failed, or vbench; the message says where its log is.
    """
    if work is None:
        raise UsageError("the paper's metrics take thousands of videos: name a folder to keep them in with --work")
    given = open_bundles(bundles)
    if len(given) > 1:
        raise UsageError("the paper's metrics are those of one bundle: name one")
    ((tca, bundle),) = given.items()
    manifest = bundle.manifest
    ref = find_reference(manifest, reference, steps=steps, decode_chunk=decode_chunk)
    cuts = sorted(set(CUT_STEPS if cut_steps is None else cut_steps))
    for cut in cuts:
        check_cut_step(cut, ref.steps)
    check_interval(cache_interval, given)
    if quality_bias not in ("mean", "cond"):
        raise UsageError(f"unknown --quality-bias {quality_bias!r}: choose mean or cond")
    if not 1 <= seeds <= SEEDS or first_seed < 0:
        raise UsageError(f"--seeds is {seeds}: vbench looks for up to {SEEDS} videos of a prompt; --seed from 0 on")
    ratio = min(RATIOS, key=lambda name: abs(RATIOS[name] - manifest.width / manifest.height))
    folder_of_images = Path(images) / ratio if (Path(images) / ratio).is_dir() else Path(images)
    interpreter = str(python or sys.executable)
    check_vbench(interpreter)
    skipped = {column: lacking for column, name in DIMENSIONS.items() if (lacking := "; ".join(missing_files(name)))}
    scored = {column: name for column, name in DIMENSIONS.items() if column not in skipped}
    if not scored:
        raise UsageError("vbench has no weights: " + "; ".join(dict.fromkeys(skipped.values())))
    prompts = read_prompts(Path(info), folder_of_images, None if all_prompts else set(scored.values()))
    suffix = interval_suffix(cache_interval)
    ours: list[tuple[str, int | None]] = [(f"{setting(cut)}{suffix}", cut) for cut in cuts]
    if cache_interval > 1:
        ours.insert(0, (f"none{suffix}", None))
    identity = {
        "benchmark": "vbench",
        **ref.identity,
        "quality_bias": quality_bias,
        "first_seed": first_seed,
        "image_fit": fit,
        "bundle": [list(manifest.sources(name)) for name in sorted(manifest.graphs)],
    }
    with work_folder(Path(work).absolute(), identity) as folder:
        seeds_of = {prompt.text: [prompt.seed(first_seed, i) for i in range(seeds)] for prompt in prompts}
        listed = [{"prompt": p.text, "image": p.image, "seeds": seeds_of[p.text]} for p in prompts]
        write_json(folder / "manifest.json", {"ratio": ratio, "videos": listed})

        def load(prompt: Prompt) -> InputImage:
            return load_input(folder_of_images / prompt.image, manifest.height, manifest.width, fit)

        _make_base(ref, given, backend, prompts, seeds_of, load, folder, progress)
        biases = read_json(folder / "biases.json")
        pipeline = open_ours(ref, given, tca, folder, biases, backend, threads, progress)
        options = {
            "num_inference_steps": ref.steps,
            "quality_bias": quality_bias,
            "cache_interval": cache_interval,
        }
        for name, cut in ours:
            place = folder / "videos" / name
            _make_ours(pipeline, prompts, seeds_of, load, place, {**options, "cut_step": cut}, progress)
        rows = []
        for name, cut, interval in ((setting(None), None, 1), *((*one, cache_interval) for one in ours)):
            scores = {}
            for done, (column, dimension) in enumerate(scored.items()):
                progress(f"vbench, {name}", done, len(scored))
                scores[column] = score(interpreter, folder, name, dimension, prompts, seeds, folder_of_images, ratio)
            progress(f"vbench, {name}", len(scored), len(scored))
            seconds = [read_json(path) for path in (folder / "seconds" / name).glob("*.json")]
            values = {column: found["percent"] for column, found in scores.items()}
            rows.append(
                {
                    "setting": name,
                    "cut_step": cut,
                    "cache_interval": interval,
                    "values": {**values, "latency_s": statistics.median(seconds) if seconds else None},
                    "videos": {column: found["videos"] for column, found in scores.items()},
                    "paper": quality(manifest.model.id, cut) if interval == 1 else None,
                }
            )
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
        "prompts": len(prompts),
        "seeds": seeds,
        "first_seed": first_seed,
        "columns": list(paper().table4_columns),
        "rows": rows,
        "skipped": skipped,
    }


def table(result: Mapping[str, Any]) -> Table:
    """Return Table IV, ours and the paper's, for the terminal."""
    what = f"{result['prompts']} prompts x {result['seeds']} videos, {result['model']}"
    title = f"The paper's Table IV, in percent and seconds: {what}"
    shown = compact_table(title, ["setting"], [_SHORT[name] for name in result["columns"]])
    for row in result["rows"]:
        shown.add_row(_short_label(row), *cells(result["columns"], row["values"]))
        if row["paper"]:
            shown.add_row("  the paper", *cells(result["columns"], row["paper"]), style="dim")
    return shown


def _make_base(
    ref: Reference,
    given: Mapping[Tca, Bundle],
    backend: str,
    prompts: Sequence[Prompt],
    seeds_of: Mapping[str, Sequence[int]],
    load: Any,
    folder: Path,
    progress: Progress,
) -> None:
    """Make diffusers' videos that are missing; its pipeline is loaded only if one is."""
    pipeline: Any = None
    place = folder / "videos" / setting(None)
    for prompt, index, seed in _missing(prompts, seeds_of, place, "diffusers", progress, folder / "biases.json"):
        if pipeline is None:
            pipeline = load_checked(ref, given, backend, folder / "biases.json")
        image = load(prompt).pixels
        start = time.perf_counter()
        frames = diffusers_frames(ref, pipeline, image, seed)
        _save(place, prompt.video(index), Video(frames, fps=7), time.perf_counter() - start)


def _make_ours(
    pipeline: Any,
    prompts: Sequence[Prompt],
    seeds_of: Mapping[str, Sequence[int]],
    load: Any,
    place: Path,
    options: Mapping[str, Any],
    progress: Progress,
) -> None:
    for prompt, index, seed in _missing(prompts, seeds_of, place, f"vcut, {place.name}", progress):
        image = load(prompt).pixels
        noise, latents = draw(pipeline.manifest, seed)
        start = time.perf_counter()
        video = pipeline(image, noise=noise, latents=latents, **options)
        _save(place, prompt.video(index), video, time.perf_counter() - start)


def _missing(
    prompts: Sequence[Prompt],
    seeds_of: Mapping[str, Sequence[int]],
    place: Path,
    stage: str,
    progress: Progress,
    also: Path | None = None,
) -> Iterable[tuple[Prompt, int, int]]:
    """Yield prompt, index and seed of each video that ``place`` lacks; of all while ``also`` is lacking."""
    todo = [(p, i, seed) for p in prompts for i, seed in enumerate(seeds_of[p.text])]
    for done, (prompt, index, seed) in enumerate(todo):
        progress(stage, done, len(todo))
        if not (place / prompt.video(index)).is_file() or (also is not None and not also.is_file()):
            yield prompt, index, seed
    progress(stage, len(todo), len(todo))


def _save(place: Path, name: str, video: Video, seconds: float) -> None:
    """The video last: where it is, its time is too."""
    write_json(
        place.parents[1] / "seconds" / place.name / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.json", seconds
    )
    video.save(place / name)


def heads(result: Mapping[str, Any]) -> list[str]:
    """Return Table IV's columns in words."""
    return [name.replace("video_image", "video-image").replace("_", " ") for name in result["columns"]]


def label(row: Mapping[str, Any]) -> str:
    """Return a row's name."""
    if row["setting"] == setting(None):
        return "diffusers"
    text = "vcut, never cut" if row["cut_step"] is None else f"vcut, c={row['cut_step']}"
    interval = row["cache_interval"]
    return text if interval == 1 else f"{text}, cache interval {interval}"


def cells(columns: Sequence[str], values: Mapping[str, float | None]) -> list[str]:
    """Return a row's values as text, empty where there is none."""
    digits = {"latency_s": 1}
    return ["" if (v := values.get(c)) is None else f"{v:.{digits.get(c, 2)}f}" for c in columns]


def _short_label(row: Mapping[str, Any]) -> str:
    if row["setting"] == setting(None):
        return "diffusers"
    return f"vcut c={setting_name(row['cut_step'], row['cache_interval'])}"
