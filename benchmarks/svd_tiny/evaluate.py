"""What the trained `svd-tiny` does on clips of held-out photographs: motion, guidance, and the cost of parts left out.

    python -m svd_tiny.evaluate FOLDED REMOVED [--clips 36] [--jobs 2] [-o RESULT.json]
    python -m svd_tiny.evaluate FOLDED --schedules balanced,fast [--clips 36]

FOLDED and REMOVED are bundles of `svd-tiny`, exported with ``--tca fold`` and ``--tca remove``. Named schedules are
measured beside the never-cut video of 25 steps, which is diffusers'. Each setting animates
the first frame of each clip, with the clip's own ``motion_bucket_id`` and fps, and from the same noise. The video is
compared with the clip, which is one of many that the first frame allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from svd_tiny.clips import FASTEST, clip
from svd_tiny.photos import names
from svd_tiny.train_vae import pixels
from vcut_bench import metrics
from vcut_bench.compiled import Progress, Setting, open_bundles, sweep
from vcut_bench.latency import parse_names
from vcut_bench.provenance import about, provenance
from vcut_bench.reference import draw
from vcut_bench.results import OUTPUT, deliver
from vcut_bench.takes import Takes
from vcut_runtime import Pipeline
from vcut_runtime.errors import UsageError
from vcut_runtime.terminal import QUIET, progress_bars, run_app

BUCKETS = (0, 51, 102, 153, 204, 255)
FEW = (2, 10, 17)  # the cut steps of the other models
METRICS = ("full_psnr", "truth_psnr", "input_psnr", "consistency", "flow", "detail")
_FIRST_CLIP = 5000  # no other measurement uses the clips from here on


@dataclass(frozen=True)
class Kind:
    """A model that is measured: a bundle, with its spatial cross-attention or with zeros in its place."""

    name: str
    bundle: Path
    sca: bool
    cut_steps: tuple[int, ...]
    schedules: tuple[str, ...] = ()


def evaluate(
    bundles: Sequence[str | Path],
    *,
    clips: int = 36,
    motion_clips: int = 12,
    schedules: Sequence[str] = (),
    jobs: int = 2,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Measure over ``clips`` clips, and motion over ``motion_clips``, in ``jobs`` processes of one thread.

    Returns:
        Provenance, and:

        * ``curves``: for each model and cut step the mean, standard deviation and 95 % interval of each metric.
        * ``truth``: the metrics of the clips themselves.
        * ``motion``: optical flow by ``motion_bucket_id``.
        * ``schedules``: the metrics of named schedules. With these, nothing but the never-cut video is measured beside.

        ``truth_psnr`` compares a video with the clip, ``full_psnr`` with the same model's never-cut video, and
        ``input_psnr`` its first frame with the input, all in dB. ``consistency`` is the PSNR in dB of each frame
        against the next one, warped onto it by their optical flow. ``flow`` is the mean length of the flow in pixels
        per frame. ``detail`` is the mean gradient of the last frame over the input's. ``frechet`` is the Fréchet
        distance to all clips. Its features are the VAE's latents of a frame and their change since the frame before.

    Raises:
        UsageError: the bundles are not one with each ``tca``.
    """
    opened = open_bundles(bundles)
    if set(opened) != ({"fold"} if schedules else {"fold", "remove"}):
        raise UsageError(
            "give two bundles, exported with --tca fold and --tca remove; with --schedules the first alone"
        )
    manifest = opened["fold"].manifest
    if schedules:
        if unknown := set(schedules) - set(manifest.schedules):
            raise UsageError(f"unknown schedule {min(unknown)!r}: choose {', '.join(manifest.schedules)}")
        kinds, motion_clips = (Kind("TCA folded", opened["fold"].root, True, (), tuple(schedules)),), 0
    else:
        kinds = (
            Kind("TCA folded", opened["fold"].root, True, tuple(range(2, manifest.steps + 1))),
            Kind("TCA removed", opened["remove"].root, True, FEW),
            Kind("SCA zeroed", opened["fold"].root, False, FEW),
        )
    measured, moved = [], []
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for videos in pool.map(_measure_clip, [(kinds, i) for i in range(clips)]):
            measured.append(videos)
            progress("clips", len(measured), clips)
        for flows in pool.map(_measure_motion, [(kinds[0], i) for i in range(motion_clips)]):
            moved.append(flows)
            progress("motion", len(moved), motion_clips)
    truth = [videos["truth"] for videos in measured]

    def row(kind: Kind, setting: int | str) -> dict[str, Any]:
        own = [videos[kind.name, setting] for videos in measured]
        return {"model": kind.name, **_summary(own), "frechet": frechet(own, truth)}

    curves = [{"cut_step": cut, **row(kind, cut)} for kind in kinds for cut in ("none", *kind.cut_steps)]
    return {
        "benchmark": "tiny",
        **provenance("svd_tiny.evaluate"),
        **about(manifest),
        "steps": manifest.steps,
        "clips": clips,
        "photographs": names("held-out"),
        "curves": curves,
        "schedules": [{"schedule": name, **row(kind, name)} for kind in kinds for name in kind.schedules],
        "truth": _summary(truth),
        "motion": [
            {
                "motion_bucket_id": bucket,
                "displacement": round(bucket / 255 * FASTEST, 3),
                **{key: metrics.summarize([[flows[bucket][key]] for flows in moved]) for key in ("flow", "change")},
            }
            for bucket in (BUCKETS if moved else ())
        ],
    }


