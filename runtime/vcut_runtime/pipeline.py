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
from vcut_runtime.decoding import check_frames
from vcut_runtime.errors import UsageError
from vcut_runtime.images import ImageLike, load_image
from vcut_runtime.options import BackendOptions, RunOptions
from vcut_runtime.run_plan import plan_run
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
        plan = plan_run(self.manifest, options, self.backend.max_decode_chunk())
        self.backend.check_run(plan.sizes, {step.graph for step in plan.schedule})
        sizes = plan.sizes
        several = isinstance(image, Sequence) and not isinstance(image, str)
        images = cast("Sequence[ImageLike]", image if several else [image])
        pixels = [load_image(image, sizes.height, sizes.width, options.fit) for image in images]
        video_shape = (1, sizes.frames, *self.manifest.geometry.latent_shape(sizes))
        all_latents = _injected("latents", latents, video_shape, len(pixels))
        all_noise = _injected("noise", noise, (1, 3, sizes.height, sizes.width), len(pixels))
        draws = not (all_latents and all_noise) or any(step.noise for step in plan.schedule)
        first_scale = np.float32(self.manifest.scheduler.noise_scale(plan.schedule[0].sigma))
        first_seed = None if not draws else secrets.randbelow(2**31) if options.seed is None else options.seed
        after_step = None if callback is None else lambda step, state: callback(state.done, step, state.latents)
        videos = []
        for i, photo in enumerate(pixels):
            seed = None if first_seed is None else first_seed + i
            draw = np.random.default_rng(seed)
            # Drawn in diffusers' order. An injected array does not change what the other array is.
            own_noise = draw.standard_normal(photo.shape, dtype=np.float32)
            own_latents = draw.standard_normal(video_shape, dtype=np.float32)
            run = VideoRun(self.manifest, self.backend, plan, draw, progress or (lambda stage, done, total: None))
            run.condition(photo, all_noise[i] if all_noise else own_noise)
            start = State(0, (all_latents[i] if all_latents else own_latents) * first_scale)
            frames = run.decode(run.denoise(plan.schedule, start, after_step))
            check_frames(frames, photo)
            videos.append(Video(frames, options.fps, seed, run.clock.seconds(), self.backend.peak_memory()))
        return videos if several else videos[0]

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


def _injected(name: str, value: np.ndarray | None, shape: tuple[int, ...], images: int) -> list[np.ndarray]:
    """Check an injected array and return a part of ``shape``, [1, ...], for each image; nothing if none is injected."""
    if value is None:
        return []
    value = np.asarray(value, dtype=np.float32)
    if value.shape[1:] != shape[1:] or value.shape[0] not in (1, images):
        raise UsageError(f"{name} has shape {list(value.shape)}, this bundle needs {list(shape)} for each image")
    return [value[i : i + 1] if value.shape[0] == images else value for i in range(images)]
