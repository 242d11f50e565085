"""One video in the making, stage by stage: condition, the steps of a schedule, decode."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from vcut_runtime.arrays import as_array
from vcut_runtime.backends import Backend
from vcut_runtime.bundle.graph import FEATURES, GRAPHS, sized
from vcut_runtime.bundle.manifest import Manifest
from vcut_runtime.errors import UsageError
from vcut_runtime.finite import check_given, check_made
from vcut_runtime.noise import after_step, normal
from vcut_runtime.run_plan import RunPlan
from vcut_runtime.schedule import Bias, Schedule, Step, select_bias

Progress = Callable[[str, int, int], None]
AfterStep = Callable[["Step", "State"], Any]  # returns latents for the next step, or None to keep them
Values = dict[str, Any]  # inputs of graphs by name, where the backend keeps them


@dataclass(frozen=True)
class State:
    """What the next step of a schedule needs from the steps before, apart from deep features.

    Attributes:
        done: number of steps done.
        latents: [1, F, C, h, w].
        previous_denoised: the last step's, [1, F, C, h, w]; None before the first step.
    """

    done: int
    latents: np.ndarray
    previous_denoised: np.ndarray | None = None


class VideoRun:
    """One video in the making. Call :meth:`condition`, then :meth:`denoise`, then :meth:`decode`.

    Args:
        manifest: of the bundle.
        backend: what runs the graphs.
        plan: of the video.
        seed: of the fresh noise of stochastic samplers.
        progress: called with stage, done and total.
        before_graph: called before each graph runs. What it raises ends the video, and harms nothing.

    Attributes:
        conditioned: ``image_latents`` and ``sca_bias``, where the backend keeps them.
    """

    def __init__(
        self,
        manifest: Manifest,
        backend: Backend,
        plan: RunPlan,
        seed: int,
        progress: Progress,
        before_graph: Callable[[], None] = lambda: None,
    ) -> None:
        self.manifest, self.backend, self.plan, self.seed, self.progress = manifest, backend, plan, seed, progress
        self.before_graph = before_graph
        self.clock = StageClock(backend)
        self.conditioned: Values = {}
        self.constants = {name: backend.upload(value) for name, value in plan.constants.items()}
        self._defaults: dict[tuple[str, tuple[int, ...]], Any] = {}

    def condition(self, image: np.ndarray, noise: np.ndarray) -> None:
        """Encode ``image`` [1, 3, H, W]; ``noise`` [1, 3, H, W] is standard normal.

        Raises:
            VcutError: a result is not finite. Only values on the host are looked at.
        """
        self.progress("condition", 0, 1)
        upload = self.backend.upload
        self.conditioned = self._run("condition", {**self.constants, "image": upload(image), "noise": upload(noise)})
        self.clock.wait()
        if self.backend.on_host:
            for name, value in self.conditioned.items():
                self._check(f"the image encoder gave {name}", self.backend.download(value))
        self.progress("condition", 1, 1)

    def denoise(self, schedule: Schedule, start: State, after_step: AfterStep | None = None) -> np.ndarray:
        """Play the rows of ``schedule`` that ``start`` has not done yet; return latents [1, F, C, h, w].

        A step is asked for while the step before it runs, so that the device never waits for this loop. Progress
        reports steps that are done. The latents stay with the backend, unless ``after_step`` asks for them. What it
        returns replaces them.

        Raises:
            UsageError: ``after_step`` returned something else than finite latents.
            VcutError: latents are not finite. On the host, and with ``after_step``, each step is looked at. Otherwise
                only the last one is, because the others stay on the device.
        """
        upload, download = self.backend.upload, self.backend.download
        biases: dict[Bias, Any] = {"both": self.conditioned["sca_bias"]}
        values = {**self.constants, "image_latents": self.conditioned["image_latents"]}
        values["latents"] = upload(start.latents)
        if start.previous_denoised is not None:
            values["previous_denoised"] = upload(start.previous_denoised)
        rows, number = schedule[start.done :], start.done
        scalars = iter([self._scalars(step) for step in rows])
        for stage, group in groupby(rows, key=lambda step: GRAPHS[step.graph].stage):
            steps = list(group)
            self.progress(stage, 0, len(steps))
            for done, step in enumerate(steps, start=1):
                number += 1
                if step.bias not in biases:
                    both = download(biases["both"])
                    self._check("the image encoder gave sca_bias", both)
                    biases[step.bias] = upload(select_bias(both, step.bias))
                values |= {**next(scalars), "sca_bias": biases[step.bias]}
                outputs = self._run(step.graph, values)
                values["latents"] = self._with_noise(outputs["next_latents"], step, number)
                values["previous_denoised"] = outputs["denoised"]
                if FEATURES in outputs:
                    values[FEATURES] = outputs[FEATURES]
                last = done == len(steps)
                self.clock.wait(behind=0 if last else 1)
                if last or done > 1:
                    self.progress(stage, done if last else done - 1, len(steps))
                if after_step or self.backend.on_host:
                    latents = download(values["latents"])
                    self._check(f"step {number} of {len(schedule)} gave latents", latents)
                    if after_step:
                        changed = after_step(step, State(number, latents, download(values["previous_denoised"])))
                        if changed is not None:
                            values["latents"] = upload(_changed_latents(changed, latents.shape))
        latents = download(values["latents"])
        self._check(f"one of {len(schedule)} steps gave latents", latents)
        return latents

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Decode latents [1, F, C, h, w] to frames [F, H, W, 3], uint8, a chunk at a time."""
        total, decoded = latents.shape[1], []
        self.progress("decode", 0, total)
        for chunk in self.plan.chunks:
            part = self.backend.upload(latents[0, chunk.start : chunk.stop])
            frames = self.backend.download(self._run("decode", {"latents": part}, chunk.stop - chunk.start)["frames"])
            decoded.append(frames[chunk.keep_from - chunk.start : chunk.keep_to - chunk.start])
            self.progress("decode", chunk.keep_to, total)
        return np.concatenate(decoded)

    def _run(self, graph: str, values: Values, n: int = 0) -> Values:
        """Run ``graph`` on those of ``values`` that it takes, and on its inputs' defaults; ``n`` frames are decoded."""
        self.before_graph()
        start = time.perf_counter()
        self.backend.load(graph)
        self.clock.loading += time.perf_counter() - start
        names = [tensor.name for tensor in self.manifest.graphs[graph].inputs]
        with self.clock.stage(GRAPHS[graph].stage):
            inputs = {name: values[name] if name in values else self._default(graph, name, n) for name in names}
            return self.backend.run(graph, inputs)

    def _check(self, what: str, value: np.ndarray) -> None:
        check_made(what, value, self.manifest.precision)

    def _scalars(self, step: Step) -> Values:
        values = {"sigma": [step.sigma], "coefficients": step.coefficients}
        return {name: self.backend.upload(np.array(value, dtype=np.float32)) for name, value in values.items()}

    def _with_noise(self, latents: Any, step: Step, number: int) -> Any:
        """Add the fresh noise that a stochastic sampler asks for."""
        if not step.noise:
            return latents
        values = self.backend.download(latents)
        noise = normal(self.seed, after_step(number), values.shape)
        return self.backend.upload(values + np.float32(step.noise) * noise)

    def _default(self, graph: str, name: str, n: int) -> Any:
        """Return the value of an input that a run does not set, uploaded once."""
        (tensor,) = (t for t in GRAPHS[graph].inputs if t.name == name)
        if tensor.default is None:
            raise RuntimeError(f"{graph} needs {name}, which has no default")
        symbols = self.manifest.geometry.values(self.plan.sizes, n)
        shape = sized(tensor.shape, {**symbols, "N": self.manifest.bias_channels})
        if (name, shape) not in self._defaults:
            self._defaults[name, shape] = self.backend.upload(np.full(shape, tensor.default, dtype=np.float32))
        return self._defaults[name, shape]


def _changed_latents(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return what a callback returned as latents of ``shape``, float32."""
    array = as_array(value)
    if array is None or array.shape != shape:
        what = type(value).__name__ if array is None else f"an array {list(array.shape)}"
        raise UsageError(f"the callback returned {what}: return latents {list(shape)}, or None to keep them")
    with np.errstate(over="ignore"):
        latents = array.astype(np.float32)
    check_given("the callback's latents", latents)
    return latents


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
