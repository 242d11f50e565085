"""A bundle's graphs to engines, and the engines into the bundle."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from vcut_engines.builder_process import Progress, compile_in_process
from vcut_engines.compile import CompiledEngine, EngineJob
from vcut_engines.options import EngineOptions
from vcut_engines.recipe import Recipe, engine_key, make_recipes
from vcut_engines.targets import Target, choose_target
from vcut_runtime.bundle import Bundle, check_hashes, open_bundle, sha256
from vcut_runtime.bundle.claims import recover
from vcut_runtime.bundle.graph import GRAPHS
from vcut_runtime.bundle.manifest import EngineEntry, EngineSet, Manifest
from vcut_runtime.bundle.transaction import adding
from vcut_runtime.command_options import merge
from vcut_runtime.errors import BundleError, UsageError, VcutError
from vcut_runtime.host import cache_folder, file_name, peak_memory, total_memory

_MEMORY_PER_WEIGHT_BYTE = 3.4  # of the host, measured: SVD-XT's UNet of 2.65 GB takes 8.8 GB to build


@dataclass(frozen=True)
class BuildResult:
    """What a build did.

    Attributes:
        bundle: the bundle's folder.
        target: the engines' key in the manifest; None if no library can build here.
        reason: why there is no target, in one line.
        built: the graphs whose engines were built in this call; the other engines were up to date.
        engines: the target's engines by graph.
        warnings: those that a user can act on, by graph.
        seconds: duration by graph; ``check`` is the time to hash the graphs.
        peak_memory: resident, in bytes, of this process or of its largest child.
    """

    bundle: Path
    target: str | None
    reason: str
    built: tuple[str, ...] = ()
    engines: Mapping[str, EngineEntry] = field(default_factory=dict)
    warnings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory: int = 0


def build(
    bundle: str | Path,
    options: EngineOptions | None = None,
    *,
    decode_chunk: int | None = None,
    force: bool = False,
    progress: Progress = lambda graph, phase, done, total: None,
    **keywords: Any,
) -> BuildResult:
    """Build the engines of ``bundle`` for one target and put them into it.

    An engine already there is kept if it was made from the same graph with the same recipe. The bundle does not change
    until all engines are built.

    Args:
        bundle: the bundle's folder.
        options: the library and the GPU.
        decode_chunk: most frames that the decode engine takes at a time; by default the bundle's chunk.
        force: build all engines again.
        progress: called with the graph, the library's phase, its steps done, and its steps in all.
        keywords: fields of :class:`~vcut_engines.EngineOptions`, in the place of ``options``.

    Raises:
        BundleError: the bundle is damaged.
        UsageError: an option is impossible, or the library is not installed.
        VcutError: a build failed; the bundle is as it was.
    """
    options = merge(EngineOptions, options, keywords)
    root = Path(os.path.realpath(bundle))
    recover(root)
    opened = open_bundle(bundle, hashes=False, engines=False)  # damaged engines are built again
    manifest = opened.manifest
    target = choose_target(options.engines, options.gpu, manifest.precision)
    if isinstance(target, str):
        return BuildResult(opened.root, None, target)
    workspace = None if options.workspace is None else round(options.workspace * 1e9)
    recipes = make_recipes(manifest, target, decode_chunk, workspace)
    keys = {name: engine_key(manifest, name, recipe) for name, recipe in recipes.items()}
    kept = {} if force else _up_to_date(opened, target, keys)
    stale = tuple(name for name in manifest.graphs if name not in kept)
    if not stale:
        return BuildResult(opened.root, target.name, "", (), kept)
    _check_machine(opened, stale)
    start = time.perf_counter()
    graphs = [manifest.graphs[name] for name in stale]
    check_hashes(opened, [*graphs, *(manifest.weights[w] for w in dict.fromkeys(g.weights for g in graphs))])
    seconds = {"check": time.perf_counter() - start}
    engines, warnings = dict(kept), {}
    with adding(root) as new:
        folder = new.folder / "engines" / target.name
        folder.mkdir(parents=True)
        for name in stale:
            start = time.perf_counter()
            job = _make_job(opened, name, recipes[name], target, folder / f"{name}.engine")
            compiled = compile_in_process(job, verbose=options.verbose, progress=progress)
            seconds[name] = time.perf_counter() - start
            engines[name] = _add_engine(manifest, job, keys[name], compiled, seconds[name])
            if compiled.warnings:
                warnings[name] = compiled.warnings
        engines = {name: engines[name] for name in manifest.graphs}
        with new.alone():
            now = _manifest_now(root, manifest)
            engine_set = EngineSet(target.library, target.version, target.compute_capability, target.gpu, engines)
            new.publish(msgspec.structs.replace(now, engines={**now.engines, target.name: engine_set}))
    return BuildResult(opened.root, target.name, "", stale, engines, warnings, seconds, peak_memory())


def summary(result: BuildResult) -> dict[str, Any]:
    """Return ``result`` as what ``--json`` prints."""
    return {
        "bundle": str(result.bundle),
        "target": result.target,
        "reason": result.reason,
        "built": list(result.built),
        "warnings": {name: list(warnings) for name, warnings in result.warnings.items()},
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
        "peak_memory_bytes": result.peak_memory,
        "engines": {
            name: {
                "file": entry.file,
                "bytes": entry.bytes,
                "activation_bytes": entry.activation_bytes,
                "weight_bytes": entry.weight_bytes,
                "build_seconds": entry.build_seconds,
            }
            for name, entry in result.engines.items()
        },
    }


def _up_to_date(bundle: Bundle, target: Target, keys: Mapping[str, str]) -> dict[str, EngineEntry]:
    """Return the target's engines that have these keys and whose files are there in full."""
    engine_set = bundle.manifest.engines.get(target.name)
    entries = {} if engine_set is None else engine_set.engines
    return {name: entry for name, entry in entries.items() if entry.key == keys[name] and _is_whole(bundle, entry)}


