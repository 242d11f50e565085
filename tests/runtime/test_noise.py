"""The generator is Random123's, its numbers are those of the format page, and they are normal and independent."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from vcut_runtime.command_options import MOST_SEED
from vcut_runtime.noise import IMAGE, LATENTS, after_step, normal, philox

# Random123's known-answer vectors of philox4x32 with 10 rounds: counter, key, words.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]
PAGE = Path(__file__).parents[2] / "runtime" / "README.md"


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_words_are_random123s(counter: list[int], key: list[int], words: list[int]) -> None:
    arrays = [np.array([word], dtype=np.uint64) for word in counter]
    assert [int(word[0]) for word in philox(arrays, (key[0], key[1]))] == words
    listed = " ".join(f"{word:x}" for word in words)
    assert listed in PAGE.read_text()


def test_numbers_are_those_of_the_format_page() -> None:
    text = PAGE.read_text().partition("<!-- noise -->")[2].partition("<!-- end -->")[0]
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) >= 4
    for seed, stream, first, numbers in rows:
        want = np.array(numbers.split(), dtype=np.float32)
        got = normal(int(seed), int(stream), (int(first) + len(want),))[int(first) :]
        np.testing.assert_array_max_ulp(got, want, maxulp=1)


def test_a_scalar_box_muller_gives_the_same() -> None:
    """The same from the words of one counter at a time, without the arrays' layout."""
    got = normal(1 << 40 | 3, after_step(2), (2, 5)).reshape(-1)
    for i in range(10):
        counter = [np.array([word], dtype=np.uint64) for word in (i // 4, 0, 3, 0)]
        words = [int(word[0]) for word in philox(counter, (3, 1 << 8))]
        u, v = words[i % 4 // 2 * 2], words[i % 4 // 2 * 2 + 1]
        radius = math.sqrt(-2 * math.log((u + 1) / 2**32))
        part = math.sin if i % 2 else math.cos
        assert got[i] == pytest.approx(radius * part(2 * math.pi * v / 2**32), rel=1e-6)


def test_numbers_are_standard_normal() -> None:
    numbers = normal(0, LATENTS, (1_000_000,)).astype(np.float64)
    assert numbers.mean() == pytest.approx(0, abs=0.004)  # four standard errors
    assert numbers.var() == pytest.approx(1, abs=0.006)
    assert (numbers**3).mean() == pytest.approx(0, abs=0.016)
    assert (numbers**4).mean() == pytest.approx(3, abs=0.04)
    edges = np.array([-np.inf, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, np.inf])
    shares = np.array([0.0227501, 0.1359051, 0.1498823, 0.1914625, 0.1914625, 0.1498823, 0.1359051, 0.0227501])
    counts, _ = np.histogram(numbers, edges)
    assert np.abs(counts - 1e6 * shares).max() < 4 * np.sqrt(1e6 * 0.2 * 0.8)
    for lag in (1, 2, 3, 4, 96):
        assert abs((numbers[:-lag] * numbers[lag:]).mean()) < 0.004


def test_streams_and_seeds_are_independent() -> None:
    shape = (100_000,)
    keys = [(0, LATENTS), (0, IMAGE), (0, after_step(1)), (1, LATENTS), (1 << 32, LATENTS), (MOST_SEED, IMAGE)]
    numbers = np.stack([normal(seed, stream, shape) for seed, stream in keys]).astype(np.float64)
    correlations = np.corrcoef(numbers) - np.eye(len(keys))
    assert np.abs(correlations).max() < 0.016


def test_a_tensor_is_the_beginning_of_its_stream() -> None:
    assert normal(5, LATENTS, ()).shape == ()
    assert normal(5, LATENTS, (0, 3)).shape == (0, 3)
    np.testing.assert_array_equal(normal(5, LATENTS, (2, 3)).reshape(-1), normal(5, LATENTS, (7,))[:6])
    assert normal(5, LATENTS, (3,)).dtype == np.float32
