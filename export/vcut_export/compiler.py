"""Checkpoint to bundle."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from vcut_engines.build import BuildResult, Progress, build
from vcut_engines.build import summary as engine_summary
from vcut_engines.targets import Engines, choose_target
from vcut_export.checkpoint import resolve
from vcut_export.plan import DEFAULT_STEPS, WEIGHTS, Plan, make_manifest, make_plan
from vcut_export.weights import check_weights, download
from vcut_runtime.bundle import MANIFEST, Bundle, check_hashes, open_bundle
from vcut_runtime.errors import BundleError, UsageError, VcutError
from vcut_runtime.machine import peak_memory
from vcut_runtime.manifest import Entry, FileEntry, GraphEntry, Manifest, Precision, Tca, encode
from vcut_runtime.onnxruntime_backend import check_cpu

Stage = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class ExportResult:
    """What an export did.

    Attributes:
        bundle: the bundle's folder.
        manifest: its manifest.
        rebuilt: the graphs made in this call; empty if the bundle already was what was asked for.
        engines: what the engines' build did, None if none were asked for.
        errors: by graph, the largest error relative to the output's largest magnitude (``verify`` only).
        seconds: duration by stage.
        peak_memory: resident, in bytes, of this process or of its largest child.
    """

    bundle: Path
    manifest: Manifest
    rebuilt: tuple[str, ...]
    errors: Mapping[str, float]
    seconds: Mapping[str, float]
    peak_memory: int
    engines: BuildResult | None = None


def export(
    model: str,
    output: str | Path | None = None,
    *,
    revision: str | None = None,
    random_weights: bool = False,
    seed: int = 0,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    steps: int = DEFAULT_STEPS,
    cut_step: int | Literal["none"] | None = None,
    precision: Precision | None = None,
    tca: Tca = "remove",
    low_memory: bool = False,
    deep_cache: bool = False,
    decode_chunk: int | None = None,
    dynamic: Mapping[str, tuple[int, int]] | None = None,
    engines: Engines = "none",
    gpu: str | None = None,
    verify: bool = False,
    force: bool = False,
    verbose: bool = False,
    stage: Stage = lambda name: nullcontext(),
    progress: Progress = lambda graph, phase, done, total: None,
) -> ExportResult:
    """Compile ``model`` into a bundle at ``output``.

    A graph already there and made from the same things is kept. The new bundle is made beside the old one and takes
    its place when it is whole.

    Args:
        model: preset, diffusers folder or hub id.
        output: the bundle's folder; ``vcut-<model>`` by default.
        revision: hub revision.
        random_weights: take the architecture only, and seeded random weights.
        seed: of random weights.
        height: pixels; the model's default if None, like ``width``, ``frames`` and ``precision``.
        width: pixels.
        frames: frames of the video.
        steps: default number of denoising steps of the bundle.
        cut_step: default first quality improvement step; 17 of 25, in proportion, if None; ``"none"`` never cuts.
        precision: of the network bodies.
        tca: ``remove`` temporal cross-attention (the paper) or ``fold`` its constant (exact).
        low_memory: for GPUs with little memory: a guided step takes a third less, decoding goes in smaller chunks.
        deep_cache: compile shallow steps too, which reuse the deep layers' output of an earlier step; a run chooses how
            often, see ``cache_interval`` of :class:`vcut_runtime.Pipeline`.
        decode_chunk: frames decoded at a time; by default what takes no more memory than a guided step.
        dynamic: least and most of the ``frames``, ``height`` and ``width`` that a run may choose; the sizes above are
            then what it does by default.
        engines: build them too, once the graphs are in place; see :func:`vcut_engines.choose_target`.
        gpu: what the engines are for; see there.
        verify: compare every graph with the unmodified torch modules.
        force: rebuild everything, also over a bundle of another model.
        verbose: write the engine builder's log to standard error.
        stage: called with a stage's name, returns a context manager around that stage.
        progress: of the engines, see :func:`vcut_engines.build`.

    Raises:
        UsageError: impossible options, found before any work; so is a ``verify`` that the CPU cannot run (VcutError).
        VcutError: the export failed; the output is as it was. Or the engines failed; the bundle is whole without them.
    """
    clock = _Clock(stage)
    checkpoint = resolve(model, revision=revision, random_weights=random_weights, seed=seed)
    plan = make_plan(
        checkpoint,
        height=height,
        width=width,
        frames=frames,
        steps=steps,
        cut_step=None if cut_step == "none" else cut_step,
        never_cut=cut_step == "none",
        precision=precision,
        tca=tca,
        low_memory=low_memory,
        deep_cache=deep_cache,
        decode_chunk=decode_chunk,
        dynamic=dynamic,
    )
    choose_target(engines, gpu, plan.precision)
    if verify:
        check_cpu(make_manifest(plan, (), {}, {}), plan.sizes)
    if checkpoint.hub is None:
        check_weights(checkpoint, plan.precision)
    root = Path(f"vcut-{checkpoint.id.rsplit('/')[-1]}") if output is None else Path(output)
    root = _place(root)
    old = _existing(root, plan, force)
    kept = {} if old is None or force else _kept(old, plan)
    stale: tuple[str, ...] = tuple(graph for graph in plan.keys if graph not in kept)
    manifest = None if stale or old is None else make_manifest(plan, old.sca_bias, kept, old.weights, old.engines)
    errors: dict[str, float] = {}
    if manifest is None or manifest != old:
        with _staging(root) as partial:
            (partial / "onnx").mkdir()
            if stale and old is not None:  # what is carried over is vouched for anew
                check_hashes(Bundle(root, old), [*kept.values(), *(old.weights[g.weights] for g in kept.values())])
            weights = _carry(root, partial, old, kept)
            if manifest is None:
                manifest = _build(plan, root, partial, old, kept, weights, stale, clock)
            _link(root, partial, manifest.engine_files())
            (partial / MANIFEST).write_bytes(encode(manifest))
            open_bundle(partial, hashes=False)
            errors = _verify(partial, plan, clock) if verify else {}
            _swap(partial, root)
    elif verify:
        errors = _verify(root, plan, clock)
    result = ExportResult(root, manifest, stale, errors, clock.seconds, peak_memory())
    if engines == "none":
        return result
    try:
        built = build(root, engines=engines, gpu=gpu, force=force, verbose=verbose, progress=progress)
    except VcutError as error:
        raise type(error)(f"{error} ({root} is whole, without these engines)") from None
    manifest = open_bundle(root, hashes=False).manifest
    seconds = {**clock.seconds, **{f"engine {name}": value for name, value in built.seconds.items()}}
    return replace(result, manifest=manifest, engines=built, seconds=seconds, peak_memory=peak_memory())


@dataclass
class _Clock:
    """Times stages, and shows them."""

    stage: Stage
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        with self.stage(name):
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _place(root: Path) -> Path:
    """Return where the bundle really goes. Raises UsageError where a folder could not be put in place at the end."""
    real = root.resolve()
    if real == Path.cwd() or root.is_mount():
        raise UsageError(f"{root} is the current folder or a mount point: name a folder inside it as --output")
    return real if root.is_symlink() else root


def _existing(root: Path, plan: Plan, force: bool) -> Manifest | None:
    """Return the manifest of the bundle at ``root``, None where there is nothing to keep.

    Raises:
        UsageError: replacing what is there would destroy something that is no bundle, or another model's.
    """
    if not root.exists():
        return None
    if not root.is_dir():
        raise UsageError(f"{root} is a file: choose another --output")
    if not any(root.iterdir()):
        return None
    foreign = sorted(path.name for path in root.iterdir() if path.name not in (MANIFEST, "onnx", "engines"))
    if foreign or not _is_ours(root / MANIFEST):
        what = foreign[0] if foreign else "something else than a vcut bundle"
        raise UsageError(f"{root} holds {what}, which vcut did not put there: choose another --output")
    try:
        manifest = open_bundle(root, hashes=False).manifest
    except BundleError as error:
        if force:
            return None
        raise UsageError(f"{str(error).removesuffix(' with --force')}; --force replaces this one") from None
    there, new = manifest.model, plan.checkpoint
    if (there.id, there.random_weights) != (new.id, new.seed is not None) and not force:
        kind = " with random weights" if there.random_weights else ""
        raise UsageError(
            f"{root} holds a bundle of {there.id}{kind}: choose another --output, or replace it with --force"
        )
    return manifest


def _is_ours(manifest: Path) -> bool:
    """Tell a manifest of ours, even a damaged one, from another program's file of that name."""
    try:
        return b'"vcut_version"' in manifest.read_bytes()
    except OSError:
        return False


