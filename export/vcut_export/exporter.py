"""Checkpoint to bundle: plan, keep what is still valid, make the rest, verify, publish."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from vcut_export.checkpoint import resolve
from vcut_export.checkpoint.hub import download
from vcut_export.checkpoint.weights import check_weights
from vcut_export.options import ExportOptions
from vcut_export.plan import Plan, make_manifest, make_plan
from vcut_export.reuse import existing, kept_graphs, manifest_now, place
from vcut_runtime.backends.cpu_limits import CpuModel, check_cpu
from vcut_runtime.bundle import Bundle, check_hashes, open_bundle
from vcut_runtime.bundle.claims import recover
from vcut_runtime.bundle.manifest import Manifest, graph_files
from vcut_runtime.bundle.transaction import staging
from vcut_runtime.command_options import merge
from vcut_runtime.errors import UsageError, path_errors
from vcut_runtime.host import peak_memory

Stage = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class ExportResult:
    """What an export did.

    Attributes:
        bundle: the bundle's folder.
        manifest: its manifest.
        rebuilt: the graphs made in this call; empty if the bundle already was what was asked for.
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


def export(
    model: str,
    output: str | Path | None = None,
    options: ExportOptions | None = None,
    *,
    verify: bool = False,
    force: bool = False,
    stage: Stage = lambda name: nullcontext(),
    **keywords: Any,
) -> ExportResult:
    """Compile ``model`` into a bundle of ONNX graphs at ``output``.

    A graph already there and made from the same things is kept. The new bundle is made beside the old one and takes
    its place when it is whole.

    Args:
        model: preset, diffusers folder, single file or hub id.
        output: the bundle's folder; ``vcut-<model>`` by default.
        options: what the bundle is made like.
        verify: compare every graph with the unmodified torch modules.
        force: rebuild everything, also over a bundle of another model.
        stage: called with a stage's name, returns a context manager around that stage.
        keywords: fields of :class:`~vcut_export.options.ExportOptions`, in the place of ``options``.

    Raises:
        UsageError: an option is impossible. This is checked before any work.
        VcutError: the export failed, and the output is as it was; or this CPU cannot run ``verify``.
    """
    plan = plan_export(model, merge(ExportOptions, options, keywords))
    return export_plan(plan, output, verify=verify, force=force, stage=stage)


def plan_export(model: str, options: ExportOptions) -> Plan:
    """Resolve ``model`` and decide everything about its bundle; reads no weights."""
    with path_errors(model, "the model"):
        checkpoint = resolve(
            model,
            revision=options.revision,
            random_weights=options.random_weights,
            seed=options.seed,
            preset=options.preset,
            unet=options.unet,
        )
    return make_plan(checkpoint, options)


def export_plan(
    plan: Plan,
    output: str | Path | None = None,
    *,
    verify: bool = False,
    force: bool = False,
    stage: Stage = lambda name: nullcontext(),
) -> ExportResult:
    """Make the bundle that ``plan`` describes; see :func:`export`."""
    clock = _StageTimes(stage)
    if verify:
        model = CpuModel(plan.precision, plan.operators, plan.geometry, plan.checkpoint.configs["unet"])
        check_cpu(model, plan.geometry.sizes, plan.keys)
    if plan.checkpoint.hub is None:
        with path_errors(plan.checkpoint.id, "the model"):
            check_weights(plan.checkpoint, plan.precision)
    with path_errors(output or "", "the output"):
        root = place(output, plan)
        recover(root)
        old = existing(root, plan, force)
    kept = {} if force else kept_graphs(old, plan)
    stale = tuple(name for name in plan.keys if name not in kept)
    errors: dict[str, float] = {}
    weights = {} if old is None else {graph.weights: old.weights[graph.weights] for graph in kept.values()}
    manifest = None
    if old is not None and not stale:
        manifest = make_manifest(plan, old.sca_bias, kept, weights, old)
    if manifest is None or manifest != old:
        with staging(root) as new:
            (new.folder / "onnx").mkdir()
            carried = [*graph_files(*kept.values()), *weights.values()]
            new.keep(carried)
            if manifest is None:
                if old is not None:  # what is carried over is checked anew
                    check_hashes(Bundle(root, old), carried)
                plan = _with_weights(plan, clock)
                made = _make_graphs(plan, root, new.folder / "onnx", stale, clock)
                slices = made.slices if old is None or made.slices is not None else old.sca_bias
                assert slices is not None, "without an old bundle every graph is made"
                graphs, weights = {**kept, **made.graphs}, {**weights, **made.weights}
                manifest = make_manifest(plan, slices, graphs, weights, old)
            new.keep(manifest.engine_files())
            new.write(manifest)
            errors = _verify(new.folder, plan, clock) if verify else {}
            with new.alone():  # engines and schedules may have been added meanwhile
                manifest = make_manifest(plan, manifest.sca_bias, manifest.graphs, manifest.weights, manifest_now(root))
                new.keep(manifest.engine_files())
                new.write(manifest)
                new.publish()
    elif verify:
        errors = _verify(root, plan, clock)
    return ExportResult(root, manifest, stale, errors, clock.seconds, peak_memory())


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
        "bundle_bytes": sum(entry.bytes for entry in manifest.files()),
        "height": manifest.height,
        "width": manifest.width,
        "frames": manifest.frames,
        "dynamic": msgspec.to_builtins(manifest.dynamic),
        "precision": manifest.precision,
        "operators": manifest.operators,
        "tca": manifest.tca,
        "steps": manifest.steps,
        "cut_step": manifest.cut_step,
    }


@dataclass
class _StageTimes:
    """Times stages, and shows them."""

    stage: Stage
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        with self.stage(name):
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _make_graphs(plan: Plan, root: Path, folder: Path, stale: tuple[str, ...], clock: _StageTimes) -> Any:
    """Make the stale graphs in ``folder``; torch and diffusers are imported only now."""
    with clock("prepare"):
        from vcut_export.checkpoint.weights import check_names_and_adapters, weight_bytes
        from vcut_export.graphs.maker import make_graphs
        from vcut_export.libraries import quiet_libraries

        need, parent = weight_bytes(plan.checkpoint, plan.precision), root.absolute().parent
        free = shutil.disk_usage(parent).free
        if need > free:
            raise UsageError(
                f"the bundle needs {need / 1e9:.1f} GB, {parent} has {free / 1e9:.1f} GB free: free space or choose "
                "another --output"
            )
    with quiet_libraries():
        with clock("prepare"):
            check_names_and_adapters(plan.checkpoint, plan.precision)
        return make_graphs(plan, folder, stale, clock)


def _verify(root: Path, plan: Plan, clock: _StageTimes) -> dict[str, float]:
    plan = _with_weights(plan, clock)
    from vcut_export.libraries import quiet_libraries
    from vcut_export.verify import verify_bundle

    bundle = open_bundle(root)
    with quiet_libraries():
        return verify_bundle(bundle, plan, clock)


def _with_weights(plan: Plan, clock: _StageTimes) -> Plan:
    if plan.checkpoint.hub is None or plan.checkpoint.seed is not None:
        return plan
    with clock("download"):
        return replace(plan, checkpoint=download(plan.checkpoint, plan.precision))
