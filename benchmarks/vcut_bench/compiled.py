"""The compiled side of a comparison: bundles of one model, one for each ``tca``, and their videos at every cut step."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from vcut_bench.reference import Reference, attention_biases, check_same_weights, draw, load_diffusers
from vcut_bench.work import write_json
from vcut_runtime import Bundle, Pipeline, Step, open_bundle
from vcut_runtime.errors import UsageError
from vcut_runtime.manifest import SHALLOW, EngineLibrary, Scheduler, Tca
from vcut_runtime.schedule import QualityBias, check_cut_step, plan_steps, scale_cut_step

Progress = Callable[[str, int, int], None]
Setting = tuple[QualityBias | None, int | None]  # bias and cut step; both None: never cut
_PAPER = (25, 10, 24)  # steps, and the cut steps that are tried by default


def open_bundles(bundles: Sequence[str | Path]) -> dict[Tca, Bundle]:
    """Open bundles of one model, one for each ``tca``.

    Raises:
        UsageError: none is given, two have the same ``tca``, or they differ in more.
    """
    found: dict[Tca, Bundle] = {}
    for path in bundles:
        bundle = open_bundle(path, hashes=False)
        if bundle.manifest.tca in found:
            raise UsageError(
                f"{found[bundle.manifest.tca].root} and {path} both {bundle.manifest.tca} temporal cross-attention: "
                "name one bundle for each --tca"
            )
        found[bundle.manifest.tca] = bundle
    if not found:
        raise UsageError("no bundle given: name one, made with 'vcut export'")
    first, *others = found.values()
    for other in others:
        for what in ("model", "sizes", "precision", "steps"):
            if getattr(other.manifest, what) != getattr(first.manifest, what):
                raise UsageError(f"{first.root} and {other.root} differ in their {what}: compare one model at a time")
    return found


def check_interval(cache_interval: int, bundles: Mapping[Tca, Bundle]) -> None:
    """Raise a UsageError where ``bundles`` cannot run with this cache interval."""
    if cache_interval < 1:
        raise UsageError(f"--cache-interval {cache_interval} is below 1: give 1 to compute all layers in every step")
    if cache_interval > 1 and not all(bundle.manifest.deep_features for bundle in bundles.values()):
        raise UsageError("--cache-interval wants bundles with shallow steps: export them with --deep-cache")


def distinct_intervals(cache_intervals: Sequence[int]) -> list[int]:
    """Return cache intervals, each once; 1, which is every step with all its layers, is left out.

    Raises:
        UsageError: one is below 1.
    """
    if any(interval < 1 for interval in cache_intervals):
        raise UsageError(f"--cache-intervals has {min(cache_intervals)}: give 2 or more")
    return [interval for interval in dict.fromkeys(cache_intervals) if interval > 1]


def setting_name(cut_step: int | None, cache_interval: int = 1) -> str:
    """Return how results call a setting: ``17``, ``none`` where it is never cut, ``17 k=3`` with a cache interval."""
    name = "none" if cut_step is None else str(cut_step)
    return name if cache_interval == 1 else f"{name} k={cache_interval}"


def interval_suffix(cache_interval: int) -> str:
    """Return what tells a setting's files from those of other cache intervals."""
    return f"-interval-{cache_interval}" if cache_interval > 1 else ""


def steps_by_graph(scheduler: Scheduler, steps: int, cut_step: int | None, cache_interval: int = 1) -> Counter[str]:
    """Return how many steps of a video each graph computes."""
    planned = plan_steps(scheduler, steps, check_cut_step(cut_step, steps), cache_interval)
    return Counter(SHALLOW[step.stage] if step.shallow else step.stage for step in planned)


