"""A video into a file object: a web framework's response, a socket, a buffer."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from vcut_runtime.errors import UsageError, VcutError, first_line


def write_to(save: Callable[[Path], Any], file: Any, format: str | None, suffixes: Collection[str]) -> None:
    """Write what ``save`` writes to a path into ``file``; ``format`` is one of ``suffixes``, with or without its dot.

    The video is encoded into a temporary file first: MP4 needs a file that it can seek in, and ``file`` gets either all
    of it or, if encoding fails, nothing.

    Raises:
        UsageError: ``file`` is no file object for bytes, or the format is unknown.
        VcutError: the file object refused the data.
    """
    if not hasattr(file, "write"):
        raise UsageError(f"cannot save a video to an object of type {type(file).__name__}: give a path or a file")
    suffix = "." + str(format).lower().removeprefix(".")
    if suffix not in suffixes:
        given = "needs a format" if format is None else f"cannot have the format {format!r}"
        raise UsageError(f"a video in a file object {given}: choose {', '.join(s.removeprefix('.') for s in suffixes)}")
    with tempfile.TemporaryDirectory(prefix="vcut-") as folder:
        path = Path(folder) / f"video{suffix}"
        save(path)
        try:
            with path.open("rb") as encoded:
                shutil.copyfileobj(encoded, file)
        except TypeError as error:  # a file object for text
            raise UsageError(f"the file object takes no bytes ({first_line(error)}): open it with 'wb'") from None
        except (OSError, ValueError) as error:  # ValueError: it is closed
            raise VcutError(f"cannot write into the file object ({first_line(error)}): open another one") from None
