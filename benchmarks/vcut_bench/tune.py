"""``vcut tune``: find the fastest schedule of a bundle that keeps a bound on its error, on this machine.

    vcut tune BUNDLE --images DIR [--min-psnr 40] [--seeds 2] [--test-images DIR] [--save NAME] [--work DIR]

The error of a video is its PSNR against the converged video of the same bundle with the same noise: many steps of a
second-order solver, never cut. The search (:mod:`vcut_bench.tuning`) sees some of the photographs. The result reports
the others, which it did not see. The chosen schedule is the fastest one whose 95 % interval on the photographs of the
search lies above the bound. The work folder keeps every error, so an interrupted search goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer

from vcut_bench import metrics
from vcut_bench.compiled import Progress, evaluations, fingerprint
from vcut_bench.numbers import Numbers
from vcut_bench.provenance import about, provenance
from vcut_bench.results import OUTPUT, deliver
from vcut_bench.saved_schedules import check_name, save_schedule
from vcut_bench.takes import Takes, converged_schedule
from vcut_bench.tuning import Candidate, Search
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
from vcut_runtime import Pipeline, RunOptions
from vcut_runtime.bundle.graph import GRAPHS
from vcut_runtime.bundle.manifest import Manifest, Measurement
from vcut_runtime.command_options import (
    MOST_SEED,
    MOST_THREADS,
    check_numbers,
    check_types,
    merge,
    option,
    takes_options,
)
from vcut_runtime.errors import UsageError
from vcut_runtime.images import Fit
from vcut_runtime.noise import IMAGE, LATENTS, normal
from vcut_runtime.schedule import Bias, Schedule, Step
from vcut_runtime.terminal import JSON, QUIET, progress_bars

_SHOWN = 6


@dataclass(frozen=True)
class TuneOptions:
    """What is searched for.

    Raises:
        UsageError: a value is impossible.
    """

    min_psnr: float = option(
        40.0, "Bound: PSNR to the converged video in dB. diffusers' own 25 steps are near 40.", least=10
    )
    seeds: int = option(2, "Videos per image.", least=1, most=MOST_VIDEOS)
    first_seed: int = option(0, "The first seed; the others follow.", "--seed", least=0, most=MOST_SEED)
    test_images: Path | None = option(
        None, "Folder of images that the result is measured on. [default: one of each four of --images]"
    )
    save: str | None = option(None, "Save the schedule in the bundle under this name, for vcut run --schedule.")
    fit: Fit = option("crop", "Fit images to the bundle's size: crop, stretch, pad or blur.")
    work: Path | None = option(None, "Keep results here, and continue from kept results. [default: keep nothing]")
    backend: str = option("auto", "Backend, as vcut run takes it.")
    threads: int | None = option(None, "CPU threads. [default: the backend's own choice]", least=1, most=MOST_THREADS)

    def __post_init__(self) -> None:
        check_types(self)
        check_numbers(self)
        if self.min_psnr > 60:
            raise UsageError(f"min_psnr is {self.min_psnr:g}: give at most 60, more is below the steps of 8-bit frames")
        if self.save is not None:
            check_name(self.save)


class Errors:
    """Measures schedules on videos, and keeps what was measured.

    Each image and seed has a converged video, which is made once. Steps that a schedule shares with the one before it
    are not run again.
    """

    def __init__(self, pipeline: Pipeline, videos: Sequence[tuple[InputImage, int]], folder: Path) -> None:
        self.pipeline, self.videos, self.folder = pipeline, videos, folder
        self.measured = 0
        self._takes: dict[int, Takes] = {}

    def psnr(self, schedule: Schedule, number: int) -> float:
        """Return the PSNR in dB of a schedule's video against the converged one."""
        digest = hashlib.sha256(msgspec.json.encode(schedule)).hexdigest()[:20]
        path = self._place(number) / f"{digest}.json"
        kept = read_kept(path)
        if isinstance(kept, float):
            return kept
        converged = self.converged(number)
        value = metrics.psnr(self._take(number).frames(schedule), converged)
        self.measured += 1
        keep(path, value)
        return value

    def converged(self, number: int) -> np.ndarray:
        """Return the frames of a video's converged version."""
        path = self._place(number) / "converged.npy"
        frames = read_kept(path)
        if frames is None:
            frames = self._take(number).frames(converged_schedule(self.pipeline.manifest))
            keep(path, frames)
        return frames

    def _take(self, number: int) -> Takes:
        if number not in self._takes:
            image, seed = self.videos[number]
            self._takes[number] = Takes(self.pipeline, image.pixels, *draw(self.pipeline.manifest, seed))
        return self._takes[number]

    def _place(self, number: int) -> Path:
        image, seed = self.videos[number]
        return self.folder / f"{image.key}-{seed}"


