"""The noise of a seed: Philox4x32-10 and Box-Muller, as ``runtime/README.md`` specifies it for any language.

A seed has streams that do not depend on each other. Injecting an array in the place of one changes no other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

LATENTS, IMAGE = 0, 1  # streams
_MULTIPLIERS, _WEYL, _ROUNDS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85), 10
_WORD = 0xFFFFFFFF


def after_step(step: int) -> int:
    """Return the stream of the fresh noise that a stochastic sampler adds after ``step``, 1-based."""
    return IMAGE + step


def normal(seed: int, stream: int, shape: Sequence[int]) -> np.ndarray:
    """Return standard normal numbers of ``shape``, float32.

    Args:
        seed: taken modulo 2^64.
        stream: ``LATENTS``, ``IMAGE`` or :func:`after_step`.
        shape: of the array, which is filled row by row.
    """
    count = math.prod(shape)
    blocks = np.arange(-(-count // 4), dtype=np.uint64)
    counters = (blocks & _WORD, blocks >> np.uint64(32), np.full_like(blocks, stream), np.zeros_like(blocks))
    words = np.stack(philox(counters, (seed & _WORD, seed >> 32 & _WORD)), axis=1).reshape(-1, 2)
    radius = np.sqrt(-2.0 * np.log((words[:, 0] + 1.0) / 2.0**32))
    angle = (2.0 * np.pi) * (words[:, 1] / 2.0**32)
    numbers = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return numbers.reshape(-1)[:count].astype(np.float32).reshape(shape)


def philox(counter: Sequence[np.ndarray], key: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Return the four 32-bit words of each counter, as uint64 (Philox4x32-10; Salmon et al. 2011, "Random123").

    Args:
        counter: four arrays of 32-bit words, as uint64, the lowest word first.
        key: two 32-bit words, the lower one first.
    """
    word, half = np.uint64(_WORD), np.uint64(32)
    first, second, third, fourth = counter
    low_key, high_key = key
    for _ in range(_ROUNDS):
        left, right = first * np.uint64(_MULTIPLIERS[0]), third * np.uint64(_MULTIPLIERS[1])
        first, second, third, fourth = (
            (right >> half) ^ second ^ np.uint64(low_key),
            right & word,
            (left >> half) ^ fourth ^ np.uint64(high_key),
            left & word,
        )
        low_key, high_key = (low_key + _WEYL[0]) & _WORD, (high_key + _WEYL[1]) & _WORD
    return first, second, third, fourth
