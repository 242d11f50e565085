"""What one video is made of: the fitted photograph, the plan for its size, and injected numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vcut_runtime.bundle.geometry import Geometry
from vcut_runtime.errors import UsageError
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
    make_plan: Callable[[Photo], RunPlan],
    geometry: Geometry,
    fit: Fit,
    latents: np.ndarray | None,
    noise: np.ndarray | None,
) -> list[RunInput]:
    """Return the input of each image's video.

    Raises:
        UsageError: an image cannot be read, or an injected array has another shape.
    """
    inputs = []
    for i, image in enumerate(images):
        photo = open_image(image)
        plan = make_plan(photo)
        frames, height, width = plan.sizes
        shape = (1, frames, *geometry.latent_shape(plan.sizes))
        inputs.append(
            RunInput(
                plan=plan,
                image=fit_image(photo, height, width, fit),
                notes=fit_notes(photo, height, width, fit),
                latents=_injected("latents", latents, shape, i, len(images)),
                noise=_injected("noise", noise, (1, 3, height, width), i, len(images)),
                latent_shape=shape,
            )
        )
    return inputs


def _injected(name: str, value: np.ndarray | None, shape: tuple[int, ...], i: int, images: int) -> np.ndarray | None:
    """Check an injected array and return its part for image ``i``, of ``shape`` [1, ...]; None if none is injected."""
    if value is None:
        return None
    value = np.asarray(value, dtype=np.float32)
    if value.shape[1:] != shape[1:] or value.shape[0] not in (1, images):
        raise UsageError(f"{name} has shape {list(value.shape)}, this bundle needs {list(shape)} for each image")
    return value[i : i + 1] if value.shape[0] == images else value
