"""Recipes: everything that decides an engine, except its graph."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from vcut_engines.targets import Target
from vcut_runtime.bundle import sha256
from vcut_runtime.bundle.graph import sized
from vcut_runtime.bundle.manifest import EngineLibrary, GraphEntry, Manifest, Precision, Profile
from vcut_runtime.errors import UsageError

BUILDING_CODE = Path(__file__).with_name("compile.py")


class Recipe(msgspec.Struct, frozen=True):
    """What an engine is built with and for.

    Attributes:
        library: TensorRT or TensorRT-RTX.
        version: of the library.
        compute_capability: such as ``8.6``; None for an engine that runs on Ampere and later.
        precision: of the graph.
        profile: the shapes of each dynamic input.
        workspace: bytes that a kernel may use, None for the library's own limit.
    """

    library: EngineLibrary
    version: str
    compute_capability: str | None
    precision: Precision
    profile: dict[str, Profile] = {}
    workspace: int | None = None


def make_recipes(
    manifest: Manifest, target: Target, decode_chunk: int | None, workspace: int | None = None
) -> dict[str, Recipe]:
    """Return the recipe of each graph's engine. The ``workspace`` is by default at most what the target's GPU has.

    Profiles span the sizes of the bundle's videos. The profile of ``decode`` spans 1 to ``decode_chunk`` frames, by
    default the bundle's chunk.

    Raises:
        UsageError: the bundle cannot decode so many frames at a time.
    """
    geometry = manifest.geometry
    chunk = _checked_chunk(manifest, decode_chunk)
    least = geometry.values(geometry.smallest, 1)
    usual = geometry.values(geometry.sizes, min(chunk, manifest.frames))
    most = geometry.values(geometry.largest, chunk)

    def profile(graph: GraphEntry) -> dict[str, Profile]:
        free = {t.name: t.shape for t in graph.inputs if any(isinstance(d, str) for d in t.shape)}
        return {name: Profile(sized(s, least), sized(s, usual), sized(s, most)) for name, s in free.items()}

    limit = target.memory if workspace is None else workspace
    about = (target.library, target.version, target.compute_capability, manifest.precision)
    return {name: Recipe(*about, profile(graph), limit) for name, graph in manifest.graphs.items()}


def engine_key(manifest: Manifest, graph: str, recipe: Recipe) -> str:
    """Return a fingerprint of an engine: of its graph, the weights, the recipe and the code that builds it."""
    graph_sha256, weights_sha256 = manifest.sources(graph)
    parts = {"graph": graph_sha256, "weights": weights_sha256, "recipe": recipe, "code": sha256(BUILDING_CODE)}
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def _checked_chunk(manifest: Manifest, decode_chunk: int | None) -> int:
    chunk = manifest.decode_chunk if decode_chunk is None else decode_chunk
    fixed, frames = manifest.geometry.decode_frames, manifest.geometry.largest.frames
    if fixed not in (None, chunk):
        raise UsageError(
            f"--decode-chunk {chunk}: this bundle's decode graph takes {fixed} frames at a time, "
            f"export it with --decode-chunk {chunk}"
        )
    if not 1 <= chunk <= frames:
        raise UsageError(f"--decode-chunk {chunk} is outside 1..{frames}, the frames of this bundle's videos")
    return chunk
