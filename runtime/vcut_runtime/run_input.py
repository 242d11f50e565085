"""What one video is made of: the fitted photograph, the plan for its size, and injected numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vcut_runtime.arrays import ArrayLike
from vcut_runtime.bundle.geometry import Geometry
from vcut_runtime.call_inputs import injected
from vcut_runtime.images import Fit, ImageLike, Photo, fit_image, fit_notes, open_image
from vcut_runtime.run_plan import RunPlan


@dataclass(frozen=True)
class RunInput:
    """The input of one video.

    Attributes:
        plan: of the video.
        image: [1, 3, H, W] in [0, 1].
        notes: what a user should know about the image and how it is fitted.
        latents: injected standard normal numbers [1, F, C, h, w]; None draws them.
        noise: injected standard normal numbers [1, 3, H, W]; None draws them.
        latent_shape: [1, F, C, h, w].
    """

    plan: RunPlan
    image: np.ndarray
    notes: tuple[str, ...]
    latents: np.ndarray | None
    noise: np.ndarray | None
    latent_shape: tuple[int, ...]


def run_inputs(
    images: Sequence[ImageLike],
    count: int,
    make_plan: Callable[[Photo], RunPlan],
    geometry: Geometry,
    fit: Fit,
    latents: ArrayLike | None,
    noise: ArrayLike | None,
) -> list[RunInput]:
    """Return the input of each of the ``count`` videos of each image.

    Raises:
        UsageError: an image cannot be read, or an injected array has another shape or a number that is not finite.
    """
    inputs, videos = [], count * len(images)
    for image in images:
        photo = open_image(image)
        plan = make_plan(photo)
        frames, height, width = plan.sizes
        shape = (1, frames, *geometry.latent_shape(plan.sizes))
        all_latents = injected("latents", latents, shape, videos)
        all_noise = injected("noise", noise, (1, 3, height, width), videos)
        pixels, notes = fit_image(photo, height, width, fit), fit_notes(photo, height, width, fit)
        for _ in range(count):
            number = len(inputs)
            inputs.append(
                RunInput(
                    plan=plan,
                    image=pixels,
                    notes=notes,
                    latents=all_latents[number] if all_latents else None,
                    noise=all_noise[number] if all_noise else None,
                    latent_shape=shape,
                )
            )
    return inputs
