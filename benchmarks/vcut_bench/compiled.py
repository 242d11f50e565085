"""The compiled side of a comparison: bundles of one model, one for each ``tca``, and their videos at every cut step."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from vcut_bench.reference import Reference, attention_biases, check_same_weights, load_diffusers
from vcut_bench.takes import Takes
from vcut_bench.work import keep
from vcut_runtime import Bundle, Manifest, Pipeline, RunOptions, open_bundle
from vcut_runtime.bundle.graph import GRAPHS
from vcut_runtime.bundle.manifest import EngineLibrary, Tca
from vcut_runtime.errors import UsageError
from vcut_runtime.run_plan import choose_schedule
from vcut_runtime.schedule import CutStep, QualityBias, Schedule, check_cut_step

Progress = Callable[[str, int, int], None]
Setting = tuple[QualityBias | None, CutStep | None]  # bias and cut step; both None: never cut


def open_bundles(bundles: Sequence[str | Path]) -> dict[Tca, Bundle]:
    """Open bundles of one model, one for each ``tca``.

    Raises:
        UsageError: none is given, two have the same ``tca``, or they differ in more.
    """
    opened: dict[Tca, Bundle] = {}
    for path in bundles:
        bundle = open_bundle(path, hashes=False)
        if bundle.manifest.tca in opened:
            raise UsageError(
                f"{opened[bundle.manifest.tca].root} and {path} both {bundle.manifest.tca} temporal cross-attention: "
                "name one bundle for each --tca"
            )
        opened[bundle.manifest.tca] = bundle
    if not opened:
        raise UsageError("no bundle given: name one, made with 'vcut export'")
    first, *others = opened.values()
    for other in others:
        for what in ("model", "sizes", "precision", "steps"):
            if getattr(other.manifest, what) != getattr(first.manifest, what):
                raise UsageError(f"{first.root} and {other.root} differ in their {what}: compare one model at a time")
    return opened


def check_interval(cache_interval: int, bundles: Mapping[Tca, Bundle]) -> None:
    """Raise a UsageError if ``bundles`` cannot run with this cache interval."""
    if cache_interval < 1:
        raise UsageError(f"--cache-interval {cache_interval} is below 1: give 1 to compute all layers in every step")
    if cache_interval > 1 and not all(bundle.manifest.deep_features for bundle in bundles.values()):
        raise UsageError("--cache-interval needs bundles with shallow steps: export them with --deep-cache")


def parse_intervals(text: str) -> list[int]:
    """Return ``2,3`` as numbers, and ``none`` as an empty list.

    Raises:
        UsageError: it does not have this form.
    """
    try:
        return [] if text.strip() == "none" else [int(word) for word in text.split(",")]
    except ValueError:
        raise UsageError(f"--cache-intervals {text!r} is not a list of numbers: write it as 2,3, or none") from None


def distinct_intervals(cache_intervals: Sequence[int]) -> list[int]:
    """Return cache intervals, each once, without 1, which is every step with all its layers.

    Raises:
        UsageError: one is below 1.
    """
    if any(interval < 1 for interval in cache_intervals):
        raise UsageError(f"--cache-intervals has {min(cache_intervals)}: give 2 or more")
    return [interval for interval in dict.fromkeys(cache_intervals) if interval > 1]


def setting_name(cut_step: CutStep, cache_interval: int = 1) -> str:
    """Return how results call a setting: ``17``, ``none`` if it is never cut, ``17 k=3`` with a cache interval."""
    return f"{cut_step} k={cache_interval}" if cache_interval > 1 else str(cut_step)


def interval_suffix(cache_interval: int) -> str:
    """Return the part of file names that separates the cache intervals of a setting."""
    return f"-interval-{cache_interval}" if cache_interval > 1 else ""


def steps_by_graph(manifest: Manifest, **options: Any) -> Counter[str]:
    """Return how many steps of a video each graph computes."""
    return Counter(step.graph for step in choose_schedule(manifest, RunOptions(**options)))


def evaluations(schedule: Schedule) -> int:
    """Return how often a video evaluates the network; a guided step does so twice."""
    return sum(GRAPHS[step.graph].rows for step in schedule)


def load_checked(ref: Reference, given: Mapping[Tca, Bundle], backend: str, biases: Path) -> Any:
    """Load diffusers' pipeline, check that its weights are the bundle's, and keep the proof at ``biases``.

    Raises:
        UsageError: the weights differ.
        VcutError: the weights are unavailable.
    """
    pipeline = load_diffusers(ref)
    biases_of_unet = attention_biases(pipeline)
    check_same_weights(biases_of_unet, Pipeline.load(next(iter(given.values())), backend), ref.checkpoint.id)
    keep(biases, biases_of_unet)
    return pipeline


def same_options(manifest: Manifest) -> dict[str, Any]:
    """Return the options of an export that makes the graphs of a bundle again, at its usual sizes."""
    names = ("height", "width", "frames", "steps", "precision", "operators", "tca", "decode_chunk")
    return {**{name: getattr(manifest, name) for name in names}, "deep_cache": bool(manifest.deep_features)}


def open_ours(
    ref: Reference,
    given: Mapping[Tca, Bundle],
    tca: Tca,
    folder: Path,
    biases: Mapping[str, list[float]],
    backend: str = "auto",
    threads: int | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Pipeline:
    """Load the bundle of this ``tca``. If it is not given, export it from the same checkpoint, like the given one.

    Raises:
        UsageError: the reference's weights are not the bundle's.
        VcutError: the export failed.
    """
    bundle: Bundle | Path | None = given.get(tca)
    if bundle is None:
        from vcut_engines import build
        from vcut_export import export
        from vcut_runtime.backends import choose

        bundle = folder / "bundles" / tca
        progress(f"compile, tca {tca}", 0, 1)
        export(**ref.source, output=bundle, **{**same_options(ref.manifest), "tca": tca})
        if (chosen := choose(next(iter(given.values())), backend).name) in get_args(EngineLibrary):
            build(bundle, engines=chosen)
        progress(f"compile, tca {tca}", 1, 1)
    pipeline = Pipeline.load(bundle, backend, threads=threads)
    check_same_weights(biases, pipeline, ref.checkpoint.id)
    return pipeline


def sweep(
    takes: Takes, manifest: Manifest, settings: Sequence[Setting], steps: int, **options: Any
) -> Iterator[tuple[Setting, np.ndarray]]:
    """Yield each setting with its frames, uint8 [F, H, W, 3], the latest cut first: then most steps are shared.

    Args:
        takes: of an image.
        manifest: of the bundle.
        settings: the videos to make.
        steps: denoising steps.
        options: further options of every video.
    """

    def cut_step(setting: Setting) -> int:
        bias, cut = setting
        return steps + 1 if bias is None or cut is None else check_cut_step(cut, steps)

    for bias, cut in sorted(settings, key=cut_step, reverse=True):
        own = RunOptions(
            num_inference_steps=steps, cut_step=cut_step((bias, cut)), quality_bias=bias or "mean", **options
        )
        yield (bias, cut), takes.frames(choose_schedule(manifest, own))


def fingerprint(pipeline: Pipeline) -> str:
    """Return what tells results of one bundle on one backend from those of another."""
    manifest = pipeline.manifest
    sources = [manifest.sources(name) for name in sorted(manifest.graphs)]
    return hashlib.sha256(json.dumps([pipeline.backend.name, sources]).encode()).hexdigest()[:12]


def default_cut_steps(steps: int) -> list[int]:
    """Return 10 to 24 of 25 steps, or the same shares of ``steps``."""
    return list(range(share_of_steps(10, 25, steps), min(steps, share_of_steps(24, 25, steps)) + 1))


def share_of_steps(cut_step: int, steps: int, new_steps: int) -> int:
    """Return the cut step after the same share of ``new_steps`` steps (17 of 25 becomes 7 of 10)."""
    return round((cut_step - 1) * new_steps / steps) + 1