def _kept(old: Manifest, plan: Plan) -> dict[str, GraphEntry]:
    """Graphs of the old bundle made from the same things; the UNet's graphs go together, they share weights."""
    kept = {name: graph for name, graph in old.graphs.items() if graph.key == plan.keys.get(name)}
    steps = [name for name in plan.keys if WEIGHTS[name] == WEIGHTS["semantic_binding"]]
    if not all(name in kept for name in steps):
        kept = {name: graph for name, graph in kept.items() if name not in steps}
    return kept


def _carry(root: Path, partial: Path, old: Manifest | None, kept: Mapping[str, GraphEntry]) -> dict[str, FileEntry]:
    """Take the kept graphs' files into the new bundle, without copying where the disk allows."""
    if old is None:
        return {}
    weights = {graph.weights: old.weights[graph.weights] for graph in kept.values()}
    _link(root, partial, [*kept.values(), *weights.values()])
    return weights


def _link(root: Path, partial: Path, entries: Iterable[Entry]) -> None:
    """Take files of the bundle at ``root`` into ``partial``, without copying where the disk allows."""
    for entry in entries:
        target = partial / entry.file
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(root / entry.file, target)
        except OSError:
            shutil.copyfile(root / entry.file, target)


def _build(
    plan: Plan,
    root: Path,
    partial: Path,
    old: Manifest | None,
    kept: Mapping[str, GraphEntry],
    weights: Mapping[str, FileEntry],
    stale: tuple[str, ...],
    clock: _Clock,
) -> Manifest:
    """Make the stale graphs in ``partial`` and return the manifest of old and new ones."""
    plan = _with_weights(plan, clock)
    with clock("prepare"):  # importing torch and diffusers takes most of it
        from vcut_export.build import build, quiet_libraries, weight_bytes

        _check_disk(root, weight_bytes(plan))
    with quiet_libraries():
        built = build(plan, partial / "onnx", stale, clock)
    slices = built.slices
    if slices is None:
        assert old is not None, "without an old bundle every graph is built"
        slices = old.sca_bias
    engines = {} if old is None else old.engines
    return make_manifest(plan, slices, {**kept, **built.graphs}, {**weights, **built.weights}, engines)


