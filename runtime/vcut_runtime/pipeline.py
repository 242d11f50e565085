"""Image to video: condition, the step loop that plays a schedule, decode."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast, overload

import numpy as np

from vcut_runtime.backends import Backend, open_backend
from vcut_runtime.bundle import Bundle, open_bundle
from vcut_runtime.bundle.manifest import Manifest
from vcut_runtime.command_options import merge
from vcut_runtime.errors import UsageError
from vcut_runtime.images import ImageLike, Photo, fit_notes, open_image
from vcut_runtime.options import BackendOptions, RunOptions
from vcut_runtime.run_input import run_inputs
from vcut_runtime.run_plan import RunPlan, choose_sizes, plan_run
from vcut_runtime.schedule import Step
from vcut_runtime.video import Video
from vcut_runtime.video_run import Progress, State, VideoRun

Callback = Callable[[int, Step, np.ndarray], None]


class Pipeline:
    """A loaded bundle. Make one with :meth:`load`, then call it with an image.

    Threads may share it: it makes one video after the other.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle = bundle
        self.backend = backend
        self._lock, self._busy = threading.RLock(), False

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
        return cls(opened, open_backend(opened, backend, merge(BackendOptions, options, keywords)))

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    @overload
    def __call__(self, image: ImageLike, options: RunOptions | None = None, **keywords: Any) -> Video: ...
    @overload
    def __call__(
        self, image: Sequence[ImageLike], options: RunOptions | None = None, **keywords: Any
    ) -> list[Video]: ...
    def __call__(
        self,
        image: ImageLike | Sequence[ImageLike],
        options: RunOptions | None = None,
        *,
        latents: np.ndarray | None = None,
        noise: np.ndarray | None = None,
        callback: Callback | None = None,
        progress: Progress | None = None,
        **keywords: Any,
    ) -> Video | list[Video]:
        """Turn an image into a video, or a list of images into a list of videos.

        Args:
            image: a file, a PIL image or an array [H, W, 3] (uint8, or float in [0, 1]); or a list of them.
            options: what the videos are made with.
            latents: standard normal [1, F, C, h, w] instead of drawn numbers; they are scaled by the first sigma here.
                For a list of n images [n, F, C, h, w], or [1, ...] for all.
            noise: standard normal [1, 3, H, W] for the noise augmentation, likewise.
            callback: called after each step with its number (1-based), the step and its latents [1, F, C, h, w].
            progress: called with stage, done and total, from 0 to total.
            keywords: fields of :class:`~vcut_runtime.options.RunOptions`, in the place of ``options``.

        Raises:
            UsageError: an option does not fit the bundle.
            VcutError: the backend failed.
        """
        options = merge(RunOptions, options, keywords)
        with self._alone():
            return self._make(image, options, latents, noise, callback, progress)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one thread at a time use the backend, whose buffers hold one video."""
        with self._lock:
            if self._busy:
                raise UsageError("a callback cannot make another video with its own pipeline: make it afterwards")
            self._busy = True
            try:
                yield
            finally:
                self._busy = False

    def _make(
        self,
        image: ImageLike | Sequence[ImageLike],
        options: RunOptions,
        latents: np.ndarray | None,
        noise: np.ndarray | None,
        callback: Callback | None,
        progress: Progress | None,
    ) -> Video | list[Video]:
        plan = self._plan(options)
        several = isinstance(image, Sequence) and not isinstance(image, str)
        images = cast("Sequence[ImageLike]", image if several else [image])
        make_plan = (lambda photo: plan) if options.size is None else (lambda photo: self._plan(options, photo))
        inputs = run_inputs(images, make_plan, self.manifest.geometry, options.fit, latents, noise)
        draws = latents is None or noise is None or any(step.noise for step in plan.schedule)
        first_scale = np.float32(self.manifest.scheduler.noise_scale(plan.schedule[0].sigma))
        first_seed = None if not draws else secrets.randbelow(2**31) if options.seed is None else options.seed
        after_step = None if callback is None else lambda step, state: callback(state.done, step, state.latents)
        fps = options.fps if options.output_fps is None else options.output_fps
        videos = []
        for i, part in enumerate(inputs):
            seed = None if first_seed is None else first_seed + i
            draw = np.random.default_rng(seed)
            # Drawn in diffusers' order. An injected array does not change what the other array is.
            own_noise = draw.standard_normal(part.image.shape, dtype=np.float32)
            own_latents = draw.standard_normal(part.latent_shape, dtype=np.float32)
            run = VideoRun(self.manifest, self.backend, part.plan, draw, progress or (lambda stage, done, total: None))
            run.condition(part.image, own_noise if part.noise is None else part.noise)
            start = State(0, (own_latents if part.latents is None else part.latents) * first_scale)
            frames = run.decode(run.denoise(plan.schedule, start, after_step))
            memory = self.backend.peak_memory()
            videos.append(Video(frames, fps, seed, run.clock.seconds(), memory, part.notes))
        return videos if several else videos[0]

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
        plan = plan_run(self.manifest, merge(RunOptions, options, keywords), self.backend.max_decode_chunk())
        graphs = Counter(step.graph for step in plan.schedule)
        self.backend.check_run(plan.sizes, graphs)
        return sum(count * self.backend.step_seconds(graph, plan.sizes) for graph, count in graphs.items())
