"""Image to video: condition, the step loop that plays a schedule, decode."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np

from vcut_runtime.arrays import ArrayLike
from vcut_runtime.backends import Backend, open_backend
from vcut_runtime.bundle import Bundle, open_bundle
from vcut_runtime.bundle.manifest import Manifest
from vcut_runtime.call_inputs import check_video_count, choose_seeds
from vcut_runtime.command_options import merge
from vcut_runtime.decoding import check_frames
from vcut_runtime.diffusers_names import (
    Callback,
    CallbackOnStepEnd,
    FramesOutput,
    OutputType,
    check_output_type,
    frames_output,
    step_callback,
    without_ignored,
)
from vcut_runtime.errors import UsageError
from vcut_runtime.finite import check_given
from vcut_runtime.images import ImageLike, Photo, fit_notes, list_images, open_image
from vcut_runtime.noise import IMAGE, LATENTS, normal
from vcut_runtime.options import BackendOptions, RunOptions
from vcut_runtime.run_input import run_inputs
from vcut_runtime.run_plan import RunPlan, choose_sizes, plan_run
from vcut_runtime.turns import CancellableTurn, check_cancelled, check_event
from vcut_runtime.video import Video
from vcut_runtime.video_run import Progress, State, VideoRun


class Pipeline:
    """A loaded bundle. Make one with :meth:`load`, then call it with an image.

    Threads may share it: it makes one video after the other. After an error, a cancel or Ctrl-C it makes the next video
    as if nothing had happened.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle = bundle
        self.backend = backend
        self._lock, self._making, self._closed = threading.RLock(), threading.Lock(), False

    @classmethod
    def load(
        cls,
        bundle: str | Path | Bundle,
        backend: str = "auto",
        options: BackendOptions | None = None,
        **keywords: Any,
    ) -> Pipeline:
        """Check ``bundle`` and choose what runs it. Every file is compared with its sha256 before it is loaded.

        Args:
            bundle: the bundle's folder, or an opened bundle.
            backend: ``tensorrt``, ``tensorrt-rtx``, ``onnxruntime-cuda``, ``onnxruntime-cpu``, or ``auto``: the first
                of these that can run this bundle here. ``pipeline.backend.notes`` says what was chosen and why.
            options: how to run.
            keywords: fields of :class:`~vcut_runtime.options.BackendOptions`, in their place.

        Raises:
            BundleError: the bundle is damaged, foreign or unsafe.
            UsageError: the backend is unknown or cannot run this bundle here.
        """
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle, hashes=False)
        return cls(opened, open_backend(opened, backend, merge(BackendOptions, options, without_ignored(keywords))))

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    @overload
    def __call__(
        self, image: ImageLike, options: RunOptions | None = None, *, output_type: None = None, **keywords: Any
    ) -> Video: ...
    @overload
    def __call__(
        self,
        image: Sequence[ImageLike],
        options: RunOptions | None = None,
        *,
        output_type: None = None,
        **keywords: Any,
    ) -> list[Video]: ...
    @overload
    def __call__(
        self,
        image: ImageLike | Sequence[ImageLike],
        options: RunOptions | None = None,
        *,
        output_type: OutputType,
        **keywords: Any,
    ) -> FramesOutput: ...
    def __call__(
        self,
        image: ImageLike | Sequence[ImageLike],
        options: RunOptions | None = None,
        *,
        latents: ArrayLike | None = None,
        noise: ArrayLike | None = None,
        generator: Any = None,
        num_videos_per_prompt: int = 1,
        callback: Callback | None = None,
        callback_on_step_end: CallbackOnStepEnd | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
        output_type: OutputType | None = None,
        **keywords: Any,
    ) -> Video | list[Video] | FramesOutput:
        """Turn an image into a video, or a list of images into a list of videos.

        Args:
            image: a path, bytes, a file object, a PIL image, an array or a tensor, see
                :func:`~vcut_runtime.image_sources.open_source`; or a list of them.
            options: what the videos are made with.
            latents: standard normal [1, F, C, h, w] instead of drawn numbers; they are scaled by the first sigma here.
                For a list of n images [n, F, C, h, w], or [1, ...] for all.
            noise: standard normal [1, 3, H, W] for the noise augmentation, likewise.
            generator: draws the seed, in the place of ``seed``: a generator of torch or numpy, or one for each video.
            num_videos_per_prompt: videos of each image. More than one make the result a list, image by image.
            callback: called after each step with its number (1-based), the step and a copy of its latents
                [1, F, C, h, w]. Latents that it returns replace them; None keeps them.
            callback_on_step_end: the same in diffusers' form, see
                :func:`~vcut_runtime.diffusers_names.step_callback`.
            progress: called with stage, done and total, from 0 to total.
            cancel: ends the call with :class:`Cancelled` before the next step once another thread has set it.
            output_type: ``pil`` or ``np``: return the frames in diffusers' form.
            keywords: fields of :class:`~vcut_runtime.options.RunOptions`, in the place of ``options``.

        Raises:
            UsageError: an option does not fit the bundle, or the pipeline is closed.
            Cancelled: ``cancel`` was set.
            VcutError: the backend failed, or the latents of a step are not finite.
        """
        check_output_type(output_type)
        options = merge(RunOptions, options, without_ignored(keywords))
        count = check_video_count(num_videos_per_prompt)
        check_event(cancel)
        if callback_on_step_end is not None:
            if callback is not None:
                raise UsageError("callback and callback_on_step_end exclude each other: leave one out")
            callback = step_callback(self, callback_on_step_end)
        images, several = list_images(image)
        # Only locks in a ``with``: Ctrl-C may come between any two lines of Python.
        with self._lock if cancel is None else CancellableTurn(self._lock, cancel):
            self._check_not_nested()
            with self._making:
                videos = self._make(images, count, options, latents, noise, generator, callback, progress, cancel)
        if output_type is not None:
            return frames_output(videos, output_type)
        return videos if several or count > 1 else videos[0]

    def close(self) -> None:
        """Give back the memory: sessions, engines, everything on the GPU. A video in the making is waited for.

        What the libraries themselves hold, such as the CUDA context, goes with the process. A closed pipeline makes no
        more videos. ``with Pipeline.load(...) as pipeline:`` closes it at the end.
        """
        with self._lock:
            self._check_not_nested()
            if not self._closed:
                self._closed = True
                self.backend.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_not_nested(self) -> None:
        """Refuse a call by a callback: the lock lets its thread in, but the backend's buffers hold one video."""
        if self._making.locked():
            raise UsageError("a callback cannot use its own pipeline for another video, or close it: do it afterwards")

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("the pipeline is closed: load the bundle again with Pipeline.load")

    def _make(
        self,
        images: Sequence[ImageLike],
        count: int,
        options: RunOptions,
        latents: ArrayLike | None,
        noise: ArrayLike | None,
        generator: Any,
        callback: Callback | None,
        progress: Progress | None,
        cancel: threading.Event | None,
    ) -> list[Video]:
        """Make ``count`` videos of each image."""
        self._check_open()
        plan = self._plan(options)
        make_plan = (lambda photo: plan) if options.size is None else (lambda photo: self._plan(options, photo))
        inputs = run_inputs(images, count, make_plan, self.manifest.geometry, options.fit, latents, noise)
        draws = latents is None or noise is None or any(step.noise for step in plan.schedule)
        first_scale = np.float32(self.manifest.scheduler.noise_scale(plan.schedule[0].sigma))
        seeds = choose_seeds(options.seed, generator, len(inputs)) if draws else [None] * len(inputs)
        after_step = None if callback is None else lambda step, state: callback(state.done, step, state.latents)
        before_graph = partial(check_cancelled, cancel)
        fps = options.fps if options.output_fps is None else options.output_fps
        videos = []
        for part, seed in zip(inputs, seeds, strict=True):
            run = VideoRun(self.manifest, self.backend, part.plan, seed or 0, progress or _no_progress, before_graph)
            run.condition(part.image, normal(run.seed, IMAGE, part.image.shape) if part.noise is None else part.noise)
            drawn = normal(run.seed, LATENTS, part.latent_shape) if part.latents is None else part.latents
            with np.errstate(over="ignore"):  # it is refused below
                start = State(0, drawn * first_scale)
            check_given("the latents times the first noise level", start.latents)
            frames = run.decode(run.denoise(plan.schedule, start, after_step))
            check_frames(frames, part.image)
            memory = self.backend.peak_memory()
            videos.append(Video(frames, fps, seed, run.clock.seconds(), memory, part.notes))
        return videos

    def _plan(self, options: RunOptions, photo: Photo | None = None) -> RunPlan:
        """Plan a video and check that the backend can make it; without ``photo`` the size ``auto`` is the bundle's."""
        size = None if photo is None else photo.image.size
        plan = plan_run(self.manifest, options, self.backend.max_decode_chunk(), size)
        self.backend.check_run(plan.sizes, {step.graph for step in plan.schedule})
        return plan

    def notes(self, image: ImageLike, options: RunOptions | None = None, **keywords: Any) -> tuple[str, ...]:
        """Return what the ``notes`` of a video of ``image`` will be, such as that it is stretched. Nothing runs.

        Args:
            image: as in a call.
            options: what the video is made with.
            keywords: fields of :class:`~vcut_runtime.options.RunOptions`, in the place of ``options``.

        Raises:
            UsageError: the image cannot be read, or an option does not fit the bundle.
        """
        photo, options = open_image(image), merge(RunOptions, options, keywords)
        sizes = choose_sizes(self.manifest, options, photo.image.size)
        return fit_notes(photo, sizes.height, sizes.width, options.fit)

    def estimate_seconds(self, options: RunOptions | None = None, **keywords: Any) -> float:
        """Return roughly how long the steps of a video take on a slow device; 0 where a step takes a second or two.

        Args:
            options: what the video is made with.
            keywords: fields of :class:`~vcut_runtime.options.RunOptions`, in the place of ``options``.

        Raises:
            UsageError: an option does not fit the bundle.
            VcutError: the video cannot be made here.
        """
        self._check_open()
        options = merge(RunOptions, options, without_ignored(keywords))
        plan = plan_run(self.manifest, options, self.backend.max_decode_chunk())
        graphs = Counter(step.graph for step in plan.schedule)
        self.backend.check_run(plan.sizes, graphs)
        return sum(count * self.backend.step_seconds(graph, plan.sizes) for graph, count in graphs.items())


def _no_progress(stage: str, done: int, total: int) -> None: ...