def draw(manifest: Manifest, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the noise [1, 3, H, W] and the latents [1, F, C, h, w] that ``vcut run`` draws for a seed."""
    sizes = manifest.sizes
    shape = (1, sizes.frames, *manifest.geometry.latent_shape(sizes))
    return normal(seed, IMAGE, (1, 3, sizes.height, sizes.width)), normal(seed, LATENTS, shape)


def measure(
    bundle: str | Path,
    images: str | Path,
    options: TuneOptions | None = None,
    *,
    progress: Progress = lambda stage, done, total: None,
    **fields: Any,
) -> dict[str, Any]:
    """Search schedules of ``bundle`` on the photographs in ``images``.

    Returns:
        Provenance, ``step_seconds`` by graph, and ``front``: schedules, the fastest first, each with its ``title``, the
        ``options`` that make it, network ``evaluations``, ``seconds`` of its step loop, and ``psnr`` on the photographs
        that the search did not see. ``chosen`` is the title of the fastest that keeps the bound, None if none does.

    Raises:
        UsageError: an option is impossible, or there are too few images.
        VcutError: the backend failed.
    """
    options = merge(TuneOptions, options, fields)
    pipeline = Pipeline.load(bundle, options.backend, threads=options.threads)
    manifest = pipeline.manifest
    tuned, test = _split(manifest, Path(images), options)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    videos = [(image, seed) for image in (*tuned, *test) for seed in seeds]
    searched, unseen = range(len(tuned) * len(seeds)), range(len(tuned) * len(seeds), len(videos))
    identity = {"benchmark": "tune", "bundle": fingerprint(pipeline), "size": list(manifest.sizes), "fit": options.fit}
    with work_folder(options.work, identity) as folder:
        seconds = _step_seconds(pipeline, tuned[0], progress)
        errors = Errors(pipeline, videos, folder)
        for done, number in enumerate((*searched, *unseen)):
            progress("converged videos", done, len(videos))
            errors.converged(number)
        progress("converged videos", len(videos), len(videos))
        search = Search(manifest, seconds, errors.psnr, len(searched), len(seeds), options.min_psnr, progress=progress)
        chosen = search.run()
        own = [search.candidate(f"schedule {name}", RunOptions(schedule=name)) for name in manifest.schedules]
        shown = {c.schedule: c for c in [*_spread(search.front()), *own, *([chosen] if chosen else [])]}
        rows = []
        for done, candidate in enumerate(shown.values()):
            progress("unseen photographs", done, len(shown))
            psnr = search.summary(candidate.schedule, unseen)
            rows.append(_row(candidate, psnr, options.min_psnr))
        progress("unseen photographs", len(shown), len(shown))
    rows.sort(key=lambda row: row["seconds"])
    result = {
        "benchmark": "tune",
        **provenance("vcut tune"),
        **about(manifest),
        "backend": pipeline.backend.name,
        "threads": options.threads,
        "min_psnr": options.min_psnr,
        "images": [image.name for image in tuned],
        "unseen_images": [image.name for image in test],
        "seeds": list(seeds),
        "measured_videos": errors.measured,
        "step_seconds": seconds,
        "front": rows,
        "chosen": None if chosen is None else chosen.title,
        "saved": None,
    }
    if options.save is not None and chosen is not None:
        (row,) = (row for row in rows if row["title"] == chosen.title)
        save_schedule(pipeline.bundle.root, manifest, options.save, chosen.schedule, _measurement(row, result))
        result["saved"] = options.save
    return result


def numbers(result: Mapping[str, Any]) -> list[Numbers]:
    """Return the front of time against error."""
    longest = max(row["seconds"] for row in result["front"])
    rows = []
    for row in result["front"]:
        psnr = row["psnr"]
        least = "" if psnr["low"] is None else f"{psnr['low']:.1f} to {psnr['high']:.1f}"
        title = ("► " if row["title"] == result["chosen"] else "") + row["title"]
        figures = [str(row["evaluations"]), f"{row['seconds']:.2f} s", f"{psnr['mean']:.1f} dB", least]
        rows.append([title, *figures, "█" * max(1, round(16 * row["seconds"] / longest))])
    chosen = result["chosen"]
    verdict = f"No schedule keeps {result['min_psnr']:g} dB."
    if chosen is not None:
        (row,) = (row for row in result["front"] if row["title"] == chosen)
        kept = "keeps" if row["keeps"] else "misses"
        verdict = f"► is the fastest that keeps {result['min_psnr']:g} dB on the photographs of the search."
        verdict += f" It {kept} the bound on those that the search did not see."
    saved = f" It is saved as {result['saved']}." if result["saved"] else ""
    unseen, seeds = len(result["unseen_images"]), len(result["seeds"])
    note = (
        f"{verdict}{saved} PSNR to the converged video, on {unseen} unseen photographs x {seeds} seeds; the search saw "
        f"{len(result['images'])}. The range is the 95 % interval of the mean. A guided step is two evaluations."
    )
    if unseen < 3:
        note += " So few photographs say little about others: give more with --test-images."
    head = ["schedule", "evaluations", "step loop", "PSNR", "range", ""]
    return [Numbers("Schedules: time against error", head, rows, note)]


@takes_options
def tune_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", show_default=False)],
    images: Annotated[Path, typer.Option(help="Folder of photographs.", show_default=False)],
    options: TuneOptions,
    output: Annotated[Path | None, OUTPUT] = None,
    json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Find the fastest schedule that stays near the converged video, on this machine, and save it in the bundle."""
    with progress_bars(quiet or json) as progress:
        result = measure(bundle, images, options, progress=progress)
    deliver(result, output, json)
    if result["chosen"] is None:
        raise typer.Exit(1)


def _split(manifest: Manifest, folder: Path, options: TuneOptions) -> tuple[list[InputImage], list[InputImage]]:
    """Return the images of the search, and those that the result is measured on."""

    def load(paths: Sequence[Path]) -> list[InputImage]:
        return [load_input(path, manifest.height, manifest.width, options.fit) for path in paths]

    images = load(find_images(folder))
    test = [] if options.test_images is None else load(find_images(options.test_images))
    check_distinct([*images, *test])
    if not test:
        if len(images) < 2:
            raise UsageError("one image cannot be both searched on and tested on: give two, or --test-images")
        images, test = [image for i, image in enumerate(images) if i % 4 != 1], images[1::4]
    return images, test


def _step_seconds(pipeline: Pipeline, image: InputImage, progress: Progress) -> dict[str, float]:
    """Return the median seconds of a step of each graph."""
    graphs = [GRAPHS[name] for name in pipeline.manifest.graphs if GRAPHS[name].is_step]
    seconds: dict[str, float] = {}
    for done, graph in enumerate(sorted(graphs, key=lambda graph: graph.full is not None)):
        progress("time of a step", done, len(graphs))
        bias: Bias = "both" if graph.rows == 2 else "cond"
        names = [graph.full or graph.name, *[graph.name] * 2]
        rows = tuple(Step(3.0 - i, name, bias, (0.5, 0.5, 0.0)) for i, name in enumerate(names))
        times = [pipeline(image.pixels, schedule=rows, seed=0).timings[graph.stage] for _ in range(4)][1:]
        full = seconds[graph.full] if graph.full else statistics.median(times) / 3
        seconds[graph.name] = max((statistics.median(times) - full) / 2, 1e-6)
    progress("time of a step", len(graphs), len(graphs))
    return seconds


def _spread(front: Sequence[Candidate]) -> list[Candidate]:
    """Return at most a few of a front, evenly."""
    places = np.linspace(0, len(front) - 1, min(_SHOWN, len(front)))
    return [front[round(place)] for place in places]


def _row(candidate: Candidate, psnr: Mapping[str, Any], bound: float) -> dict[str, Any]:
    changed = {k: v for k, v in asdict(candidate.options).items() if v != getattr(RunOptions(), k)}
    return {
        "title": candidate.title,
        "options": changed,
        "evaluations": evaluations(candidate.schedule),
        "seconds": candidate.seconds,
        "psnr": dict(psnr),
        "keeps": psnr["mean"] >= bound,
    }


def _measurement(row: Mapping[str, Any], result: Mapping[str, Any]) -> Measurement:
    psnr = row["psnr"]
    return Measurement(
        psnr=psnr["mean"],
        low=psnr["low"],
        images=len(result["unseen_images"]),
        seeds=len(result["seeds"]),
        seconds=row["seconds"],
        device=result["device"],
        backend=result["backend"],
        date=result["date"],
    )
