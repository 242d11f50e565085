"""Places on the disk that a process may not look at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def nobody(closed: Path) -> Iterator[None]:
    """Close a folder to everybody. Root, who may look anywhere, is somebody else meanwhile."""
    closed.chmod(0)
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        closed.chmod(0o755)
