"""Opening a bundle: the checks that must pass before any of its files is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vcut_runtime.bundle.checks import check_manifest
from vcut_runtime.bundle.claims import recover
from vcut_runtime.bundle.manifest import MANIFEST, EngineEntry, Entry, FileEntry, Manifest, decode, graph_files
from vcut_runtime.bundle.onnx_scan import scan_graph
from vcut_runtime.bundle.operators import OPERATORS
from vcut_runtime.errors import BundleError

_VIDEOS = 16  # numbers that a constant may ask for, in those of a whole video; the exporter's ask for less than one
_MOST_MANIFEST_BYTES = 16 << 20  # a hundred times what a bundle with many engines and schedules has


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest, paths, sizes and (unless told otherwise) hashes have been checked."""

    root: Path
    manifest: Manifest

    def path(self, entry: Entry) -> Path:
        """Return where a file of the manifest lies."""
        return self.root / entry.file


def open_bundle(root: str | Path, *, hashes: bool = True, engines: bool = True) -> Bundle:
    """Open the bundle at ``root``; ``hashes=False`` trusts the file sizes and reads no large file.

    ``engines=False`` does not look at the engines' files, whatever state they are in.

    Raises:
        BundleError: what is wrong and what to do, on one line.
    """
    root = Path(root)
    bundle = Bundle(root, _read_manifest(root))
    manifest = bundle.manifest
    try:
        files = manifest.files() if engines else manifest.onnx_files()
        for entry in files:
            _check_file(bundle, entry)
        if hashes:
            check_hashes(bundle, files)
        for graph in manifest.graphs.values():
            for file in graph_files(graph):
                _check_graph(bundle, file, manifest.weights[graph.weights])
    except (OSError, ValueError, RuntimeError) as error:  # unreadable, NUL in a name, a link that leads to itself
        reason = " ".join(str(error).split())
        raise BundleError(f"{root} cannot be read ({reason}): check its permissions, or copy it again") from None
    return bundle


def _read_manifest(root: Path) -> Manifest:
    path = root / MANIFEST
    try:
        if not root.is_dir():
            recover(root, wait=False)  # a killed run may have set it aside
        if not root.is_dir():
            raise BundleError(f"no bundle at {root}: make one with 'vcut export --output {root}'")
        if not path.is_file():
            raise BundleError(f"{root} has no {MANIFEST}, so it is not a vcut bundle: check the path")
        if path.stat().st_size > _MOST_MANIFEST_BYTES:
            raise BundleError(f"{root}: {MANIFEST} has more than {_MOST_MANIFEST_BYTES} bytes: do not use this bundle")
        manifest = decode(path.read_bytes())
        check_manifest(manifest)
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise BundleError(
            f"{root} cannot be read ({error.strerror or error}): check the path and its permissions"
        ) from None
    except ValueError as error:
        raise BundleError(f"{root}: {error}") from None
    return manifest


def check_hashes(bundle: Bundle, entries: Iterable[Entry]) -> None:
    """Compare each file with its sha256.

    Raises:
        BundleError: a file is not the one that was exported.
    """
    with ThreadPoolExecutor() as pool:  # hashlib releases the GIL
        todo = list(entries)
        for entry, digest in zip(todo, pool.map(lambda e: sha256(bundle.path(e)), todo), strict=True):
            if digest != entry.sha256:
                raise BundleError(
                    f"{bundle.root}: {entry.file} does not match its sha256 in the manifest: {_again(entry)}"
                )


def sha256(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def _check_file(bundle: Bundle, entry: Entry) -> None:
    path = bundle.path(entry)
    if path.resolve() != bundle.root.resolve() / entry.file:
        raise BundleError(f"{bundle.root}: {entry.file} is a link, or lies in one: put the file itself there")
    if not path.is_file():
        raise BundleError(f"{bundle.root}: {entry.file} is missing: {_again(entry)}")
    size = path.stat().st_size
    if size != entry.bytes:
        raise BundleError(
            f"{bundle.root}: {entry.file} has {size} bytes instead of {entry.bytes}, so it is damaged: "
            f"copy it again, or {_again(entry)}"
        )


def _again(entry: Entry) -> str:
    """Return how to make a file again."""
    if isinstance(entry, EngineEntry):
        return "build it again with 'vcut build --force'"
    return "export the bundle again with --force"


def _check_graph(bundle: Bundle, file: Entry, weights: FileEntry) -> None:
    """A graph may have the exporter's operators, and external data from the one weights file that the manifest gives.

    Other operators could run for ever, as ``Loop`` can. Constants may not ask for tensors that no video needs.
    """
    path = bundle.path(file)
    try:
        facts = scan_graph(path.read_bytes())
    except ValueError:
        raise BundleError(
            f"{bundle.root}: {file.file} is not an ONNX graph: export the bundle again with --force"
        ) from None
    if unknown := sorted(facts.operators - OPERATORS):
        raise BundleError(
            f"{bundle.root}: {file.file} has the operator {unknown[0]!r}, which vcut never exports: "
            "do not use this bundle"
        )
    largest = bundle.manifest.geometry.largest
    if facts.largest > _VIDEOS * largest.frames * largest.height * largest.width * 3:
        raise BundleError(
            f"{bundle.root}: {file.file} makes a tensor of {facts.largest:.0e} numbers, which no video of this bundle "
            "needs: do not use this bundle"
        )
    for location in sorted(facts.locations):
        if PurePosixPath(file.file).parent / location != PurePosixPath(weights.file):
            raise BundleError(
                f"{bundle.root}: {file.file} reads weights from {location!r}, which the manifest does not list: "
                "do not use this bundle"
            )