def describe(frames: np.ndarray, truth: np.ndarray, full: np.ndarray) -> dict[str, Any]:
    """Return the metrics of a video, and the ``moments`` of its latents; frames are uint8 [F, H, W, 3]."""
    flow, consistency = optical_flow(frames)
    return {
        "truth_psnr": metrics.psnr(frames, truth),
        "full_psnr": metrics.psnr(frames, full),
        "input_psnr": metrics.psnr(frames[0], truth[0]),
        "consistency": consistency,
        "flow": flow,
        "detail": gradient(frames[-1]) / gradient(truth[0]),
        "moments": moments(frames),
    }


def optical_flow(frames: np.ndarray) -> tuple[float, float]:
    """Return the flow's mean length in pixels per frame, and the PSNR in dB of frames against their next one warped."""
    from scipy.ndimage import map_coordinates
    from skimage.registration import optical_flow_ilk

    grey = frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    rows, columns = np.mgrid[: grey.shape[1], : grey.shape[2]].astype(np.float32)
    lengths, errors = [], []
    inside = (slice(4, -4), slice(4, -4))
    for frame, after in pairwise(grey):
        v, u = optical_flow_ilk(frame, after, radius=5)
        warped = map_coordinates(after, [rows + v, columns + u], order=1, mode="nearest")
        lengths.append(np.hypot(u, v)[inside].mean())
        errors.append(np.square(warped - frame)[inside].mean())
    return float(np.mean(lengths)), min(metrics.MAX_PSNR, float(-10 * np.log10(max(np.mean(errors), 1e-12))))


def gradient(image: np.ndarray) -> float:
    """Return the mean absolute difference of neighbouring pixels of an image [H, W, 3], in levels."""
    wide = image.astype(np.float32)
    return float(np.abs(np.diff(wide, axis=0)).mean() + np.abs(np.diff(wide, axis=1)).mean()) / 2


def moments(frames: np.ndarray) -> np.ndarray:
    """Return sums of a video's features: [n + 1, n + 1] of (1, features), over positions of frames but the first."""
    import torch

    with torch.no_grad():
        latents = _vae().encode(pixels(frames)).latent_dist.mode() * _vae().config.scaling_factor  # [F, C, h, w]
    features = torch.cat([torch.ones_like(latents[1:, :1]), latents[1:], latents[1:] - latents[:-1]], dim=1)
    rows = features.permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
    return rows.T @ rows