def _is_whole(bundle: Bundle, entry: EngineEntry) -> bool:
    path = bundle.path(entry)
    return path.is_file() and path.stat().st_size == entry.bytes


def _check_machine(bundle: Bundle, stale: tuple[str, ...]) -> None:
    """Refuse now what would fail after minutes, because the disk or the memory is too small.

    Raises:
        UsageError: it is too small.
    """
    manifest = bundle.manifest
    graphs = [name for name in stale if GRAPHS[name].full is None]  # shallow steps have 1 % of the UNet's weights
    weights = [manifest.weights[manifest.graphs[name].weights].bytes for name in graphs]
    free = shutil.disk_usage(bundle.root).free
    if sum(weights) * 1.05 > free:
        raise UsageError(
            f"the engines need {sum(weights) / 1e9:.1f} GB, {bundle.root} has {free / 1e9:.1f} GB free: free space"
        )
    need, have = max(weights, default=0) * _MEMORY_PER_WEIGHT_BYTE, total_memory()
    if need > have:
        raise UsageError(
            f"building the engines needs about {need / 1e9:.0f} GB of memory, this machine has {have / 1e9:.0f} GB: "
            "copy the bundle to a larger machine and build there"
        )


def _make_job(bundle: Bundle, graph: str, recipe: Recipe, target: Target, output: Path) -> EngineJob:
    timings = None
    if target.library == "tensorrt":  # TensorRT-RTX times no kernels while it builds
        timings = str(cache_folder() / "timing" / f"{target.version}-{file_name(target.gpu or '')}.cache")
    onnx = bundle.path(bundle.manifest.graphs[graph])
    return EngineJob(recipe, graph, str(onnx), str(output), str(_log_file(bundle, target, graph)), timings)


def _log_file(bundle: Bundle, target: Target, graph: str) -> Path:
    folder = cache_folder() / "log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir())
    return folder / f"build-{bundle.root.resolve().name}-{target.name}-{graph}-{os.getpid()}.log"


def _add_engine(manifest: Manifest, job: EngineJob, key: str, compiled: CompiledEngine, seconds: float) -> EngineEntry:
    """Give a new engine a name that holds its own hash, so that it never replaces another one; return its entry."""
    written = Path(job.output)
    digest = sha256(written)
    named = written.rename(written.with_name(f"{job.graph}.{digest[:12]}.engine"))
    graph = manifest.graphs[job.graph]
    graph_sha256, weights_sha256 = manifest.sources(job.graph)
    return EngineEntry(
        file=f"engines/{written.parent.name}/{named.name}",
        bytes=named.stat().st_size,
        sha256=digest,
        key=key,
        graph=graph_sha256,
        weights=weights_sha256,
        inputs=graph.inputs,
        outputs=graph.outputs,
        profile=job.recipe.profile,
        activation_bytes=compiled.activation_bytes,
        weight_bytes=compiled.weight_bytes,
        layers=compiled.layers,
        build_seconds=round(seconds, 3),
    )


def _manifest_now(root: Path, before: Manifest) -> Manifest:
    """Read the manifest again, because another build may have finished meanwhile.

    Raises:
        VcutError: the bundle has other graphs now.
    """
    try:
        now = open_bundle(root, hashes=False, engines=False).manifest
    except BundleError as error:
        raise VcutError(f"the bundle changed while its engines were built: {error}") from None
    if now.graphs != before.graphs:
        raise VcutError(f"{root} was exported anew while its engines were built: run 'vcut build' again")
    return now
