"""Kernels that TensorRT-RTX compiles when it loads an engine, kept for the next program."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from vcut_runtime.backends.cuda import Cuda
from vcut_runtime.backends.tensorrt_library import Library
from vcut_runtime.bundle.manifest import EngineEntry
from vcut_runtime.errors import first_line
from vcut_runtime.host import cache_folder, file_name


class KernelCache:
    """The compiled kernels of one engine on one GPU, as the library's runtime cache and as a file."""

    def __init__(self, cache: Any, path: Path) -> None:
        self.cache, self.path = cache, path

    @classmethod
    def of(cls, config: Any, entry: EngineEntry, library: Library, cuda: Cuda) -> KernelCache | None:
        """Give a runtime configuration the kernels of an earlier run; return None if the library has no such cache."""
        if not hasattr(config, "create_runtime_cache"):
            return None
        name = f"{entry.sha256[:24]}-{library.name}-{library.version}-{file_name(cuda.name)}.bin"
        kernels = cls(config.create_runtime_cache(), cache_folder() / "kernels" / name)
        with suppress(OSError):
            kernels.cache.deserialize(kernels.path.read_bytes())  # the library checks it
        config.set_runtime_cache(kernels.cache)
        return kernels

    def keep(self) -> str | None:
        """Write the kernels to the file. Return a note if that fails: the run goes on without."""
        try:
            data = bytes(self.cache.serialize())
            if self.path.is_file() and self.path.stat().st_size == len(data):
                return None
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.path.parent, delete=False) as file:
                file.write(data)
            Path(file.name).replace(self.path)
        except OSError as error:
            return f"compiled kernels could not be kept in {self.path.parent}: {first_line(error)}"
        return None