def frechet(videos: Sequence[Mapping[str, Any]], truth: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the Fréchet distance of two sets of videos by their moments, with a bootstrapped 95 % interval."""
    own, real = (np.stack([video["moments"] for video in side]) for side in (videos, truth))
    draw = np.random.default_rng(0)
    drawn = []
    for _ in range(200):
        chosen = draw.integers(0, len(own), len(own))
        drawn.append(_distance(own[chosen].sum(0), real[chosen].sum(0)))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"mean": _distance(own.sum(0), real.sum(0)), "low": float(low), "high": float(high)}


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    (mean_a, covariance_a), (mean_b, covariance_b) = _gaussian(a), _gaussian(b)
    cross = np.sqrt(np.maximum(np.linalg.eigvals(covariance_a @ covariance_b).real, 0)).sum()  # the trace of its root
    return float(np.square(mean_a - mean_b).sum() + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross)


def _gaussian(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = sums[0, 1:] / sums[0, 0]
    return mean, sums[1:, 1:] / sums[0, 0] - np.outer(mean, mean)


def _summary(videos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: metrics.summarize([[video[name]] for video in videos]) for name in METRICS}


def _measure_clip(task: tuple[tuple[Kind, ...], int]) -> dict[Any, dict[str, Any]]:
    kinds, index = task
    source = clip(_FIRST_CLIP + index, "held-out")
    videos: dict[Any, dict[str, Any]] = {"truth": describe(source.frames, source.frames, source.frames)}
    conditions = {"fps": source.fps, "motion_bucket_id": source.motion_bucket_id}
    for kind in kinds:
        settings: list[Setting] = [(None, None), *(("mean", cut) for cut in kind.cut_steps)]
        pipeline = _pipeline(kind)
        manifest = pipeline.manifest
        takes = Takes(pipeline, source.frames[0], *draw(manifest, index), **conditions)
        made = {cut or "none": frames for (_, cut), frames in sweep(takes, manifest, settings, manifest.steps)}
        made |= {name: takes.frames(manifest.schedules[name]) for name in kind.schedules}
        for setting, frames in made.items():
            videos[kind.name, setting] = describe(frames, source.frames, made["none"])
    return videos


def _measure_motion(task: tuple[Kind, int]) -> dict[int, dict[str, float]]:
    kind, index = task
    image = clip(_FIRST_CLIP + index, "held-out", frames=range(1)).frames[0]
    result = {}
    for bucket in BUCKETS:
        frames = _pipeline(kind)(image, motion_bucket_id=bucket, seed=index).frames
        result[bucket] = {"flow": optical_flow(frames)[0], "change": metrics.motion(frames)}
    return result


@cache
def _pipeline(kind: Kind) -> Pipeline:
    import torch

    torch.set_num_threads(1)
    pipeline = Pipeline.load(kind.bundle, "onnxruntime-cpu", threads=1)
    if not kind.sca:
        run = pipeline.backend.run

        def zeroed(graph: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
            outputs = run(graph, inputs)
            if graph == "condition":
                bias = pipeline.backend.download(outputs["sca_bias"])
                outputs = {**outputs, "sca_bias": pipeline.backend.upload(np.zeros_like(bias))}
            return outputs

        pipeline.backend.run = zeroed
    return pipeline


@cache
def _vae() -> Any:
    import torch

    from vcut_export.checkpoint import resolve
    from vcut_export.checkpoint.weights import load_vae

    return load_vae(resolve("svd-tiny"), "fp32", torch.float32)


def main(
    bundles: Annotated[
        list[Path],
        typer.Argument(help="Two, of --tca fold and --tca remove; with --schedules the first.", show_default=False),
    ],
    clips: Annotated[int, typer.Option(min=2, help="Clips of held-out photographs.")] = 36,
    motion_clips: Annotated[int, typer.Option(min=2, help="Of these, clips whose motion is asked for.")] = 12,
    schedules: Annotated[str, typer.Option(help="Named schedules of the bundle, such as balanced,fast.")] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Processes, of one thread.")] = 2,
    output: Annotated[Path | None, OUTPUT] = None,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Measure what svd-tiny does on held-out photographs, and print the result as JSON."""
    with progress_bars(quiet) as progress:
        names = parse_names(schedules or "none")
        result = evaluate(
            bundles, clips=clips, motion_clips=motion_clips, schedules=names, jobs=jobs, progress=progress
        )
    deliver(result, output, json=True)


if __name__ == "__main__":
    _app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    _app.command()(main)
    run_app(_app, "svd_tiny.evaluate")
