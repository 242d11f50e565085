"""The paper's metrics through the ``vbench`` package: the columns of Table IV for diffusers and for each cut step.

    vcut bench fidelity BUNDLE --images crop/16-9 --vbench vbench2_i2v_full_info.json --work DIR

Images and prompts are those of VBench's image suite, and SVD does not read the prompts. The columns score 355 prompts,
with five videos each. The work folder keeps videos and scores. ``vbench_worker.py`` scores them in the Python that has
``vbench``. This code has never run with the real weights of ``vbench``, only with a stand-in for the package.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
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
from vcut_bench.fidelity import FidelityOptions
from vcut_bench.numbers import Numbers
from vcut_bench.paper import paper, quality, setting
from vcut_bench.provenance import about, provenance
from vcut_bench.reference import diffusers_frames, draw, find_reference
from vcut_bench.work import keep, load_pixels, read_kept, work_folder
from vcut_runtime.command_options import merge
from vcut_runtime.errors import UsageError, VcutError
from vcut_runtime.schedule import CutStep, check_cut_step
from vcut_runtime.video import Video

CUT_STEPS = (10, 17, 20)  # of Table IV
SEEDS = 5  # videos of a prompt; vbench looks for no more
# Table IV's columns in vbench's words
_RENAMED = {"video_image_subject_consistency": "i2v_subject", "video_image_background_consistency": "i2v_background"}
DIMENSIONS = {column: _RENAMED.get(column, column) for column in paper().table4_columns if column != "latency_s"}
FileName = Annotated[str, msgspec.Meta(pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*$", max_length=240)]
_WORKER = Path(__file__).with_name("vbench_worker.py")
_FIND = "import sys, importlib.util as u; print(*[name for name in sys.argv[1:] if u.find_spec(name) is None])"


class Prompt(msgspec.Struct, frozen=True):
    """A prompt in the suite's file. vbench names videos by it."""

    prompt_en: FileName
    image_name: FileName
    dimension: frozenset[str]  # what scores it


class Clip(NamedTuple):
    """A video of the suite: its file name, where it comes from, and the seed of its noise."""

    name: str
    prompt: Prompt
    seed: int


