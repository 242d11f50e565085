"""Image to video: condition, the step loop with its switch at the cut step, decode."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Literal, TypedDict, Unpack, cast, overload

import numpy as np

from vcut_runtime.backends import Backend, open_backend
from vcut_runtime.backends import Options as BackendOptions
from vcut_runtime.bundle import Bundle, open_bundle
from vcut_runtime.errors import UsageError
from vcut_runtime.graphs import FEATURES
from vcut_runtime.images import Fit, ImageLike, load_image, resize_matrix
from vcut_runtime.manifest import DIMENSIONS, SHALLOW, Manifest, SizeRange, Sizes
from vcut_runtime.schedule import (
    Chunk,
    QualityBias,
    StageName,
    Step,
    added_time_ids,
    check_cut_step,
    decode_chunks,
    default_cut_step,
    guidance_scale,
    plan_steps,
    stage_bias,
)
from vcut_runtime.video import Video

BUNDLE_DEFAULT: Final = "bundle"
Callback = Callable[[Step, np.ndarray], None]
Progress = Callable[[str, int, int], None]


class Options(TypedDict, total=False):
    """The keywords of a pipeline call, for type checkers; :meth:`Pipeline.__call__` says what they mean."""

    height: int | None
    width: int | None
    num_frames: int | None
    num_inference_steps: int | None
    cut_step: int | Literal["bundle"] | None
    cache_interval: int
    quality_bias: QualityBias
    min_guidance_scale: float | None
    max_guidance_scale: float | None
    fps: int
    motion_bucket_id: float
    noise_aug_strength: float
    seed: int | None
    latents: np.ndarray | None
    noise: np.ndarray | None
    start_step: int
    decode_chunk: int | None
    decode_overlap: int | None
    fit: Fit
    callback: Callback | None
    progress: Progress | None


@dataclass(frozen=True)
class _Run:
    """The options of one video, all decided and checked."""

    sizes: Sizes
    steps: list[Step]
    start_step: int  # the first that is run
    reuses: bool  # deep features of full steps in shallow ones
    quality_bias: QualityBias
    guidance: tuple[float, float]
    fps: int
    motion_bucket_id: float
    noise_aug_strength: float
    chunks: list[Chunk]
    callback: Callback | None
    progress: Progress


class Pipeline:
    """A loaded bundle. Make one with :meth:`load`, then call it with an image."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle = bundle
        self.backend = backend

    @classmethod
    def load(
        cls,
        bundle: str | Path | Bundle,
        backend: str = "auto",
        *,
        threads: int | None = None,
        low_memory: bool | None = None,
        cuda_graphs: bool = True,
    ) -> Pipeline:
        """Check ``bundle`` and choose what runs it; every file is compared with its sha256 before it is loaded.

        Args:
            bundle: the bundle's folder, or an opened bundle.
            backend: ``tensorrt``, ``tensorrt-rtx``, ``onnxruntime-cuda``, ``onnxruntime-cpu``, or ``auto``: the first
                of these that can run this bundle here. ``pipeline.backend.notes`` says what was chosen and why.
            threads: CPU threads of ONNX Runtime; its own choice by default.
            low_memory: keep the weights of one stage's engines at a time on the GPU; by default only where not all fit.
            cuda_graphs: launch each TensorRT step as one captured CUDA graph.

        Raises:
            BundleError: the bundle is damaged, foreign or unsafe.
            UsageError: the backend is unknown or cannot run this bundle here.
        """
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle, hashes=False)
        return cls(opened, open_backend(opened, backend, BackendOptions(threads, low_memory, cuda_graphs)))

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    @overload
    def __call__(self, image: ImageLike, **options: Unpack[Options]) -> Video: ...
    @overload
    def __call__(self, image: Sequence[ImageLike], **options: Unpack[Options]) -> list[Video]: ...
    def __call__(
        self,
        image: ImageLike | Sequence[ImageLike],
        *,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        cut_step: int | Literal["bundle"] | None = BUNDLE_DEFAULT,
        cache_interval: int = 1,
        quality_bias: QualityBias = "mean",
        min_guidance_scale: float | None = None,
        max_guidance_scale: float | None = None,
        fps: int = 7,
        motion_bucket_id: float = 127,
        noise_aug_strength: float = 0.02,
        seed: int | None = None,
        latents: np.ndarray | None = None,
        noise: np.ndarray | None = None,
        start_step: int = 1,
        decode_chunk: int | None = None,
        decode_overlap: int | None = None,
        fit: Fit = "stretch",
        callback: Callback | None = None,
        progress: Progress | None = None,
    ) -> Video | list[Video]:
        """Turn an image into a video, or a list of images into a list of videos.

        Options have diffusers' names and meaning; F frames, [C, h, w] latents of a frame.

        Args:
            image: a file, a PIL image or an array [H, W, 3] (uint8, or float in [0, 1]); or a list of them.
            height: pixels; the bundle's by default, as ``width`` and ``num_frames``, F. Other values want a bundle
                exported with ``--dynamic``.
            width: pixels.
            num_frames: frames of the video.
            num_inference_steps: denoising steps; the bundle's by default.
            cut_step: first quality improvement step, 1-based; ``None`` never cuts. By default the bundle's, scaled in
                proportion if ``num_inference_steps`` is not the bundle's.
            cache_interval: compute the deep layers in every so many steps only, and reuse what they gave in the steps
                between (DeepCache, Ma et al. 2024): faster, and another video. More than 1 wants a bundle exported
                with ``--deep-cache``.
            quality_bias: ``mean`` of the conditional and unconditional bias (the paper's Eq. 4), or ``cond``.
            min_guidance_scale: guidance of the first frame; the bundle's by default.
            max_guidance_scale: guidance of the last frame; at 1 or below nothing is guided, as in diffusers.
            fps: frames per second, of the video and as the model's micro-conditioning.
            motion_bucket_id: how much motion, about 1 to 255.
            noise_aug_strength: noise added to the input image before its latents are taken.
            seed: of the random numbers; image ``i`` of a list has ``seed + i``. Random by default, see ``Video.seed``.
            latents: standard normal [1, F, C, h, w] instead of drawn ones; scaled by the first sigma here. For a list
                of n images [n, F, C, h, w], or [1, ...] for all.
            noise: standard normal [1, 3, H, W] for the noise augmentation, likewise.
            start_step: run only the steps from this one on; ``latents`` are then what ``callback`` got after the step
                before, and are not scaled. It computes all layers, whatever the ``cache_interval``.
            decode_chunk: frames decoded at a time; the bundle's by default.
            decode_overlap: frames decoded on each side of a chunk for context and not kept; the bundle's by default,
                or what the chunk has room for. 0 is diffusers' ``decode_chunk_size``.
            fit: how an image of another size is fitted, see :func:`vcut_runtime.images.load_image`.
            callback: called after each step with the step and its latents [1, F, C, h, w].
            progress: called with stage, done and total, from 0 to total.

        Raises:
            UsageError: an option does not fit the bundle.
            VcutError: the backend failed.
        """
        manifest = self.manifest
        sizes = choose_sizes(manifest, num_frames, height, width)
        self.backend.check_sizes(sizes)
        steps = manifest.steps if num_inference_steps is None else num_inference_steps
        if steps < 1:
            raise UsageError(f"num_inference_steps is {steps}: give at least 1")
        cut = default_cut_step(manifest, steps) if cut_step == BUNDLE_DEFAULT else check_cut_step(cut_step, steps)
        if cache_interval < 1:
            raise UsageError(f"cache_interval is {cache_interval}: give 1 to compute all layers in every step, or more")
        if cache_interval > 1 and not manifest.deep_features:
            raise UsageError(
                f"cache_interval is {cache_interval}, this bundle has no shallow steps: export it with --deep-cache"
            )
        if not 1 <= start_step <= steps or (start_step > 1 and latents is None):
            raise UsageError(f"start_step is {start_step}: give 1..{steps}, and from 2 on the latents to start from")
        most = self.backend.max_decode_chunk()
        usual = manifest.decode_chunk if most is None else min(manifest.decode_chunk, most)
        chunk = usual if decode_chunk is None else decode_chunk
        if chunk < 1:
            raise UsageError(f"decode_chunk is {chunk}: give at least 1 frame")
        fixed = manifest.decode_frames
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
        overlap = min(manifest.decode_overlap, (chunk - 1) // 2) if decode_overlap is None else decode_overlap
        if overlap < 0:
            raise UsageError(f"decode_overlap is {overlap}: give 0 or more frames")
        if not 1 <= fps <= 1000:
            raise UsageError(f"fps is {fps}: give at least 1 and at most 1000")
        if noise_aug_strength < 0:
            raise UsageError(f"noise_aug_strength is {noise_aug_strength}: give 0 or more")
        if quality_bias not in ("mean", "cond"):
            raise UsageError(f"unknown quality_bias {quality_bias!r}: choose mean or cond")
        low = manifest.guidance.min if min_guidance_scale is None else min_guidance_scale
        high = manifest.guidance.max if max_guidance_scale is None else max_guidance_scale
        numbers = {
            "noise_aug_strength": noise_aug_strength,
            "motion_bucket_id": motion_bucket_id,
            "min_guidance_scale": low,
            "max_guidance_scale": high,
        }
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise UsageError(f"{name} is {value}: give a finite number")
        planned = plan_steps(manifest.scheduler, steps, cut, cache_interval)
        planned[start_step - 1] = replace(planned[start_step - 1], shallow=False)  # there is nothing to reuse yet
        run = _Run(
            sizes=sizes,
            steps=planned,
            start_step=start_step,
            reuses=cache_interval > 1,
            quality_bias=quality_bias,
            guidance=(low, high),
            fps=fps,
            motion_bucket_id=motion_bucket_id,
            noise_aug_strength=noise_aug_strength,
            chunks=decode_chunks(sizes.frames, chunk, overlap, full=fixed is not None),
            callback=callback,
            progress=progress or (lambda stage, done, total: None),
        )
        several = isinstance(image, Sequence) and not isinstance(image, str)
        given = cast("Sequence[ImageLike]", image if several else [image])
        pixels = [load_image(one, sizes.height, sizes.width, fit) for one in given]
        video_shape = (1, sizes.frames, *manifest.latent_shape_of(sizes))
        all_latents = _injected("latents", latents, video_shape, len(pixels))
        all_noise = _injected("noise", noise, (1, 3, sizes.height, sizes.width), len(pixels))
        if seed is not None and seed < 0:
            raise UsageError(f"seed is {seed}: give 0 or more")
        first = None if all_latents and all_noise else secrets.randbelow(2**31) if seed is None else seed
        videos = []
        for i, one in enumerate(pixels):
            one_seed = None if first is None else first + i
            draw = np.random.default_rng(one_seed)
            # Drawn in diffusers' order; an injected array does not change what the other one is.
            one_noise = draw.standard_normal(one.shape, dtype=np.float32)
            one_latents = draw.standard_normal(video_shape, dtype=np.float32)
            if all_noise:
                one_noise = all_noise[i]
            if all_latents:
                one_latents = all_latents[i]
            videos.append(self._one(run, one, one_noise, one_latents, one_seed))
        return videos if several else videos[0]

    def _one(self, run: _Run, image: np.ndarray, noise: np.ndarray, latents: np.ndarray, seed: int | None) -> Video:
        clock = _Clock(self.backend)
        run.progress("condition", 0, 1)
        self._load("condition", clock)
        with clock.stage("condition"):
            strength = np.array([run.noise_aug_strength], dtype=np.float32)
            inputs = {
                "image": image,
                "noise": noise,
                "noise_aug_strength": strength,
                **resizing(self.manifest, run.sizes),
            }
            condition = self.backend.run("condition", {name: self.backend.upload(v) for name, v in inputs.items()})
        clock.wait()
        run.progress("condition", 1, 1)
        scale = np.float32(self.manifest.scheduler.initial_noise_scale if run.start_step == 1 else 1.0)
        latents = self._denoise(run, latents * scale, condition, clock)
        frames = self._decode(run, latents, clock)
        return Video(frames, run.fps, seed, clock.seconds(), self.backend.peak_memory())

    def _denoise(self, run: _Run, start: np.ndarray, condition: dict[str, Any], clock: _Clock) -> np.ndarray:
        """The step loop: ``start`` [1, F, C, h, w] is scaled noise; latents stay with the backend throughout.

        A step is asked for while the one before it runs, so that the device never waits for this loop; progress tells
        of steps that are done.
        """
        upload, download = self.backend.upload, self.backend.download
        ids = added_time_ids(run.fps, run.motion_bucket_id, run.noise_aug_strength)
        common = {"image_latents": condition["image_latents"], "added_time_ids": upload(ids)}
        levels = [run.steps[0].sigma, *(step.sigma_next for step in run.steps)]
        sigmas = [upload(np.array([level], dtype=np.float32)) for level in levels]
        latents, features = upload(start), None
        for stage, group in groupby(run.steps[run.start_step - 1 :], key=lambda step: step.stage):
            steps = list(group)
            if stage == "semantic_binding" and run.guidance[1] > 1.0:
                guidance = guidance_scale(*run.guidance, run.sizes.frames)
                graph: StageName = "semantic_binding"
                constant = {"sca_bias": condition["sca_bias"], "guidance_scale": upload(guidance)}
            else:  # without guidance the first stage is conditional too, with the conditional bias as it is
                kind = run.quality_bias if stage == "quality_improvement" else "cond"
                graph = "quality_improvement"
                constant = {"sca_bias": upload(stage_bias(download(condition["sca_bias"]), kind))}
            run.progress(stage, 0, len(steps))
            self._load(graph, clock)
            for done, step in enumerate(steps, start=1):
                if step.shallow:
                    self._load(SHALLOW[graph], clock)
                with clock.stage(stage):
                    scalars = {"sigma": sigmas[step.index - 1], "sigma_next": sigmas[step.index]}
                    inputs = {"latents": latents, **scalars, **common, **constant}
                    if step.shallow:
                        outputs = self.backend.run(SHALLOW[graph], {**inputs, FEATURES: features})
                    else:
                        outputs = self.backend.run(graph, inputs)
                        features = outputs[FEATURES] if run.reuses else None
                    latents = outputs["next_latents"]
                clock.wait(behind=0 if done == len(steps) else 1)
                if done == len(steps):
                    run.progress(stage, done, len(steps))
                elif done > 1:
                    run.progress(stage, done - 1, len(steps))
                if run.callback:
                    run.callback(step, download(latents))
        return download(latents)

    def _decode(self, run: _Run, latents: np.ndarray, clock: _Clock) -> np.ndarray:
        """Latents [1, F, C, h, w] to frames [F, H, W, 3], a chunk at a time."""
        total, decoded = latents.shape[1], []
        run.progress("decode", 0, total)
        self._load("decode", clock)
        for chunk in run.chunks:
            inputs = {"latents": self.backend.upload(latents[0, chunk.start : chunk.stop])}
            with clock.stage("decode"):
                frames = self.backend.run("decode", inputs)["frames"]
            kept = slice(chunk.keep_from - chunk.start, chunk.keep_to - chunk.start)
            decoded.append(self.backend.download(frames)[kept])
            run.progress("decode", chunk.keep_to, total)
        return np.concatenate(decoded)

    def _load(self, graph: str, clock: _Clock) -> None:
        start = time.perf_counter()
        self.backend.load(graph)
        clock.loading += time.perf_counter() - start


class _Clock:
    """Times the stages of one video in the backend's own time: a device's clock where there is a device."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.marks: list[tuple[str, Any, Any]] = []
        self.loading = 0.0  # seconds, on the host

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self.backend.mark()
        yield
        self.marks.append((name, start, self.backend.mark()))

    def wait(self, behind: int = 0) -> None:
        """Wait for everything timed so far but the last ``behind`` pieces of work."""
        if len(self.marks) > behind:
            self.backend.wait(self.marks[-1 - behind][2])

    def seconds(self) -> dict[str, float]:
        """Return the time spent in each stage, and in loading."""
        result = {"load": self.loading}
        for name, start, end in self.marks:
            result[name] = result.get(name, 0.0) + self.backend.seconds(start, end)
        return result


def choose_sizes(
    manifest: Manifest, num_frames: int | None = None, height: int | None = None, width: int | None = None
) -> Sizes:
    """Return the sizes of a video: those given, where the bundle can make them, else the bundle's.

    Raises:
        UsageError: it cannot; the message says what it can, or which export could.
    """
    given = (num_frames, height, width)
    for name, own, value in zip(DIMENSIONS, manifest.sizes, given, strict=True):
        found = manifest.dynamic.get(name, SizeRange(own, own, 1))
        if value is None or value in found:
            continue
        option = "num_frames" if name == "frames" else name
        can = str(found) if name in manifest.dynamic else f"{own} only: export it with --dynamic {name}=MIN:MAX"
        raise UsageError(f"{option} is {value}, this bundle makes {can}")
    return Sizes(*(own if value is None else value for own, value in zip(manifest.sizes, given, strict=True)))


def resizing(manifest: Manifest, sizes: Sizes) -> dict[str, np.ndarray]:
    """Return the matrices that ``condition`` takes where an image's size is free; otherwise they are in the graph."""
    if not {"height", "width"} & set(manifest.dynamic):
        return {}
    seen = manifest.encoder_size
    return {"resize_rows": resize_matrix(sizes.height, seen), "resize_columns": resize_matrix(sizes.width, seen).T}


def _injected(name: str, value: np.ndarray | None, shape: tuple[int, ...], images: int) -> list[np.ndarray]:
    """Check an injected array and return one of ``shape``, [1, ...], for each image; none if nothing is injected."""
    if value is None:
        return []
    value = np.asarray(value, dtype=np.float32)
    if value.shape[1:] != shape[1:] or value.shape[0] not in (1, images):
        raise UsageError(f"{name} has shape {list(value.shape)}, this bundle wants {list(shape)} for each image")
    return [value[i : i + 1] if value.shape[0] == images else value for i in range(images)]
