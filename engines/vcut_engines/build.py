"""A bundle's graphs to engines, and the engines into the bundle."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from vcut_engines import compile as recipe_source
from vcut_engines.compile import Compiled, Job, Recipe, explain
from vcut_engines.targets import Target, choose_target
from vcut_runtime.bundle import MANIFEST, Bundle, check_hashes, open_bundle, sha256
from vcut_runtime.errors import BundleError, UsageError, VcutError
from vcut_runtime.graphs import dimensions, sized
from vcut_runtime.machine import cache_folder, file_name, peak_memory, total_memory
from vcut_runtime.manifest import (
    SCHEMA_VERSION,
    SHALLOW,
    EngineEntry,
    EngineSet,
    GraphEntry,
    Manifest,
    Profile,
    encode,
)
from vcut_runtime.tensorrt_library import TITLES

Progress = Callable[[str, str, int, int], None]
_BYTES_PER_WEIGHT_BYTE = 3.4  # of host memory, measured: SVD-XT's UNet of 2.65 GB takes 8.8 GB to build


@dataclass(frozen=True)
class BuildResult:
    """What a build did.

    Attributes:
        bundle: the bundle's folder.
        target: the engines' key in the manifest, None if there was nothing to build with.
        reason: why there is no target, in one line.
        built: the graphs whose engines were made in this call; the others were there already.
        engines: the target's engines by graph.
        warnings: of the library, that a user can act on, by graph.
        seconds: duration by graph, and ``check``: reading the graphs.
        peak_memory: resident, in bytes, of this process or of its largest child.
    """

    bundle: Path
    target: str | None
    reason: str
    built: tuple[str, ...] = ()
    engines: Mapping[str, EngineEntry] = field(default_factory=dict)
    warnings: Mapping[str, list[str]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory: int = 0


def build(
    bundle: str | Path,
    *,
    engines: str = "auto",
    gpu: str | None = None,
    decode_chunk: int | None = None,
    force: bool = False,
    verbose: bool = False,
    progress: Progress = lambda graph, phase, done, total: None,
) -> BuildResult:
    """Build the engines of ``bundle`` for one target and put them into it.

    An engine already there and made from the same graph, by the same library, with the same options, is kept. The
    bundle is as it was until all engines are made.

    Args:
        bundle: the bundle's folder.
        engines: the library, see :func:`vcut_engines.choose_target`.
        gpu: what to build for, see there.
        decode_chunk: most frames that the decode engine takes at a time; the bundle's default if None.
        force: build all engines again.
        verbose: write the library's log to standard error as it comes.
        progress: called with the graph, the builder's phase, its steps done and in all.

    Raises:
        BundleError: the bundle is damaged.
        UsageError: the library cannot build for that GPU, or is not there.
        VcutError: a build failed; the bundle is as it was.
    """
    began = time.time()
    opened = open_bundle(bundle, hashes=False, engines=False)  # damaged engines are built again
    manifest = opened.manifest
    target = choose_target(engines, gpu, manifest.precision)
    if isinstance(target, str):
        return BuildResult(opened.root, None, target)
    recipes = _recipes(manifest, target, decode_chunk)
    keys = {name: _key(opened, name, recipe) for name, recipe in recipes.items()}
    old = manifest.engines.get(target.name)
    there = {} if old is None or force else old.engines
    kept = {name: entry for name, entry in there.items() if entry.key == keys[name] and _is_whole(opened, entry)}
    stale = tuple(name for name in manifest.graph_names if name not in kept)
    if not stale:
        return BuildResult(opened.root, target.name, "", (), kept)
    _check_room(opened, stale)
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    graphs = [manifest.graphs[name] for name in stale]
    check_hashes(opened, [*graphs, *(manifest.weights[w] for w in dict.fromkeys(g.weights for g in graphs))])
    seconds["check"] = time.perf_counter() - start
    made: dict[str, EngineEntry] = {}
    warnings: dict[str, list[str]] = {}
    written: dict[Path, Path] = {}  # where each new file goes
    folder = opened.root / "engines" / target.name
    with _new_files(folder) as new:
        for name in stale:
            start = time.perf_counter()
            partial = new(name)
            done, warnings[name] = _compile(opened, name, recipes[name], target, partial, verbose, progress)
            seconds[name] = time.perf_counter() - start
            made[name] = _entry(opened, name, partial, keys[name], recipes[name], done, seconds[name])
            written[partial] = opened.root / made[name].file
        result = EngineSet(
            library=target.library,
            version=target.version,
            compute_capability=target.compute_capability,
            gpu=target.gpu,
            engines={name: {**kept, **made}[name] for name in manifest.graph_names},
        )
        _publish(opened, target.name, result, written, began)
    return BuildResult(
        bundle=opened.root,
        target=target.name,
        reason="",
        built=stale,
        engines=result.engines,
        warnings={name: said for name, said in warnings.items() if said},
        seconds=seconds,
        peak_memory=peak_memory(),
    )


def summary(result: BuildResult) -> dict[str, Any]:
    """Return ``result`` as what ``--json`` prints."""
    return {
        "bundle": str(result.bundle),
        "target": result.target,
        "reason": result.reason,
        "built": list(result.built),
        "warnings": dict(result.warnings),
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


def _recipes(manifest: Manifest, target: Target, decode_chunk: int | None) -> dict[str, Recipe]:
    """What each engine is built with: its free dimensions range as the bundle's videos do, decode's up to the chunk."""
    chunk = manifest.decode_chunk if decode_chunk is None else decode_chunk
    if manifest.decode_frames not in (None, chunk):
        raise UsageError(
            f"--decode-chunk {chunk}: this bundle's decode graph takes {manifest.decode_frames} frames at a time, "
            f"export it with --decode-chunk {chunk}"
        )
    frames = manifest.largest.frames
    if not 1 <= chunk <= frames:
        raise UsageError(f"--decode-chunk {chunk} is outside 1..{frames}, the frames of this bundle's videos")
    chunks = (1, min(chunk, manifest.frames), chunk)
    least, usual, most = (
        dimensions(manifest, sizes, n)
        for sizes, n in zip((manifest.smallest, manifest.sizes, manifest.largest), chunks, strict=True)
    )

    def profile(graph: GraphEntry) -> dict[str, Profile]:
        free = {t.name: t.shape for t in graph.inputs if any(isinstance(d, str) for d in t.shape)}
        return {name: Profile(sized(s, least), sized(s, usual), sized(s, most)) for name, s in free.items()}

    return {
        name: Recipe(
            library=target.library,
            version=target.version,
            compute_capability=target.compute_capability,
            profile=profile(manifest.graphs[name]),
            tf32=manifest.precision != "fp32",
        )
        for name in manifest.graph_names
    }


def _is_whole(bundle: Bundle, entry: EngineEntry) -> bool:
    path = bundle.path(entry)
    return path.is_file() and path.stat().st_size == entry.bytes


def _key(bundle: Bundle, name: str, recipe: Recipe) -> str:
    """A fingerprint of the graph, its weights, the options and the code that turns them into an engine."""
    graph, weights = bundle.manifest.sources(name)
    parts = {
        "graph": graph,
        "weights": weights,
        "recipe": recipe,
        "code": sha256(Path(recipe_source.__file__)),
    }
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def _compile(
    bundle: Bundle, name: str, recipe: Recipe, target: Target, output: Path, verbose: bool, progress: Progress
) -> tuple[Compiled, list[str]]:
    """Build one engine in a process of its own, which can be killed and gives its memory back."""
    log = _log_file(bundle, target, name)
    job = Job(
        recipe=recipe,
        graph=name,
        onnx=str(bundle.path(bundle.manifest.graphs[name])),
        output=str(output),
        log=str(log),
        timing_cache=_timing_cache(target),
    )
    progress(name, "start", 0, 0)
    command = [sys.executable, "-P", "-m", "vcut_engines.worker"]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr) as process,
    ):
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError):  # it died already; what it said comes below
                process.stdin.write(msgspec.json.encode(job))
                process.stdin.close()
            last: dict[str, Any] = {}
            with _following(log, verbose) as follow:
                for line in process.stdout:
                    last = msgspec.json.decode(line)
                    if last["kind"] == "phase":
                        progress(name, *last["args"])
                    follow()
                process.wait()
                follow()
        except BaseException:
            process.kill()
            raise
        stderr.seek(0)
        native = [text for text in stderr.read().decode(errors="replace").splitlines() if text.strip()]
    if last.get("kind") == "done":
        log.unlink(missing_ok=True)
        progress(name, "done", 1, 1)
        return msgspec.convert(last["compiled"], Compiled), list(last["warnings"])
    if last.get("kind") == "failed":
        raise VcutError(last["error"])
    raise VcutError(_died(process.returncode, TITLES[target.library], name, native, log))


def _died(code: int, title: str, name: str, native: list[str], log: Path) -> str:
    """Return one line for a builder that said nothing more."""
    if code == -9:  # SIGKILL; Windows has no such name
        return (
            f"{title} was killed while building {name}, most likely for want of memory (this machine has "
            f"{total_memory() / 1e9:.0f} GB): close other programs, or export smaller sizes; log: {log}"
        )
    return explain(title, name, native[-1:] or [f"the builder ended with {code}"], str(log))


def _entry(
    bundle: Bundle,
    name: str,
    written: Path,
    key: str,
    recipe: Recipe,
    compiled: Compiled,
    seconds: float,
) -> EngineEntry:
    """Describe a new engine; its name holds its own hash, so that it never takes the place of another one."""
    graph = bundle.manifest.graphs[name]
    graph_sha256, weights_sha256 = bundle.manifest.sources(name)
    digest = sha256(written)
    return EngineEntry(
        file=(written.parent / f"{name}.{digest[:12]}.engine").relative_to(bundle.root).as_posix(),
        bytes=written.stat().st_size,
        sha256=digest,
        key=key,
        graph=graph_sha256,
        weights=weights_sha256,
        inputs=graph.inputs,
        outputs=graph.outputs,
        profile=recipe.profile,
        activation_bytes=compiled.activation_bytes,
        weight_bytes=compiled.weight_bytes,
        layers=compiled.layers,
        build_seconds=round(seconds, 3),
    )


@contextmanager
def _new_files(folder: Path) -> Iterator[Callable[[str], Path]]:
    """Yield a function that gives a file to write an engine to.

    If the body ends well, all have taken their places by then (:func:`_publish`); otherwise nothing of them is left.
    """
    partials: list[Path] = []
    existed = folder.exists()

    def new(name: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        _drop_left_over(folder)
        partials.append(folder / f".{name}.partial-{os.getpid()}")
        return partials[-1]

    try:
        yield new
    except FileNotFoundError as error:
        raise VcutError(
            f"{error.filename} vanished while engines were built, so the bundle was moved or exported anew: "
            "run 'vcut build' again"
        ) from None
    except OSError as error:
        raise VcutError(f"writing the engines failed ({error.strerror or error}): check the disk") from error
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
        if not existed:
            for empty in (folder, folder.parent):
                if empty.is_dir() and not any(empty.iterdir()):
                    empty.rmdir()


def _drop_left_over(folder: Path) -> None:
    """Remove what a killed build could not: files of processes that are no more."""
    if os.name == "nt":  # where signal 0 is not a question
        return
    for partial in folder.glob(".*.partial-*"):
        try:
            os.kill(int(partial.name.rsplit("-", 1)[1]), 0)
        except ProcessLookupError:
            partial.unlink(missing_ok=True)
        except (ValueError, OSError):  # another user's, or not ours
            continue


def _publish(bundle: Bundle, target: str, engines: EngineSet, made: Mapping[Path, Path], since: float) -> None:
    """Move the new engines ``made`` (place by file) into place, replace the manifest, drop what it names no more.

    Replacing the manifest is one step of the file system: before it the bundle is the old one, after it the new one.
    """
    try:  # read again: another build may have finished meanwhile
        manifest = open_bundle(bundle.root, hashes=False, engines=False).manifest
    except BundleError as error:
        raise VcutError(f"the bundle changed while its engines were built: {error}") from None
    if manifest.graphs != bundle.manifest.graphs:
        raise VcutError(f"{bundle.root} was exported anew while its engines were built: run 'vcut build' again")
    manifest = msgspec.structs.replace(
        manifest, schema_version=SCHEMA_VERSION, engines={**manifest.engines, target: engines}
    )
    with tempfile.NamedTemporaryFile(dir=bundle.root, prefix=f".{MANIFEST}.", delete=False) as file:
        file.write(encode(manifest))
    partial, placed = Path(file.name), []
    try:
        partial.chmod(0o644)
        for written, place in made.items():
            if not place.exists():  # its name is its hash: what is there is the same engine
                placed.append(place)
                written.replace(place)
        partial.replace(bundle.root / MANIFEST)
        placed.clear()
    finally:
        partial.unlink(missing_ok=True)
        for place in placed:
            place.unlink(missing_ok=True)
    named = {bundle.path(entry) for entry in manifest.engine_files()}
    for path in (bundle.root / "engines" / target).glob("*.engine"):
        if path not in named and path.stat().st_mtime < since:  # a newer one is another build's, about to be named
            path.unlink(missing_ok=True)


def _check_room(bundle: Bundle, stale: tuple[str, ...]) -> None:
    """Refuse early what would fail after minutes: a full disk, a machine without the memory."""
    manifest = bundle.manifest
    graphs = [name for name in stale if name not in SHALLOW.values()]  # those take a hundredth of the UNet's weights
    weights = [manifest.weights[manifest.graphs[name].weights].bytes for name in graphs]
    free = shutil.disk_usage(bundle.root).free
    if sum(weights) * 1.05 > free:
        raise UsageError(
            f"the engines need {sum(weights) / 1e9:.1f} GB, {bundle.root} has {free / 1e9:.1f} GB free: free space"
        )
    need, have = max(weights, default=0) * _BYTES_PER_WEIGHT_BYTE, total_memory()
    if need > have:
        raise UsageError(
            f"building the engines needs about {need / 1e9:.0f} GB of memory, this machine has {have / 1e9:.0f} GB: "
            "build on a larger one, the bundle can be copied"
        )


def _timing_cache(target: Target) -> str | None:
    """TensorRT times kernels; TensorRT-RTX times none when it builds."""
    if target.library != "tensorrt":
        return None
    return str(cache_folder() / "timing" / f"{target.version}-{file_name(target.gpu or '')}.cache")


def _log_file(bundle: Bundle, target: Target, name: str) -> Path:
    folder = cache_folder() / "log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir())
    return folder / f"build-{bundle.root.resolve().name}-{target.name}-{name}-{os.getpid()}.log"


@contextmanager
def _following(log: Path, verbose: bool) -> Iterator[Callable[[], None]]:
    """Yield a function that copies what is new in the log to standard error."""
    position = 0

    def follow() -> None:
        nonlocal position
        if verbose and log.is_file():
            with log.open(encoding="utf-8", errors="replace") as file:
                file.seek(position)
                sys.stderr.write(file.read())
                position = file.tell()

    yield follow
