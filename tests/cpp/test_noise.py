"""The C++ runtime draws the numbers that the Python runtime draws."""

from __future__ import annotations

import numpy as np
import pytest

from vcut_c import Library
from vcut_runtime.command_options import MOST_SEED
from vcut_runtime.noise import after_step, normal


@pytest.mark.parametrize(("seed", "stream"), [(0, 0), (3, 1), (1 << 40, after_step(7)), (MOST_SEED, 0)])
@pytest.mark.parametrize("count", [0, 1, 5, 40_000])
def test_numbers_are_pythons(library: Library, seed: int, stream: int, count: int) -> None:
    got = np.empty(count, np.float32)
    library.noise(seed, stream, got.ctypes.data, count)
    np.testing.assert_array_max_ulp(got, normal(seed, stream, (count,)), maxulp=1)
