"""Image to video: condition, the step loop that plays a schedule, decode."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, cast, overload

import numpy as np

from vcut_runtime.backends import Backend, open_backend
from vcut_runtime.bundle import Bundle, open_bundle
from vcut_runtime.bundle.graph import FEATURES, GRAPHS, sized
from vcut_runtime.bundle.manifest import Manifest
from vcut_runtime.command_options import merge
from vcut_runtime.errors import UsageError
from vcut_runtime.images import ImageLike, load_image
from vcut_runtime.options import BackendOptions, RunOptions
from vcut_runtime.run_plan import RunPlan, plan_run
from vcut_runtime.schedule import Bias, Step, select_bias
from vcut_runtime.video import Video

Callback = Callable[[int, Step, np.ndarray], None]
Progress = Callable[[str, int, int], None]
Values = dict[str, Any]  # inputs of graphs by name, where the backend keeps them


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
                For a list of n images [n, F, C, h, w], or [1, ...] for all. With a ``start_step`` above 1 they are the
                latents that ``callback`` got after the step before, and are not scaled.
            noise: standard normal [1, 3, H, W] for the noise augmentation, likewise.
            callback: called after each step with its number (1-based), the step and its latents [1, F, C, h, w].
            progress: called with stage, done and total, from 0 to total.
            keywords: fields of :class:`~vcut_runtime.options.RunOptions`, in the place of ``options``.

        Raises:
            UsageError: an option does not fit the bundle.
            VcutError: the backend failed.
        """
        options = merge(RunOptions, options, keywords)
        if options.start_step > 1 and latents is None:
            raise UsageError(f"start_step is {options.start_step}: give the latents to start from too")
        plan = plan_run(self.manifest, options, self.backend.max_decode_chunk())
        self.backend.check_sizes(plan.sizes)
        sizes = plan.sizes
        several = isinstance(image, Sequence) and not isinstance(image, str)
        images = cast("Sequence[ImageLike]", image if several else [image])
        pixels = [load_image(image, sizes.height, sizes.width, options.fit) for image in images]
        video_shape = (1, sizes.frames, *self.manifest.geometry.latent_shape(sizes))
        all_latents = _injected("latents", latents, video_shape, len(pixels))
        all_noise = _injected("noise", noise, (1, 3, sizes.height, sizes.width), len(pixels))
        draws = not (all_latents and all_noise) or any(step.noise for step in plan.schedule)
        first_seed = None if not draws else secrets.randbelow(2**31) if options.seed is None else options.seed
        videos = []
        for i, photo in enumerate(pixels):
            seed = None if first_seed is None else first_seed + i
            draw = np.random.default_rng(seed)
            # Drawn in diffusers' order. An injected array does not change what the other array is.
            own_noise = draw.standard_normal(photo.shape, dtype=np.float32)
            own_latents = draw.standard_normal(video_shape, dtype=np.float32)
            run = _Run(self, plan, draw, callback, progress or (lambda stage, done, total: None))
            frames = run.make(
                photo, all_noise[i] if all_noise else own_noise, all_latents[i] if all_latents else own_latents
            )
            videos.append(Video(frames, options.fps, seed, run.clock.seconds(), self.backend.peak_memory()))
        return videos if several else videos[0]


