"""The guidance scale of each frame, against torch and generative-models' definition, and the micro-conditioning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vcut_runtime import UsageError
from vcut_runtime.guidance import added_time_ids, check_guidance, guidance_scale, parse_guidance


@pytest.mark.parametrize(("low", "high", "frames"), [(1, 3, 14), (1, 3, 25), (2.5, 7.5, 25), (3, 1, 4), (1, 3, 1)])
def test_guidance_scale_is_torch_linspace(low: float, high: float, frames: int) -> None:
    ours = guidance_scale(low, high, frames)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, torch.linspace(low, high, frames).numpy(), rtol=1e-6)


def test_added_time_ids_are_fps_less_one_motion_and_noise() -> None:
    ids = added_time_ids(7, 127, 0.02)
    assert ids.dtype == np.float32
    np.testing.assert_array_equal(ids, np.array([[6, 127, 0.02]], dtype=np.float32))


@pytest.mark.parametrize("frames", [1, 2, 3, 14, 25])
def test_triangle_is_the_wave_of_generative_models(frames: int) -> None:
    """TrianglePredictionGuider, period 1: 2 |x - floor(x + 0.5)| of evenly spaced x, from the least to the most."""
    x = torch.linspace(0, 1, frames, dtype=torch.float64)
    wave = 2 * (x - torch.floor(x + 0.5)).abs()
    ours = guidance_scale(1.0, 3.0, frames, "triangle")
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, (wave * 2 + 1).numpy(), atol=1e-6)
    if frames % 2 and frames > 1:
        assert (ours[0], ours[frames // 2], ours[-1]) == (1.0, 3.0, 1.0)


def test_guidance_of_the_command_line() -> None:
    assert parse_guidance("triangle") == "triangle"
    assert parse_guidance("1, 2.5,-3") == (1.0, 2.5, -3.0)
    assert parse_guidance("2") == (2.0,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cosine", "unknown guidance 'cosine': choose linear, triangle, or give a number for each frame"),
        ("", "guidance '' is not a list of numbers: write it as 1,1.5,3"),
        ("1,x", "guidance '1,x' is not a list of numbers"),
        ("1,nan", "not finite in float32"),
        ("1,1e39", "not finite in float32"),
    ],
)
def test_other_guidance_is_refused_on_one_line(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_guidance(text)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("guidance", [[], [[1.0]], ["a"], 3.0, [None]])
def test_values_that_are_no_guidance_are_refused(guidance: Any) -> None:
    with pytest.raises(UsageError, match=r"give .*a number for each frame"):
        check_guidance(guidance)
