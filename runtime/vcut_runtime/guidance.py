"""The guidance scale of each frame, and the three numbers of the micro-conditioning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vcut_runtime.errors import UsageError

CURVES = ("linear", "triangle")


def guidance_scale(minimum: float, maximum: float, frames: int, curve: str = "linear") -> np.ndarray:
    """Return the guidance scale of each frame [frames], float32.

    ``linear`` runs from ``minimum`` in the first frame to ``maximum`` in the last, as in diffusers. ``triangle`` goes
    to ``maximum`` in the middle and back, as ``TrianglePredictionGuider`` of Stability AI's generative-models does.
    """
    if curve == "linear":
        return np.linspace(minimum, maximum, frames, dtype=np.float32)
    places = np.linspace(0.0, 1.0, frames)
    return (minimum + (maximum - minimum) * 2 * np.abs(places - np.floor(places + 0.5))).astype(np.float32)


def check_guidance(guidance: str | Sequence[float] | np.ndarray) -> str | tuple[float, ...]:
    """Return the name of a curve, or the scales of all frames as a tuple.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(guidance, str):
        if guidance not in CURVES:
            raise UsageError(
                f"unknown guidance {guidance!r}: choose {', '.join(CURVES)}, or give a number for each frame"
            )
        return guidance
    try:
        with np.errstate(over="ignore"):
            scales = np.asarray(guidance, dtype=np.float64).astype(np.float32)
    except (TypeError, ValueError):
        raise UsageError("guidance is no list of numbers: give linear, triangle, or a number for each frame") from None
    if scales.ndim != 1 or not scales.size or not np.isfinite(scales).all():
        raise UsageError("guidance has a number that is not finite in float32, or none: give a number for each frame")
    return tuple(scales.tolist())


def parse_guidance(text: str) -> str | tuple[float, ...]:
    """Return the name of a curve, or ``1,1.5,3`` as numbers; see :func:`check_guidance`."""
    if text.strip().isalpha():
        return check_guidance(text.strip())
    try:
        scales = [float(word) for word in text.split(",")]
    except ValueError:
        raise UsageError(f"guidance {text!r} is not a list of numbers: write it as 1,1.5,3") from None
    return check_guidance(scales)


def added_time_ids(fps: float, motion_bucket_id: float, noise_aug_strength: float) -> np.ndarray:
    """Return the micro-conditioning [1, 3]; SVD was trained on ``fps - 1``."""
    return np.array([[fps - 1, motion_bucket_id, noise_aug_strength]], dtype=np.float32)