class _Run:
    """One video in the making."""

    def __init__(
        self,
        pipeline: Pipeline,
        plan: RunPlan,
        draw: np.random.Generator,
        callback: Callback | None,
        progress: Progress,
    ) -> None:
        self.manifest, self.backend, self.plan = pipeline.manifest, pipeline.backend, plan
        self.draw, self.callback, self.progress = draw, callback, progress
        self.clock = StageClock(pipeline.backend)
        self.defaults: dict[tuple[str, tuple[int, ...]], Any] = {}

    def make(self, image: np.ndarray, noise: np.ndarray, latents: np.ndarray) -> np.ndarray:
        """Return the frames [F, H, W, 3], uint8."""
        self.progress("condition", 0, 1)
        upload = self.backend.upload
        constants = {name: upload(value) for name, value in self.plan.constants.items()}
        condition = self.run("condition", {**constants, "image": upload(image), "noise": upload(noise)})
        self.clock.wait()
        self.progress("condition", 1, 1)
        if self.plan.first_step == 1:
            latents = latents * np.float32(self.manifest.scheduler.initial_noise_scale)
        latents = self._denoise(latents, {**constants, "image_latents": condition["image_latents"]}, condition)
        return self._decode(latents)

    def run(self, graph: str, values: Values, n: int = 0) -> Values:
        """Run ``graph`` on those of ``values`` that it takes, and on its inputs' defaults; ``n`` frames are decoded."""
        start = time.perf_counter()
        self.backend.load(graph)
        self.clock.loading += time.perf_counter() - start
        names = [tensor.name for tensor in self.manifest.graphs[graph].inputs]
        with self.clock.stage(GRAPHS[graph].stage):
            inputs = {name: values[name] if name in values else self._default(graph, name, n) for name in names}
            return self.backend.run(graph, inputs)

    def _denoise(self, start: np.ndarray, constants: Values, condition: Values) -> np.ndarray:
        """Play the schedule: ``start`` [1, F, C, h, w] is scaled noise; latents stay with the backend throughout.

        A step is asked for while the step before it runs, so that the device never waits for this loop. Progress
        reports steps that are done.
        """
        upload, download = self.backend.upload, self.backend.download
        biases: dict[Bias, Any] = {"both": condition["sca_bias"]}
        values = {**constants, "latents": upload(start)}
        scalars = iter([self._scalars(step) for step in self.plan.schedule])
        number = self.plan.first_step
        for stage, group in groupby(self.plan.schedule, key=lambda step: GRAPHS[step.graph].stage):
            steps = list(group)
            self.progress(stage, 0, len(steps))
            for done, step in enumerate(steps, start=1):
                if step.bias not in biases:
                    biases[step.bias] = upload(select_bias(download(condition["sca_bias"]), step.bias))
                values |= {**next(scalars), "sca_bias": biases[step.bias]}
                outputs = self.run(step.graph, values)
                values["latents"] = self._with_noise(outputs["next_latents"], step)
                values["previous_denoised"] = outputs["denoised"]
                if FEATURES in outputs:
                    values[FEATURES] = outputs[FEATURES]
                last = done == len(steps)
                self.clock.wait(behind=0 if last else 1)
                if last or done > 1:
                    self.progress(stage, done if last else done - 1, len(steps))
                if self.callback:
                    self.callback(number, step, download(values["latents"]))
                number += 1
        return download(values["latents"])

    def _scalars(self, step: Step) -> Values:
        values = {"sigma": [step.sigma], "coefficients": step.coefficients}
        return {name: self.backend.upload(np.array(value, dtype=np.float32)) for name, value in values.items()}

    def _with_noise(self, latents: Any, step: Step) -> Any:
        """Add the fresh noise that a stochastic sampler asks for."""
        if not step.noise:
            return latents
        values = self.backend.download(latents)
        noise = self.draw.standard_normal(values.shape, dtype=np.float32)
        return self.backend.upload(values + np.float32(step.noise) * noise)

    def _decode(self, latents: np.ndarray) -> np.ndarray:
        """Decode latents [1, F, C, h, w] to frames [F, H, W, 3], a chunk at a time."""
        total, decoded = latents.shape[1], []
        self.progress("decode", 0, total)
        for chunk in self.plan.chunks:
            part = self.backend.upload(latents[0, chunk.start : chunk.stop])
            frames = self.backend.download(self.run("decode", {"latents": part}, chunk.stop - chunk.start)["frames"])
            decoded.append(frames[chunk.keep_from - chunk.start : chunk.keep_to - chunk.start])
            self.progress("decode", chunk.keep_to, total)
        return np.concatenate(decoded)

    def _default(self, graph: str, name: str, n: int) -> Any:
        """Return the value of an input that a run does not set, uploaded once."""
        (tensor,) = (t for t in GRAPHS[graph].inputs if t.name == name)
        if tensor.default is None:
            raise RuntimeError(f"{graph} needs {name}, which has no default")
        symbols = self.manifest.geometry.values(self.plan.sizes, n)
        shape = sized(tensor.shape, {**symbols, "N": self.manifest.bias_channels})
        if (name, shape) not in self.defaults:
            self.defaults[name, shape] = self.backend.upload(np.full(shape, tensor.default, dtype=np.float32))
        return self.defaults[name, shape]


class StageClock:
    """Times the stages of one video in the backend's own time: a device's clock if there is a device."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.marks: list[tuple[str, Any, Any]] = []
        self.loading = 0.0  # seconds, on the host

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body."""
        start = self.backend.mark()
        yield
        self.marks.append((name, start, self.backend.mark()))

    def wait(self, behind: int = 0) -> None:
        """Wait for everything timed so far, except the last ``behind`` pieces of work."""
        if len(self.marks) > behind:
            self.backend.wait(self.marks[-1 - behind][2])

    def seconds(self) -> dict[str, float]:
        """Return the time spent in each stage, and in loading."""
        result = {"load": self.loading}
        for name, start, end in self.marks:
            result[name] = result.get(name, 0.0) + self.backend.seconds(start, end)
        return result


def _injected(name: str, value: np.ndarray | None, shape: tuple[int, ...], images: int) -> list[np.ndarray]:
    """Check an injected array and return a part of ``shape``, [1, ...], for each image; nothing if none is injected."""
    if value is None:
        return []
    value = np.asarray(value, dtype=np.float32)
    if value.shape[1:] != shape[1:] or value.shape[0] not in (1, images):
        raise UsageError(f"{name} has shape {list(value.shape)}, this bundle needs {list(shape)} for each image")
    return [value[i : i + 1] if value.shape[0] == images else value for i in range(images)]
