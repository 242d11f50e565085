"""Hidden folders of transactions: who works in one, and which a killed process has left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and nothing counts as left behind
    fcntl = None

INSIDE = ".partial-"  # how the names of hidden folders in a bundle begin
ASIDE = ".old"  # suffix of the folder that an old bundle is renamed to while the new one takes its place


def recover(root: Path, *, wait: bool = True) -> None:
    """Remove what killed runs left behind, and take back a bundle that such a run had set aside.

    ``wait=False`` does nothing while somebody publishes there, this process among them.
    """
    with suppress(OSError):  # who cannot look at the place has left nothing there; the caller says why
        if os.access(root.parent, os.R_OK):
            with locked(root.parent, wait=wait):
                _sweep(root)


def claim(root: Path, home: Path, prefix: str) -> tuple[Path, int | None]:
    """Make a hidden folder, and return it with a lock that says that its process is alive."""
    with locked(root.parent):
        _sweep(root)
        folder = Path(tempfile.mkdtemp(dir=home, prefix=prefix))
        return folder, _lock(folder)


def beside(root: Path) -> str:
    """Return how the names of hidden folders beside ``root`` begin."""
    return f".{root.name}{INSIDE}"


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Keep others out that lock ``folder`` too; a second lock in the same process waits as well.

    Raises:
        BlockingIOError: another lock is held and ``wait`` is False.
    """
    descriptor = _lock(folder, wait=wait)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _sweep(root: Path) -> None:
    for home, prefix in ((root.parent, beside(root)), (root, INSIDE)):
        for folder in sorted(home.iterdir()) if home.is_dir() else ():
            if not folder.name.startswith(prefix) or not _is_left_over(folder):
                continue
            if folder.suffix == ASIDE and not root.exists():
                folder.rename(root)
            else:
                shutil.rmtree(folder, ignore_errors=True)


def _lock(folder: Path, *, wait: bool = True) -> int | None:
    """Lock ``folder`` until the descriptor is closed or this process ends, however it ends.

    Returns None on systems and file systems without locks.

    Raises:
        BlockingIOError: another process holds the lock and ``wait`` is False.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    is_locked = False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        is_locked = True
    except BlockingIOError:
        raise
    except OSError:
        return None
    finally:
        if not is_locked:
            os.close(descriptor)
    return descriptor


def _is_left_over(folder: Path) -> bool:
    """Tell whether the process that made ``folder`` is gone: nobody holds its lock."""
    made = folder.with_suffix("") if folder.suffix == ASIDE else folder
    try:
        descriptor = _lock(made, wait=False)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    if descriptor is None:
        return False
    os.close(descriptor)
    return True
