"""Injected arrays, seeds and the number of videos."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vcut_runtime import UsageError
from vcut_runtime.call_inputs import check_video_count, choose_seeds, injected

SHAPE = (1, 2, 3)


def test_an_injected_array_is_given_to_each_video_or_to_all() -> None:
    array = np.arange(12.0).reshape(2, 2, 3)
    assert injected("latents", None, SHAPE, 2) == []
    parts = injected("latents", array, SHAPE, 2)
    assert [part.dtype for part in parts] == [np.float32] * 2
    np.testing.assert_array_equal(np.concatenate(parts), array)
    parts = injected("latents", torch.from_numpy(array)[:1].bfloat16().requires_grad_(), SHAPE, 3)
    assert len(parts) == 3
    assert all(np.array_equal(part, array[:1]) for part in parts)
    (part,) = injected("latents", array[:1].tolist(), SHAPE, 1)
    np.testing.assert_array_equal(part, array[:1])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.full(SHAPE, np.nan), "latents has NaN or infinity: give finite numbers"),
        (np.full(SHAPE, -np.inf), "latents has NaN or infinity"),
        (np.full(SHAPE, 1e39), "latents has NaN or infinity"),  # not finite in float32
        (torch.full(SHAPE, torch.inf), "latents has NaN or infinity"),
        (np.zeros((1, 2, 4)), r"latents has shape \[1, 2, 4\], this bundle needs \[1, 2, 3\] for each video"),
        (np.zeros((3, 2, 3)), r"latents has shape \[3, 2, 3\]"),
        (np.float32(1), r"latents has shape \[\]"),
        ("latents.npy", r"latents is no array of numbers: give an array \[1, 2, 3\]"),
        ([[1.0], [1.0, 2.0]], "latents is no array of numbers"),
    ],
)
def test_other_arrays_are_refused(value: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        injected("latents", value, SHAPE, 2)
    assert "\n" not in str(caught.value)


def test_seeds_count_up() -> None:
    assert choose_seeds(5, None, 3) == [5, 6, 7]
    random = choose_seeds(None, None, 2)
    assert random[1] == random[0] + 1
    assert random != choose_seeds(None, None, 2)


@pytest.mark.parametrize("make", [np.random.default_rng, lambda seed: torch.Generator().manual_seed(seed)])
def test_a_generator_draws_the_seed_and_moves_on(make: Any) -> None:
    generator = make(3)
    first = choose_seeds(None, generator, 2)
    second = choose_seeds(None, generator, 2)
    assert first != second  # as two calls of diffusers' pipeline with one generator
    assert first[1] == first[0] + 1
    assert first == choose_seeds(None, make(3), 2)
    assert first != choose_seeds(None, make(4), 2)
    assert choose_seeds(None, [make(3), make(3)], 2) == [first[0]] * 2
    assert all(0 <= seed < 2**31 for seed in choose_seeds(None, [make(i) for i in range(50)], 50))


@pytest.mark.parametrize(
    ("generator", "says"),
    [
        (7, "generator is of type int: give a torch.Generator, a numpy Generator, or seed=NUMBER"),
        ("seven", "generator is of type str"),
        ([np.random.default_rng(0)], "generator is a list of 1 for 2 videos: give one for each"),
    ],
)
def test_other_generators_are_refused(generator: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        choose_seeds(None, generator, 2)
    with pytest.raises(UsageError, match="seed and generator exclude each other"):
        choose_seeds(0, generator, 2)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2", None, 1001, 10**20])
def test_other_numbers_of_videos_are_refused(count: Any) -> None:
    with pytest.raises(UsageError, match=r"num_videos_per_prompt is .*: give a whole number from 1 to 1000"):
        check_video_count(count)
    assert check_video_count(np.int64(3)) == 3
