"""Replacing a bundle in one step: make the new one beside it, link what is kept, swap the two folders.

Until the swap the old bundle is untouched. A run that fails or is interrupted leaves nothing behind. What a killed run
leaves behind is removed by the next call.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vcut_runtime.bundle.manifest import MANIFEST, Entry, Manifest, encode
from vcut_runtime.bundle.opening import open_bundle
from vcut_runtime.errors import UsageError, VcutError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and nothing counts as left behind
    fcntl = None

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux


class Staging:
    """A new bundle in the making, in a hidden folder."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder

    def keep(self, entries: Iterable[Entry]) -> None:
        """Take over files of the old bundle: as hard links, or as copies if the file system has no links."""
        for entry in entries:
            target = self.folder / entry.file
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(self.root / entry.file, target)
            except OSError:
                shutil.copyfile(self.root / entry.file, target)

    def write(self, manifest: Manifest) -> None:
        """Write the manifest, and check the new bundle except for its hashes.

        Raises:
            BundleError: the new bundle is not whole.
        """
        (self.folder / MANIFEST).write_bytes(encode(manifest))
        self.manifest = open_bundle(self.folder, hashes=False).manifest

    def publish(self) -> None:
        """Put the written bundle in the old one's place."""
        self.folder.chmod(0o755)
        if self.folder.parent == self.root:
            self._merge()
        elif not self.root.exists():
            self.folder.rename(self.root)
        elif not _exchange(self.folder, self.root):
            aside = self.folder.with_name(f"{self.folder.name}.old")
            self.root.rename(aside)
            try:
                self.folder.rename(self.root)
            except BaseException:
                aside.rename(self.root)
                raise
            shutil.rmtree(aside, ignore_errors=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from publishing, so that what they published can be read and taken over."""
        with _locked(self.folder.parent):
            yield

    def _merge(self) -> None:
        """Move the new files into a folder that cannot be swapped. Changed files must have new names."""
        for entry in self.manifest.files():
            source, target = self.folder / entry.file, self.root / entry.file
            if not (target.exists() and target.samefile(source)):
                target.parent.mkdir(parents=True, exist_ok=True)
                source.replace(target)
        (self.folder / MANIFEST).replace(self.root / MANIFEST)
        listed = {self.root / entry.file for entry in self.manifest.engine_files()}
        for path in (self.root / "engines").glob("*/*"):
            if path not in listed:
                path.unlink()


@contextmanager
def staging(root: Path) -> Iterator[Staging]:
    """Yield a new bundle's hidden folder, beside ``root``. It is gone at the end.

    It lies inside ``root`` if that is the current folder or a mount point, which cannot be swapped.

    Raises:
        UsageError: no folder can be made there.
        VcutError: the disk refused something.
    """
    home, prefix = (root, ".partial-") if is_fixed(root) else (root.parent, f".{root.name}.partial-")
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _locked(home):
            recover(root)
            folder = Path(tempfile.mkdtemp(dir=home, prefix=prefix))
            claim = _lock(folder)
    except OSError as error:
        raise UsageError(
            f"cannot write beside {root} ({error.strerror}): choose another place for the bundle"
        ) from None
    try:
        yield Staging(root, folder)
    except FileNotFoundError as error:
        raise VcutError(
            f"{error.filename} vanished meanwhile, so the bundle was moved or exported anew: run the command again"
        ) from None
    except OSError as error:
        raise VcutError(f"writing the bundle failed ({error.strerror or error}): check the disk") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if claim is not None:
            os.close(claim)


def is_fixed(root: Path) -> bool:
    """Tell whether no other folder can take the place of ``root``: it is the current folder or a mount point."""
    return root.exists() and (root.resolve() == Path.cwd() or root.is_mount())


def recover(root: Path) -> None:
    """Remove what killed runs left behind, and take back a bundle that such a run had set aside."""
    for home, prefix in ((root.parent, f".{root.name}.partial-"), (root, ".partial-")):
        for folder in sorted(home.iterdir()) if home.is_dir() else ():
            if not folder.name.startswith(prefix) or not _is_left_over(folder):
                continue
            if folder.suffix == ".old" and not root.exists():
                folder.rename(root)
            else:
                shutil.rmtree(folder, ignore_errors=True)


def _lock(folder: Path, *, wait: bool = True) -> int | None:
    """Lock ``folder`` until the descriptor is closed or this process ends, however it ends.

    Raises:
        OSError: another process holds the lock and ``wait`` is False.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = _lock(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _is_left_over(folder: Path) -> bool:
    """Tell whether the process that made ``folder`` is gone: nobody holds its lock."""
    if fcntl is None:
        return False
    made = folder.with_suffix("") if folder.suffix == ".old" else folder
    try:
        descriptor = _lock(made, wait=False)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    assert descriptor is not None
    os.close(descriptor)
    return True


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one step of the file system; return False if this system cannot."""
    if sys.platform != "linux":
        return False
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):  # an old C library
        return False
    return renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0