def measure(
    bundles: Sequence[str | Path],
    images: str | Path,
    info: str | Path,
    options: FidelityOptions | None = None,
    *,
    python: str | Path | None = None,
    progress: Progress = lambda stage, done, total: None,
    **fields: Any,
) -> dict[str, Any]:
    """Make the suite's videos with diffusers and with one bundle, and score them.

    ``images`` is the suite's folder of images cropped to one ratio; ``info`` is its ``vbench2_i2v_full_info.json``;
    ``python`` has vbench.

    Returns:
        Provenance, and ``rows`` in the shape of Table IV: for each setting its ``values`` by column, in percent, with
        the median seconds of a video, and the ``paper``'s.

    Raises:
        UsageError: vbench or images of the suite are missing; or an option is impossible.
        VcutError: a backend failed, or vbench.
    """
    options = merge(FidelityOptions, options, fields)
    seeds, interval = options.seeds or SEEDS, options.cache_interval
    quality_bias, *others = options.quality_bias or ["mean"]
    if len(bundles) > 1 or others or options.tca is not None:
        raise UsageError("the paper's metrics take one bundle and one --quality-bias, and --tca is the bundle's")
    if options.work is None:
        raise UsageError("the paper's metrics take thousands of videos: name a folder to keep them in with --work")
    if seeds > SEEDS:
        raise UsageError(f"--seeds is {seeds}: vbench looks for up to {SEEDS} videos of a prompt")
    given = open_bundles(bundles)
    ((tca, bundle),) = given.items()
    manifest = bundle.manifest
    check_interval(interval, given)
    ref = find_reference(manifest, options.reference, steps=options.steps, decode_chunk=options.decode_chunk)
    cut_steps = CUT_STEPS if options.cut_steps is None else options.cut_steps
    cuts = sorted({check_cut_step(cut, ref.steps) for cut in cut_steps if cut != "none"})
    check_vbench(interpreter := str(python or sys.executable))
    clips = read_suite(Path(info), Path(images), range(options.first_seed, options.first_seed + seeds))
    identity = {
        "benchmark": "vbench",
        **ref.identity,
        "quality_bias": quality_bias,
        "seeds": [options.first_seed, seeds],
        "image_fit": options.fit,
        "bundle": [list(manifest.sources(name)) for name in sorted(manifest.graphs)],
    }
    with work_folder(Path(options.work).absolute(), identity) as folder:
        biases = folder / "biases.json"
        diffusers = cache(partial(load_checked, ref, given, options.backend, biases))
        common = {"num_inference_steps": ref.steps, "quality_bias": quality_bias, "cache_interval": interval}

        def load(clip: Clip) -> np.ndarray:
            return load_pixels(Path(images) / clip.prompt.image_name, manifest.height, manifest.width, options.fit)

        def base(clip: Clip) -> np.ndarray:
            return diffusers_frames(ref, diffusers(), load(clip), clip.seed)

        def ours(cut: CutStep, clip: Clip) -> np.ndarray:
            noise, latents = draw(manifest, clip.seed)
            return pipeline(load(clip), noise=noise, latents=latents, cut_step=cut, **common).frames

        def row(name: str, cut: CutStep, interval: int, make: Callable[[Clip], np.ndarray]) -> dict[str, Any]:
            values = {"latency_s": make_videos(clips, folder, name, make, progress)}
            theirs = quality(manifest.model.id, cut) if interval == 1 else None
            return {"setting": name, "cut_step": cut, "cache_interval": interval, "values": values, "paper": theirs}

        if read_kept(biases) is None:
            diffusers()
        rows = [row(setting("none"), "none", 1, base)]
        diffusers.cache_clear()  # its weights and ours need not fit together
        pipeline = open_ours(ref, given, tca, folder, read_kept(biases), options.backend, options.threads, progress)
        if interval > 1:
            rows.append(row(f"none{interval_suffix(interval)}", "none", interval, partial(ours, "none")))
        for cut in cuts:
            rows.append(row(setting(cut) + interval_suffix(interval), cut, interval, partial(ours, cut)))
        for done, made in enumerate(rows):
            progress("vbench", done, len(rows))
            made["values"] = {**score(interpreter, folder, made["setting"], clips, Path(images)), **made["values"]}
        progress("vbench", len(rows), len(rows))
    return {
        "benchmark": "vbench",
        **provenance("vcut bench fidelity"),
        **about(manifest),
        "steps": ref.steps,
        "tca": tca,
        "quality_bias": quality_bias,
        "cache_interval": interval,
        "backend": pipeline.backend.name,
        "bundle": fingerprint(pipeline),
        "reference": ref.describe(),
        "prompts": len(clips) // seeds,
        "seeds": seeds,
        "first_seed": options.first_seed,
        "columns": list(paper().table4_columns),
        "rows": rows,
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
    return [Numbers("The paper's Table IV", ["", *(name for name, _ in columns)], rows, note)]


def check_vbench(python: str) -> None:
    """Raise a UsageError if the given Python lacks vbench or what it needs."""
    command = [python, "-c", _FIND, "vbench", "vbench2_beta_i2v", "clip", "dreamsim"]
    try:
        missing = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"cannot run {python} ({error}): name vbench's Python with --vbench-python") from None
    if missing:
        raise UsageError(
            f"{python} lacks {', '.join(missing)}: pip install vbench openai-clip dreamsim into an environment of its "
            "own (vbench needs transformers 4.33 and numpy 1), and name its Python with --vbench-python"
        )


