"""The pool of device memory, on a GPU of host memory."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np

from fakes import FakeCuda
from vcut_runtime.backends.cuda import Cuda
from vcut_runtime.backends.device_memory import Pool


def test_memory_is_used_again() -> None:
    gpu = FakeCuda()
    pool = Pool(Cuda(gpu))
    addresses = []
    for size in (1000, 600, 1024):
        block = pool.take(size, "an input")
        addresses.append(block.address)
        del block
    assert len(set(addresses)) == 1
    assert gpu.allocations == 1


def test_a_block_in_a_cycle_gives_back_memory_that_is_not_freed() -> None:
    """An error refers to its traceback, and that to the frames with their values."""
    gpu = FakeCuda()
    cuda = Cuda(gpu)
    pool = Pool(cuda)
    cycle: list[Any] = [pool.take(256, "an input")]
    cycle.append(cycle)
    del cycle
    gc.collect()
    block = pool.take(256, "an input")
    cuda.copy_in(block.address, np.zeros(256, np.uint8))  # the fake checks that it is allocated
    assert gpu.allocations == 1


def test_a_cleared_pool_frees_what_is_unused_and_keeps_what_is_used() -> None:
    gpu = FakeCuda()
    cuda = Cuda(gpu)
    pool = Pool(cuda)
    used, unused = pool.take(256, "an input"), pool.take(512, "an input")
    del unused
    pool.clear()
    assert gpu.used == 256
    cuda.copy_in(used.address, np.zeros(256, np.uint8))
    del used, pool
    gc.collect()
    assert gpu.used == 0
