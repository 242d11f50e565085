"""Refuses NaN and infinity: what a caller injects, and what a step makes of latents that overflow."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vcut_runtime.bundle.manifest import Precision
from vcut_runtime.errors import UsageError, VcutError

_REMEDY: Mapping[Precision, str] = {
    "fp16": "fp16 overflows there, so export with --precision bf16 or fp32",
    "bf16": "export with --precision fp32, or look for damaged weights and extreme options",
    "fp32": "look for damaged weights and extreme options",
}


def check_given(name: str, value: np.ndarray) -> None:
    """Check an array that the caller gave.

    Raises:
        UsageError: a number in it is not finite.
    """
    if not np.isfinite(value).all():
        raise UsageError(f"{name} has NaN or infinity: give finite numbers")


def check_made(what: str, value: np.ndarray, precision: Precision) -> None:
    """Check an array that a graph gave; ``what`` says which, such as ``step 3 of 25 gave latents``.

    Raises:
        VcutError: a number in it is not finite; the message says what to do in a bundle of ``precision``.
    """
    if not np.isfinite(value).all():
        raise VcutError(f"{what} with NaN or infinity: {_REMEDY[precision]}")