def read_suite(info: Path, images: Path, seeds: Sequence[int]) -> list[Clip]:
    """Return the suite's videos that a column scores, one for each prompt and seed.

    Raises:
        UsageError: the file is not the suite's, its names are not file names, or an image is missing.
    """
    try:
        prompts = msgspec.json.decode(info.read_bytes(), type=list[Prompt])
    except (OSError, ValueError) as error:
        raise UsageError(f"{info} is not vbench2_i2v_full_info.json of Vchitect/VBench ({error})") from None
    scored = [prompt for prompt in prompts if prompt.dimension & set(DIMENSIONS.values())]
    if not scored or len({prompt.prompt_en for prompt in scored}) < len(scored):
        raise UsageError(f"{info} has a prompt twice, or none that is scored: take the file from Vchitect/VBench")
    missing = sorted(name for name in {prompt.image_name for prompt in scored} if not (images / name).is_file())
    if missing:
        raise UsageError(
            f"{images} lacks {len(missing)} of the suite's images, {missing[0]!r} among them: give a folder in "
            "data/crop, which download_data.sh of vbench fills, as --images"
        )
    return [Clip(f"{p.prompt_en}-{i}.mp4", p, seed) for p in scored for i, seed in enumerate(seeds)]


def make_videos(
    clips: Sequence[Clip], folder: Path, name: str, make: Callable[[Clip], np.ndarray], progress: Progress
) -> float:
    """Make the videos that a setting lacks; return the median of the seconds that ``make`` takes."""
    path, videos = folder / "seconds" / f"{name}.json", folder / "videos" / name
    seconds: dict[str, float] = read_kept(path) or {}
    for unfinished in videos.glob(".*"):  # of a run that was killed; vbench looks at the suffix of any file here
        shutil.rmtree(unfinished)
    for done, clip in enumerate(clips):
        progress(f"videos, {name}", done, len(clips))
        if clip.name not in seconds or not (videos / clip.name).is_file():
            start = time.perf_counter()
            frames = make(clip)
            seconds[clip.name] = time.perf_counter() - start
            Video(frames, fps=7).save(videos / clip.name)
            keep(path, seconds)
    progress(f"videos, {name}", len(clips), len(clips))
    return statistics.median(seconds[clip.name] for clip in clips)


def score(python: str, folder: Path, name: str, clips: Sequence[Clip], images: Path) -> dict[str, float]:
    """Return the scores of a setting's videos by column, in percent, kept or computed.

    Raises:
        VcutError: vbench failed, or did not score every video.
    """
    results, log = folder / "scores" / f"{name}_eval_results.json", folder / "scores" / f"{name}.log"
    expected = {dimension: sum(dimension in c.prompt.dimension for c in clips) for dimension in DIMENSIONS.values()}

    def is_whole(answer: Any) -> bool:
        return answer is not None and all(len(answer[dimension][1]) == n for dimension, n in expected.items())

    if not is_whole(read_kept(results)):
        # vbench joins the name of an image to a folder of its own; an absolute name stays what it is.
        entries = [
            {**msgspec.to_builtins(prompt), "image_name": str(images.absolute() / prompt.image_name)}
            for prompt in dict.fromkeys(clip.prompt for clip in clips)
        ]
        keep(folder / "scores" / "info.json", entries)
        # As a string: Python would look beside a script first, and the vbench.py here is not the package.
        command = [python, "-c", _WORKER.read_text("utf-8"), str(folder), name, *expected]
        with log.open("wb") as file:  # dreamsim keeps its weights in the working folder
            subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, cwd=folder, check=False)
        if not is_whole(read_kept(results)):
            lines = ["no output", *filter(str.strip, log.read_text("utf-8", "replace").splitlines())]
            raise VcutError(f"vbench did not score all videos of {name} ({lines[-1].strip()}): its log is {log}")
    answer = read_kept(results)
    return {column: 100 * answer[dimension][0] for column, dimension in DIMENSIONS.items()}
