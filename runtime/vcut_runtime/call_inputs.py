"""What a caller gives beside the options: latents and noise to use, and where the seeds come from."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np

from vcut_runtime.arrays import ArrayLike, as_array
from vcut_runtime.diffusers_names import seeds_from
from vcut_runtime.errors import UsageError
from vcut_runtime.finite import check_given

MOST_VIDEOS = 1000  # of an image


def check_video_count(count: Any) -> int:
    """Return the number of videos of each image.

    Raises:
        UsageError: it is not a whole number from 1 to 1000.
    """
    if isinstance(count, bool) or not hasattr(count, "__index__") or not 1 <= int(count) <= MOST_VIDEOS:
        raise UsageError(f"num_videos_per_prompt is {count!r}: give a whole number from 1 to {MOST_VIDEOS}")
    return int(count)


def injected(name: str, value: ArrayLike | None, shape: tuple[int, ...], videos: int) -> list[np.ndarray]:
    """Return the part of an injected array for each video, of ``shape``, [1, ...]; nothing if none is injected.

    Raises:
        UsageError: it is no array, has another shape, or a number in it is not finite in float32.
    """
    if value is None:
        return []
    try:
        array = as_array(value)
        with np.errstate(over="ignore"):  # it is refused below
            array = np.asarray(value if array is None else array).astype(np.float32)
    except (TypeError, ValueError):
        raise UsageError(f"{name} is no array of numbers: give an array {list(shape)}") from None
    if array.shape[1:] != shape[1:] or array.shape[0] not in (1, videos):
        raise UsageError(f"{name} has shape {list(array.shape)}, this bundle needs {list(shape)} for each video")
    check_given(name, array)
    return [array[i : i + 1] if len(array) == videos else array for i in range(videos)]


def choose_seeds(seed: int | None, generator: Any, videos: int) -> list[int]:
    """Return the seed of each video: ``seed`` and up, those of ``generator``, or random ones.

    Raises:
        UsageError: both are given, or the generator cannot give them.
    """
    if generator is not None:
        if seed is not None:
            raise UsageError("seed and generator exclude each other, a generator draws the seed: leave one out")
        return seeds_from(generator, videos)
    first = secrets.randbelow(2**31) if seed is None else seed
    return [first + i for i in range(videos)]
