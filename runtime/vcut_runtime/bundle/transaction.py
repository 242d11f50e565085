"""Changing a bundle in one step: make what is new in a hidden folder, then put it in place.

A whole new bundle (:func:`staging`) is made beside the old one and swapped with it. New engines (:func:`adding`) are
made inside the bundle and moved, before one rename replaces the manifest. Until that step the old bundle is untouched.
A run that fails or is interrupted leaves nothing behind. What a killed run leaves behind is removed by the next call.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vcut_runtime.bundle.claims import ASIDE, INSIDE, beside, claim, locked
from vcut_runtime.bundle.manifest import MANIFEST, Entry, Manifest, encode
from vcut_runtime.bundle.opening import open_bundle
from vcut_runtime.errors import UsageError, VcutError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux


class _Transaction:
    """A hidden folder for what is new in the bundle at ``root``."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder
        self._is_alone = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from publishing, so that what they published can be read and taken over."""
        if self._is_alone:
            yield
            return
        with locked(self.root.parent):
            self._is_alone = True
            try:
                yield
            finally:
                self._is_alone = False


class Staging(_Transaction):
    """A whole new bundle in the making."""

    def keep(self, entries: Iterable[Entry]) -> None:
        """Take over files of the old bundle: as hard links, or as copies if the file system has no links."""
        for entry in entries:
            target = self.folder / entry.file
            if target.exists():
                continue
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
        open_bundle(self.folder, hashes=False)

    def publish(self) -> None:
        """Put the written bundle in the old one's place."""
        self.folder.chmod(0o755)
        with self.alone():
            if not self.root.exists():
                self.folder.rename(self.root)
            elif not _exchange(self.folder, self.root):
                aside = self.folder.with_name(f"{self.folder.name}{ASIDE}")
                self.root.rename(aside)
                try:
                    self.folder.rename(self.root)
                except BaseException:
                    aside.rename(self.root)
                    raise
                shutil.rmtree(aside, ignore_errors=True)


class Addition(_Transaction):
    """New engines in the making, in ``folder`` as they will lie in the bundle. Each needs a name of its own."""

    def publish(self, manifest: Manifest) -> None:
        """Move the new files into the bundle, replace the manifest, and remove the engines that it no longer lists."""
        (self.folder / MANIFEST).write_bytes(encode(manifest))
        added: list[Path] = []
        with self.alone():
            try:
                for source in sorted(path for path in self.folder.rglob("*") if path.name != MANIFEST):
                    target = self.root / source.relative_to(self.folder)
                    if not target.exists():
                        added.append(target)
                    if source.is_file():
                        source.replace(target)
                    else:
                        target.mkdir(exist_ok=True)
                (self.folder / MANIFEST).replace(self.root / MANIFEST)
            except BaseException:
                is_old = (self.folder / MANIFEST).exists()  # an interrupt may come when the new manifest is in place
                for path in reversed(added) if is_old else ():
                    with suppress(OSError):
                        path.rmdir() if path.is_dir() else path.unlink()
                raise
            listed = {self.root / entry.file for entry in manifest.engine_files()}
            for path in (self.root / "engines").glob("*/*.engine"):
                if path not in listed:
                    with suppress(OSError):
                        path.unlink()


@contextmanager
def staging(root: Path) -> Iterator[Staging]:
    """Yield a new bundle's hidden folder beside ``root``. It is gone at the end.

    Raises:
        UsageError: no folder can be made there.
        VcutError: the disk refused something.
    """
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        folder, lock = claim(root, root.parent, beside(root))
    except OSError as error:
        raise UsageError(
            f"cannot write beside {root} ({error.strerror}): choose another place for the bundle"
        ) from None
    with _temporary(folder, lock):
        yield Staging(root, folder)


@contextmanager
def adding(root: Path) -> Iterator[Addition]:
    """Yield a hidden folder inside the bundle at ``root`` for new engines. It is gone at the end.

    The bundle may be the current folder or a mount point, which cannot be swapped.

    Raises:
        VcutError: the disk refused something.
    """
    try:
        folder, lock = claim(root, root, INSIDE)
    except OSError as error:
        raise VcutError(f"cannot write into {root} ({error.strerror}): make it writable, or copy the bundle") from None
    with _temporary(folder, lock):
        yield Addition(root, folder)


def is_fixed(root: Path) -> bool:
    """Tell whether no other folder can take the place of ``root``: it is the current folder or a mount point."""
    return root.exists() and (root.resolve() == Path.cwd() or root.is_mount())


@contextmanager
def _temporary(folder: Path, lock: int | None) -> Iterator[None]:
    """Remove ``folder`` at the end, and tell the disk's errors in one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise VcutError(
            f"{error.filename} vanished meanwhile, so the bundle was moved or exported anew: run the command again"
        ) from None
    except OSError as error:
        raise VcutError(f"writing the bundle failed ({error.strerror or error}): check the disk") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one step of the file system; return False if this system cannot."""
    if sys.platform != "linux":
        return False
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):  # an old C library
        return False
    return renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0
