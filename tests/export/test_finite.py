"""NaN and infinity are seen wherever they are, and nothing else is."""

from __future__ import annotations

import pytest
import torch

from vcut_export.finite import _CHUNK, is_finite

KINDS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("value", ["nan", "-nan", "inf", "-inf"])
@pytest.mark.parametrize("place", [0, _CHUNK - 1, _CHUNK, 2 * _CHUNK + 9])
def test_one_bad_number_is_seen(dtype: torch.dtype, value: str, place: int) -> None:
    tensor = torch.zeros(2 * _CHUNK + 10, dtype=dtype)
    assert is_finite(tensor)
    tensor[place] = float(value)
    assert not is_finite(tensor)


@pytest.mark.parametrize("dtype", KINDS)
def test_the_largest_and_smallest_numbers_are_fine(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    values = torch.tensor([info.max, info.min, info.tiny, -info.tiny, 0.0, -0.0, info.smallest_normal], dtype=dtype)
    assert is_finite(values)
    assert is_finite(values.reshape(7, 1).t())
    assert is_finite(values[0])


def test_other_types_are_understood() -> None:
    assert is_finite(torch.tensor([1, 2]))
    assert is_finite(torch.zeros(0))
    assert is_finite(torch.ones(4).to(torch.float8_e4m3fn))
    assert not is_finite(torch.tensor([float("nan")]).to(torch.float8_e5m2))
