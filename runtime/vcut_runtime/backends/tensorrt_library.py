"""TensorRT and TensorRT-RTX: one API under two module names, imported only where an engine is built or run."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vcut_runtime.bundle.manifest import EngineLibrary
from vcut_runtime.errors import UsageError, first_line

Log = Callable[[str, str], None]
MODULES: dict[EngineLibrary, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
TITLES: dict[EngineLibrary, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
INSTALL: dict[EngineLibrary, str] = {
    "tensorrt": "pip install 'vcut[tensorrt]'",
    "tensorrt-rtx": "pip install 'vcut[tensorrt-rtx]'",
}


@dataclass(frozen=True)
class Library:
    """An imported TensorRT."""

    name: EngineLibrary
    module: Any
    version: str

    @property
    def title(self) -> str:
        """The library's name as its makers write it, with its version."""
        return f"{TITLES[self.name]} {self.version}"

    def logger(self, log: Log) -> Any:
        """Return an ``ILogger`` that hands each message to ``log`` with its severity: ``ERROR``, ``WARNING`` ..."""
        base = self.module.ILogger

        class Logger(base):  # pyright: ignore[reportGeneralTypeIssues]
            def __init__(self) -> None:
                base.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                log(severity.name, message)

        return Logger()


def is_installed(name: EngineLibrary) -> bool:
    """Tell whether the library's package is there, without loading its hundreds of megabytes."""
    return importlib.util.find_spec(MODULES[name]) is not None


def load_library(name: EngineLibrary) -> Library:
    """Import a TensorRT.

    Raises:
        UsageError: it is not installed, or its libraries do not load.
    """
    title = TITLES[name]
    if not is_installed(name):
        raise UsageError(f"{title} is not installed: {INSTALL[name]}")
    try:
        module = importlib.import_module(MODULES[name])
        return Library(name, module, module.__version__)
    except Exception as error:  # a missing shared library shows as whatever its loader raises
        raise UsageError(f"{title} is installed but does not load ({first_line(error)}): {INSTALL[name]}") from None