def load_checked(ref: Reference, given: Mapping[Tca, Bundle], backend: str, biases: Path) -> Any:
    """Load diffusers' pipeline once its weights have proved to be the bundle's; keep what proves it at ``biases``.

    Raises:
        UsageError: the weights are others.
        VcutError: they cannot be had.
    """
    pipeline = load_diffusers(ref)
    found = attention_biases(pipeline)
    check_same_weights(found, Pipeline.load(next(iter(given.values())), backend), ref.checkpoint.id)
    write_json(biases, found)
    return pipeline


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
    """Load the bundle of this ``tca``; where none is given, compile one like the given from the same checkpoint.

    Raises:
        UsageError: the reference's weights are not the bundle's.
        VcutError: compiling failed.
    """
    bundle: Bundle | Path | None = given.get(tca)
    if bundle is None:
        from vcut_export import export
        from vcut_runtime.backends import choose

        m = ref.manifest
        chosen = choose(next(iter(given.values())), backend).name
        bundle = folder / "bundles" / tca
        progress(f"compile, tca {tca}", 0, 1)
        export(
            **ref.source,
            output=bundle,
            height=m.height,
            width=m.width,
            frames=m.frames,
            steps=m.steps,
            precision=m.precision,
            tca=tca,
            decode_chunk=m.decode_chunk,
            deep_cache=bool(m.deep_features),
            engines=cast(Any, chosen if chosen in get_args(EngineLibrary) else "none"),
        )
        progress(f"compile, tca {tca}", 1, 1)
    pipeline = Pipeline.load(bundle, backend, threads=threads)
    check_same_weights(biases, pipeline, ref.checkpoint.id)
    return pipeline


def sweep(
    pipeline: Pipeline,
    image: np.ndarray,
    seed: int,
    settings: Sequence[Setting],
    steps: int,
    *,
    options: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Setting, np.ndarray]]:
    """Yield each setting with its frames, uint8 [F, H, W, 3]; the steps before the cuts are run once for all.

    Args:
        pipeline: of a bundle.
        image: uint8 [H, W, 3] of the bundle's size.
        seed: of latents and noise, see :func:`vcut_bench.reference.draw`.
        settings: what to make.
        steps: denoising steps.
        options: further ones of every call.
    """
    noise, latents = draw(pipeline.manifest, seed)
    before = {1: latents}  # step -> latents that it starts from
    wanted = {cut for _, cut in settings if cut is not None and cut <= steps}

    def keep(step: Step, after: np.ndarray) -> None:
        if step.index + 1 in wanted:
            before[step.index + 1] = np.array(after)  # the backend's own memory is used again

    common: dict[str, Any] = {"num_inference_steps": steps, "noise": noise, **(options or {})}
    whole = pipeline(image, cut_step=None, latents=latents, callback=keep, **common).frames
    for bias, cut in settings:
        if bias is None or cut is None or cut > steps:
            yield (bias, cut), whole
            continue
        own: dict[str, Any] = {"cut_step": cut, "start_step": cut, "quality_bias": bias}
        yield (bias, cut), pipeline(image, latents=before[cut], **own, **common).frames


def fingerprint(pipeline: Pipeline) -> str:
    """Return what tells results of one bundle on one backend from those of another."""
    manifest = pipeline.manifest
    sources = [manifest.sources(name) for name in sorted(manifest.graphs)]
    return hashlib.sha256(json.dumps([pipeline.backend.name, sources]).encode()).hexdigest()[:12]


def default_cut_steps(steps: int) -> list[int]:
    """Return 10 to 24 of 25 steps, or the same shares of ``steps``."""
    of, first, last = _PAPER
    return list(range(scale_cut_step(first, of, steps), min(steps, scale_cut_step(last, of, steps)) + 1))


def parse_cut_steps(text: str) -> list[int]:
    """Return ``none,10,12..24`` as numbers; ``none`` adds nothing, for the never-cut video is always made.

    Raises:
        UsageError: it is not of this form.
    """
    found: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        numbers = re.fullmatch(r"(\d{1,6})(?:\.\.(\d{1,6}))?", part)
        if part.lower() == "none":
            continue
        if numbers is None:
            raise UsageError(f"--cut-steps {text!r} is no list of steps: write it as none,10,12..24")
        found += range(int(numbers[1]), int(numbers[2] or numbers[1]) + 1)
    return found
