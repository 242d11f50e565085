"""Opening a bundle: every check that must pass before anything of it is loaded."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vcut_runtime.errors import BundleError
from vcut_runtime.graphs import bundle_tensors
from vcut_runtime.manifest import EngineEntry, Entry, GraphEntry, Manifest, Profile, decode
from vcut_runtime.onnx_scan import external_locations

MANIFEST = "manifest.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
    if not root.is_dir():
        raise BundleError(f"no bundle at {root}: make one with 'vcut export --output {root}'")
    manifest_path = root / MANIFEST
    if not manifest_path.is_file():
        raise BundleError(f"{root} has no {MANIFEST}, so it is not a vcut bundle: check the path")
    try:
        manifest = decode(manifest_path.read_bytes())
        _check_content(manifest)
    except (ValueError, OSError) as error:
        raise BundleError(f"{root}: {error}") from None
    bundle = Bundle(root, manifest)
    try:
        files = manifest.files() if engines else manifest.onnx_files()
        for entry in files:
            _check_file(bundle, entry)
        if hashes:
            check_hashes(bundle, files)
        for graph in manifest.graphs.values():
            _check_external_data(bundle, graph)
    except (OSError, ValueError, RuntimeError) as error:  # unreadable, NUL in a name, a link that leads to itself
        reason = " ".join(str(error).split())
        raise BundleError(f"{root} cannot be read ({reason}): check its permissions, or copy it again") from None
    return bundle


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


def _check_content(manifest: Manifest) -> None:
    """What the schema's types cannot say. Raises ValueError."""
    missing = [name for name in manifest.graph_names if name not in manifest.graphs]
    if missing:
        raise ValueError(f"the manifest lacks the graph {missing[0]}: export the bundle again with --force")
    for entry in manifest.files():
        path = PurePosixPath(entry.file)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.file or ":" in entry.file or not path.parts:
            raise ValueError(f"the manifest names a path outside the bundle, {entry.file!r}: do not use this bundle")
        if entry.file == MANIFEST:
            raise ValueError("the manifest lists itself as a file of the bundle: do not use this bundle")
        if not _SHA256.fullmatch(entry.sha256):
            raise ValueError(f"the manifest gives no sha256 for {entry.file}: export the bundle again with --force")
    for name, graph in manifest.graphs.items():
        if graph.weights not in manifest.weights:
            raise ValueError(
                f"graph {name} wants the unlisted weights {graph.weights!r}: export the bundle again with --force"
            )
    sizes = (manifest.height, manifest.width, manifest.frames, manifest.latent_channels, manifest.vae_scale_factor)
    if min(*sizes, manifest.steps, manifest.decode_chunk) < 1:
        raise ValueError("the manifest gives a size below 1: export the bundle again with --force")
    if manifest.deep_features < 0:
        raise ValueError("the manifest gives deep_features below 0: export the bundle again with --force")
    for name, found in manifest.dynamic.items():
        unit = 1 if name == "frames" else manifest.vae_scale_factor
        usable = found.multiple >= 1 and found.multiple % unit == 0 and found.min >= 1
        if not usable or found.min not in found or found.max not in found:
            raise ValueError(f"the manifest's range of {name} is impossible: export the bundle again with --force")
        if getattr(manifest, name) not in found:
            raise ValueError(f"the manifest's {name} is outside its own range: export the bundle again with --force")
    if manifest.dynamic and manifest.encoder_size < 1:
        raise ValueError("the manifest gives no size of the image encoder: export the bundle again with --force")
    if not 0 <= 2 * manifest.decode_overlap < manifest.decode_chunk:
        raise ValueError("the manifest's decode_overlap does not fit its decode_chunk: export the bundle again")
    if not 1 <= manifest.cut_step <= manifest.steps + 1:
        raise ValueError(f"the manifest's cut step {manifest.cut_step} is outside 1..{manifest.steps + 1}")
    scheduler = manifest.scheduler
    numbers = (scheduler.sigma_max, scheduler.rho, scheduler.initial_noise_scale, scheduler.final_sigma)
    if not (0 < scheduler.sigma_min < scheduler.sigma_max and scheduler.rho > 0 and all(map(math.isfinite, numbers))):
        raise ValueError("the manifest's scheduler constants are impossible: export the bundle again with --force")
    offset = 0
    for entry in manifest.sca_bias:
        if entry.offset != offset or entry.channels < 1:
            raise ValueError(f"the manifest's sca_bias slices do not follow each other at {entry.block}")
        offset += entry.channels
    _check_engines(manifest)
    _check_shapes(manifest)


