"""The options of an engine build that ``vcut build`` and ``vcut export`` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vcut_runtime.command_options import check_numbers, check_types, option
from vcut_runtime.errors import UsageError

Engines = Literal["auto", "tensorrt-rtx", "tensorrt", "none"]


@dataclass(frozen=True)
class EngineOptions:
    """Which engines to build.

    Raises:
        UsageError: a value is impossible on every machine.
    """

    engines: Engines = option(
        "auto",
        "auto, tensorrt-rtx, tensorrt or none. auto: TensorRT with a GPU, else TensorRT-RTX, if installed.",
    )
    gpu: str | None = option(
        None,
        "a10, rtx4090 ..., 8.6, sm86, portable, or this. [default: this for TensorRT, portable for TensorRT-RTX]",
    )
    workspace: float | None = option(
        None,
        "Gigabytes that a kernel may use while the library chooses it. [default: with TensorRT the GPU's memory]",
        least=0.001,
        most=10_000,
    )
    verbose: bool = option(False, "Show the library's whole log while it builds.", "--verbose", "-v")

    def __post_init__(self) -> None:
        check_types(self)
        check_numbers(self)
        if self.engines == "none" and self.gpu is not None:
            raise UsageError(f"--gpu {self.gpu} is given but --engines none builds nothing: leave one of them out")
