"""Videos of one image by many schedules, and the converged video that they are compared with."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import numpy as np

from vcut_runtime import Pipeline, RunOptions
from vcut_runtime.bundle.graph import GRAPHS
from vcut_runtime.bundle.manifest import Manifest
from vcut_runtime.images import load_image
from vcut_runtime.run_plan import plan_run
from vcut_runtime.schedule import Schedule, Step, ays_sigmas, make_schedule
from vcut_runtime.video_run import State, VideoRun

CONVERGED_STEPS = 60


def converged_schedule(manifest: Manifest) -> Schedule:
    """Return the schedule that stands for infinitely many steps: never cut, DPM-Solver++ (2M).

    On svd-tiny its video is 61 dB or more from those of other grids and of twice the steps.
    """
    sigmas = ays_sigmas(manifest.scheduler, CONVERGED_STEPS)
    return make_schedule(sigmas, CONVERGED_STEPS + 1, solver="dpmpp-2m")


class Takes:
    """Plays schedules on one image with one noise. Steps that a schedule shares with the one before run once.

    Args:
        pipeline: of a bundle.
        image: uint8 [H, W, 3] of the bundle's size.
        noise: standard normal [1, 3, H, W], for the noise augmentation.
        latents: standard normal [1, F, C, h, w].
        conditions: options of every video, such as ``motion_bucket_id``.
    """

    def __init__(
        self, pipeline: Pipeline, image: np.ndarray, noise: np.ndarray, latents: np.ndarray, **conditions: Any
    ) -> None:
        self._manifest, self._backend, self._latents = pipeline.manifest, pipeline.backend, latents
        options = RunOptions(**conditions)
        plan = plan_run(self._manifest, options, self._backend.max_decode_chunk())
        self._run = VideoRun(self._manifest, self._backend, plan, 0, lambda *_: None)
        self._run.condition(load_image(image, plan.sizes.height, plan.sizes.width, options.fit), noise)
        self._conditioned = {name: self._backend.download(value) for name, value in self._run.conditioned.items()}
        self._last: Schedule = ()
        self._states: dict[int, State] = {}

    def frames(self, schedule: Schedule) -> np.ndarray:
        """Return the video by ``schedule``: uint8 [F, H, W, 3], the same as the pipeline makes.

        A shared step counts only if all layers run in the step after it, because deep features are not kept.
        """
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(schedule, self._last, strict=False))))
        self._states = {done: state for done, state in self._states.items() if done <= shared}
        places = [done for done in self._states if done == len(schedule) or GRAPHS[schedule[done].graph].full is None]
        start = self._states[max(places)] if places else self._start(schedule)
        self._run.conditioned = {name: self._backend.upload(value) for name, value in self._conditioned.items()}

        def remember(step: Step, state: State) -> None:
            self._states[state.done] = state

        self._last = schedule
        return self._run.decode(self._run.denoise(schedule, start, remember))

    def _start(self, schedule: Schedule) -> State:
        return State(0, self._latents * np.float32(self._manifest.scheduler.noise_scale(schedule[0].sigma)))
