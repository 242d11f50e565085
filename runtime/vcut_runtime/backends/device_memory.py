"""Values on a GPU, and the memory that uploads reuse."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vcut_runtime.backends.cuda import Cuda, Memory

_ALIGNMENT = 256  # of addresses, for TensorRT


@dataclass(eq=False)
class DeviceArray:
    """An array on the GPU. An output is valid until its graph runs again, deep features until any step runs."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    owner: Any = None  # keeps the memory alive
    serial: int = field(default_factory=itertools.count().__next__)  # tells one value from the next at its address

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Block:
    """Memory that goes back to the pool when nothing refers to it any more."""

    def __init__(self, pool: Pool, memory: Memory) -> None:
        self.pool, self.memory = pool, memory
        self.address = memory.address

    def __del__(self) -> None:
        if hasattr(self, "address"):  # else it was interrupted as it began
            self.pool.unused[self.memory.size].append(self.memory)


class Pool:
    """Memory for uploads, by powers of two: a second video allocates nothing, and a video of another size little."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.unused: defaultdict[int, list[Memory]] = defaultdict(list)
        # All memory, so that none is ever garbage together with its block. Python would then end both, and a block
        # that ends would put freed memory back. An error's traceback makes such garbage.
        self._memories: list[Memory] = []

    def take(self, size: int, what: str) -> Block:
        """Return at least ``size`` bytes; ``what`` names them in an error."""
        size = max(_ALIGNMENT, 1 << (size - 1).bit_length())
        unused = self.unused[size]
        if not unused:
            memory = self.cuda.allocate(size, what)
            self._memories.append(memory)
            return Block(self, memory)
        return Block(self, unused.pop())

    def clear(self) -> None:
        """Give back what is unused."""
        self.unused.clear()
        self._memories.clear()
