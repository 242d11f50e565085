"""Tensors of safetensors files, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcut_runtime.errors import VcutError, first_line

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]
_LFS = b"version https://git-lfs"
Read = Callable[[], "torch.Tensor"]


class LazyTensors(Mapping[str, "torch.Tensor"]):
    """Tensors by name. ``tensors[name]`` reads that tensor alone; nothing keeps it.

    Attributes:
        readers: by name, the function that reads the tensor.
    """

    def __init__(self, readers: Mapping[str, Read]) -> None:
        self.readers = dict(readers)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.readers)

    def __len__(self) -> int:
        return len(self.readers)


def open_tensors(files: Iterable[Path]) -> LazyTensors:
    """Open ``files``, which together hold the tensors.

    Raises:
        VcutError: a file is damaged.
    """
    readers: dict[str, Read] = {}
    for path in files:
        file = _opened(path, "pt")
        readers |= {name: partial(file.get_tensor, name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    return LazyTensors(readers)


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of its tensors."""

    shapes: Mapping[str, Shape]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Read names and shapes of the tensors of a file; needs no torch.

    Raises:
        VcutError: the file is damaged.
    """
    with _opened(path, "numpy") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        return Header(shapes, file.metadata() or {})


def _opened(path: Path, framework: str) -> Any:
    try:
        from safetensors import safe_open

        return safe_open(path, framework=framework)
    except ImportError:
        raise VcutError("reading weights needs the export extra: pip install 'vcut[export]'") from None
    except Exception as error:  # safetensors raises several kinds
        if _is_lfs_pointer(path):
            raise VcutError(f"{path} is a pointer of Git LFS, not the file itself: run 'git lfs pull'") from error
        raise VcutError(f"cannot read {path}: {first_line(error)}; restore the file, or download it again") from error


def _is_lfs_pointer(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_LFS)) == _LFS
    except OSError:
        return False
