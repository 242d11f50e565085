"""What a backend is: it runs a bundle's graphs and keeps values where it computes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vcut_runtime.bundle.geometry import Sizes
from vcut_runtime.options import BackendOptions


class Backend(Protocol):
    """Loads and runs the graphs of one bundle.

    Only ``upload`` and ``download`` copy values between the host and where the graphs run.

    Attributes:
        name: of the backend.
        notes: what a user should know about how it runs.
        on_host: whether its values lie in the host's memory, so that a look at them costs next to nothing.
    """

    name: str
    notes: list[str]
    on_host: bool

    def load(self, graph: str) -> None:
        """Load ``graph`` now rather than at its first run."""
        ...

    def upload(self, value: np.ndarray) -> Any:
        """Copy an array to where the graphs run."""
        ...

    def download(self, value: Any) -> np.ndarray:
        """Copy a value back."""
        ...

    def run(self, graph: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run ``graph`` on uploaded inputs, and load it if it is not loaded yet; may return before it is done.

        The outputs are valid until ``graph`` runs again.
        """
        ...

    def mark(self) -> Any:
        """Return a point in the work asked for so far."""
        ...

    def wait(self, mark: Any) -> None:
        """Wait until the work before ``mark`` is done."""
        ...

    def seconds(self, start: Any, end: Any) -> float:
        """Return the time between two marks."""
        ...

    def peak_memory(self) -> int | None:
        """Return the peak of device memory in bytes, None without a device."""
        ...

    def check_run(self, sizes: Sizes, graphs: Collection[str]) -> None:
        """Raise VcutError if these graphs cannot make a video of these sizes here. The bundle allows the sizes."""
        ...

    def step_seconds(self, graph: str, sizes: Sizes) -> float:
        """Return roughly how long a step takes here; 0 if it is short."""
        ...

    def max_decode_chunk(self) -> int | None:
        """Return how many frames can be decoded at a time, None for any number."""
        ...

    def close(self) -> None:
        """Wait for the work asked for, and give back the memory. Nothing else is called after it."""
        ...


@dataclass(frozen=True)
class Offer:
    """A backend that can run a bundle here: its name, a reason to take it, and a function that opens it."""

    name: str
    reason: str
    open: Callable[[BackendOptions], Backend]
