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
from vcut_runtime.manifest import GRAPHS, FileEntry, GraphEntry, Manifest, decode
from vcut_runtime.onnx_scan import external_locations

MANIFEST = "manifest.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest, paths, sizes and (unless told otherwise) hashes have been checked."""

    root: Path
    manifest: Manifest

    def path(self, entry: GraphEntry | FileEntry) -> Path:
        """Return where a file of the manifest lies."""
        return self.root / entry.file


def open_bundle(root: str | Path, *, hashes: bool = True) -> Bundle:
    """Open the bundle at ``root``; ``hashes=False`` trusts the file sizes and reads no large file.

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
        for entry in manifest.files():
            _check_file(bundle, entry)
        if hashes:
            check_hashes(bundle, manifest.files())
        for graph in manifest.graphs.values():
            _check_external_data(bundle, graph)
    except (OSError, ValueError, RuntimeError) as error:  # unreadable, NUL in a name, a link that leads to itself
        reason = " ".join(str(error).split())
        raise BundleError(f"{root} cannot be read ({reason}): check its permissions, or copy it again") from None
    return bundle


def check_hashes(bundle: Bundle, entries: Iterable[GraphEntry | FileEntry]) -> None:
    """Compare each file with its sha256.

    Raises:
        BundleError: a file is not the one that was exported.
    """
    with ThreadPoolExecutor() as pool:  # hashlib releases the GIL
        todo = list(entries)
        for entry, digest in zip(todo, pool.map(lambda e: sha256(bundle.path(e)), todo), strict=True):
            if digest != entry.sha256:
                raise BundleError(
                    f"{bundle.root}: {entry.file} does not match its sha256 in the manifest: "
                    "export the bundle again with --force"
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
    missing = [name for name in GRAPHS if name not in manifest.graphs]
    if missing:
        raise ValueError(f"the manifest lacks the graph {missing[0]}: export the bundle again with --force")
    for entry in manifest.files():
        path = PurePosixPath(entry.file)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.file or ":" in entry.file or not path.parts:
            raise ValueError(f"the manifest names a path outside the bundle, {entry.file!r}: do not use this bundle")
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
    _check_shapes(manifest)


def _check_shapes(manifest: Manifest) -> None:
    """The graphs' shapes must be those that the manifest's own sizes imply, or the step loop would not fit them."""
    latent = manifest.latent_shape
    frames, bias = manifest.frames, manifest.bias_channels
    image = (1, 3, manifest.height, manifest.width)
    video = (1, frames, *latent)
    step = {
        "latents": video,
        "image_latents": (1, *latent),
        "sigma": (1,),
        "sigma_next": (1,),
        "added_time_ids": (1, 3),
    }
    wanted = {
        "condition": (
            {"image": image, "noise": image, "noise_aug_strength": (1,)},
            {"image_latents": (1, *latent), "sca_bias": (2, bias)},
        ),
        "semantic_binding": (
            {**step, "sca_bias": (2, bias), "guidance_scale": (frames,)},
            {"next_latents": video},
        ),
        "quality_improvement": ({**step, "sca_bias": (1, bias)}, {"next_latents": video}),
        "decode": ({"latents": ("n", *latent)}, {"frames": ("n", manifest.height, manifest.width, 3)}),
    }
    for name, sides in wanted.items():
        graph = manifest.graphs[name]
        for tensors, expected in zip((graph.inputs, graph.outputs), sides, strict=True):
            found = {tensor.name: tensor.shape for tensor in tensors}
            if found != expected:
                wrong = next((k for k in {**expected, **found} if found.get(k) != expected.get(k)), name)
                raise ValueError(f"the manifest's shape of {wrong!r} in graph {name} does not fit its sizes")


def _check_file(bundle: Bundle, entry: GraphEntry | FileEntry) -> None:
    path = bundle.path(entry)
    if not path.resolve().is_relative_to(bundle.root.resolve()):
        raise BundleError(f"{bundle.root}: {entry.file} is a link that leaves the bundle: do not use this bundle")
    if not path.is_file():
        raise BundleError(f"{bundle.root}: {entry.file} is missing: export the bundle again with --force")
    size = path.stat().st_size
    if size != entry.bytes:
        raise BundleError(
            f"{bundle.root}: {entry.file} has {size} bytes instead of {entry.bytes}, so it is damaged: "
            "copy it again, or export it again with --force"
        )


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