def _verify(root: Path, plan: Plan, clock: _Clock) -> dict[str, float]:
    plan = _with_weights(plan, clock)
    from vcut_export.build import quiet_libraries
    from vcut_export.verify import verify_bundle

    bundle = open_bundle(root)
    with quiet_libraries():
        return verify_bundle(bundle, plan, clock)


def _with_weights(plan: Plan, clock: _Clock) -> Plan:
    if plan.checkpoint.hub is None or plan.checkpoint.seed is not None:
        return plan
    with clock("download"):
        return replace(plan, checkpoint=download(plan.checkpoint, plan.precision))


def _check_disk(root: Path, need: int) -> None:
    """Raises UsageError if ``need`` bytes will not fit where ``root`` is going to be."""
    parent = root.absolute().parent
    free = shutil.disk_usage(parent).free
    if need > free:
        raise UsageError(
            f"the bundle needs {need / 1e9:.1f} GB, {parent} has {free / 1e9:.1f} GB free: free space or choose "
            "another --output"
        )


@contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """A hidden folder beside ``root`` that vanishes unless it is renamed."""
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}.partial-"))
    except OSError as error:
        raise UsageError(f"cannot write beside {root} ({error.strerror}): choose another --output") from None
    try:
        yield partial
    except OSError as error:
        raise VcutError(f"writing the bundle failed ({error.strerror or error}): check the disk") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _swap(partial: Path, root: Path) -> None:
    """Put ``partial`` where ``root`` is; an old bundle steps aside first and is then removed."""
    partial.chmod(0o755)
    if not root.exists():
        partial.rename(root)
        return
    aside = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}.replaced-"))
    try:
        root.rename(aside / root.name)
        partial.rename(root)
    except BaseException:  # an interrupt between the two must not cost the old bundle
        if not root.exists():
            (aside / root.name).rename(root)
        aside.rmdir()  # empty again; where it is not, the old bundle in it must stay
        raise
    shutil.rmtree(aside, ignore_errors=True)


def summary(result: ExportResult) -> dict[str, Any]:
    """Return ``result`` as what ``--json`` prints."""
    manifest = result.manifest
    return {
        "bundle": str(result.bundle),
        "model": manifest.model.id,
        "rebuilt": list(result.rebuilt),
        "errors": dict(result.errors),
        "seconds": {name: round(seconds, 3) for name, seconds in result.seconds.items()},
        "peak_memory_bytes": result.peak_memory,
        "engines": None if result.engines is None else engine_summary(result.engines),
        "bundle_bytes": sum(entry.bytes for entry in manifest.files()),
        "height": manifest.height,
        "width": manifest.width,
        "frames": manifest.frames,
        "dynamic": msgspec.to_builtins(manifest.dynamic),
        "precision": manifest.precision,
        "tca": manifest.tca,
        "steps": manifest.steps,
        "cut_step": manifest.cut_step,
    }