def _check_shapes(manifest: Manifest) -> None:
    """Graphs and engines must have the shapes that the manifest's own sizes imply, or the step loop would not fit."""
    most = manifest.largest.frames if manifest.decode_frames is None else manifest.smallest.frames
    if manifest.decode_frames not in (None, manifest.decode_chunk) or manifest.decode_chunk > most:
        raise ValueError("the manifest's decode_chunk is not what its decode graph takes: export the bundle again")
    wanted = bundle_tensors(manifest)
    holders = [(f"graph {name}", name, entry) for name, entry in manifest.graphs.items() if name in wanted]
    for target, engines in manifest.engines.items():
        holders += [(f"engine {name} of {target}", name, entry) for name, entry in engines.engines.items()]
    for what, name, entry in holders:
        for tensors, expected in zip((entry.inputs, entry.outputs), wanted[name], strict=True):
            found, right = ({t.name: (t.dtype, t.shape) for t in side} for side in (tensors, expected))
            if found != right:
                wrong = next((k for k in {**right, **found} if found.get(k) != right.get(k)), name)
                raise ValueError(f"the manifest's shape of {wrong!r} in {what} does not fit its sizes")


def _check_engines(manifest: Manifest) -> None:
    """Engines must belong to graphs of this bundle, and their profiles to their dynamic inputs."""
    for target, engines in manifest.engines.items():
        for name, engine in engines.engines.items():
            if name not in manifest.graph_names:
                raise ValueError(f"the manifest has an engine of the unknown graph {name!r} in {target}: rebuild it")
            if (engine.graph, engine.weights) != manifest.sources(name):
                raise ValueError(
                    f"the engine {name} of {target} was built from another graph than this bundle's: "
                    "run 'vcut build' on the bundle again"
                )
            dynamic = {t.name: t.shape for t in engine.inputs if any(isinstance(d, str) for d in t.shape)}
            if set(engine.profile) != set(dynamic) or not all(
                _fits(profile, dynamic[tensor]) for tensor, profile in engine.profile.items()
            ):
                raise ValueError(f"the profile of engine {name} of {target} does not fit its inputs: rebuild it")
        sizes = [(e.activation_bytes, e.weight_bytes, e.layers) for e in engines.engines.values()]
        if any(min(numbers) < 0 for numbers in sizes):
            raise ValueError(f"the engines of {target} claim a negative size: rebuild them")


def _fits(profile: Profile, shape: tuple[int | str, ...]) -> bool:
    sides = (profile.min, profile.opt, profile.max)
    if any(len(side) != len(shape) for side in sides):
        return False
    return all(
        1 <= low <= mid <= high and (isinstance(fixed, str) or low == high == fixed)
        for low, mid, high, fixed in zip(*sides, shape, strict=True)
    )


def _check_file(bundle: Bundle, entry: Entry) -> None:
    path = bundle.path(entry)
    if not path.resolve().is_relative_to(bundle.root.resolve()):
        raise BundleError(f"{bundle.root}: {entry.file} is a link that leaves the bundle: do not use this bundle")
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


def _check_external_data(bundle: Bundle, graph: GraphEntry) -> None:
    """A graph may take external data from the one weights file that the manifest gives it, and from nowhere else."""
    path = bundle.path(graph)
    try:
        locations = external_locations(path.read_bytes())
    except ValueError:
        raise BundleError(
            f"{bundle.root}: {graph.file} is not an ONNX graph: export the bundle again with --force"
        ) from None
    weights = bundle.manifest.weights[graph.weights]
    for location in sorted(locations):
        if PurePosixPath(graph.file).parent / location != PurePosixPath(weights.file):
            raise BundleError(
                f"{bundle.root}: {graph.file} reads weights from {location!r}, which the manifest does not list: "
                "do not use this bundle"
            )
