"""Compare the graphs and engines of a bundle with a reference, through Polygraphy's runners and comparison."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vcut_engines.verify_layers import Layer, find_layer
from vcut_engines.verify_runners import (
    Reference,
    Side,
    check_reference_memory,
    find_sides,
    load_polygraphy,
    reference_side,
)
from vcut_runtime.bundle import Bundle, open_bundle
from vcut_runtime.command_options import check_types, merge, option
from vcut_runtime.comparison import TOLERANCE, Arrays, allowed_levels, inputs_of, sample_inputs
from vcut_runtime.errors import UsageError, VcutError, first_line

Clock = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class VerifyOptions:
    """What is compared, and with what.

    Raises:
        UsageError: a value is impossible in every bundle.
    """

    backend: str = option("auto", "The backend to compare, or auto: every one that can run the bundle here.")
    reference: Reference = option(
        "onnxruntime",
        "What to compare with: the standard operators run one by one, by onnxruntime without any optimisation, or by "
        "numpy, which shares no code with ONNX Runtime and takes ten times as long.",
    )
    against: Path | None = option(
        None, "Take the reference's graphs from this bundle, which has the same inputs and outputs."
    )
    graphs: str | None = option(None, "Graphs to compare, such as condition,decode. [default: all]")
    layers: bool = option(
        False, "Of a graph that differs, find the first operator that does; engines do not show theirs.", "--layers"
    )
    work: Path | None = option(
        None,
        "Folder for inputs and references in Polygraphy's format. "
        "[default: a temporary one, kept if something differs]",
    )

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class OutputCheck:
    """An output beside the reference's.

    Attributes:
        name: of the output.
        error: the largest, relative to the reference's largest magnitude; of 8-bit values, in levels.
        tolerance: the largest error that is allowed, in the same unit.
        levels: whether the unit is a level of 8 bits.
        differs: whether Polygraphy finds it beyond the tolerance.
    """

    name: str
    error: float
    tolerance: float
    levels: bool
    differs: bool


@dataclass(frozen=True)
class GraphCheck:
    """A graph run by one backend beside the reference.

    Attributes:
        graph: its name.
        side: the backend, or the engines' target.
        outputs: in the graph's order.
        command: the ``polygraphy run`` that compares it again; None if nothing differs.
        layer: where it first differs, if that was asked for and can be found.
    """

    graph: str
    side: str
    outputs: tuple[OutputCheck, ...]
    command: str | None
    layer: Layer | None

    @property
    def first(self) -> OutputCheck | None:
        """The first output that differs."""
        return next((output for output in self.outputs if output.differs), None)


@dataclass(frozen=True)
class VerifyResult:
    """What a comparison found.

    Attributes:
        checks: one for each graph and backend.
        not_run: why the other backends and engines did not run here, by name.
        work: the folder with inputs and references; None if it was temporary and nothing differs.
    """

    checks: tuple[GraphCheck, ...]
    not_run: Mapping[str, str]
    work: Path | None


def verify(
    bundle: str | Path,
    options: VerifyOptions | None = None,
    *,
    clock: Clock = lambda name: nullcontext(),
    **keywords: Any,
) -> VerifyResult:
    """Run every graph of ``bundle`` with every backend and with the reference, on the same random inputs.

    Videos have the bundle's own sizes. An error is relative to the largest magnitude of the reference's output, within
    the tolerance of the bundle's precision. Of frames one level is free.

    Args:
        bundle: the bundle's folder.
        options: what is compared.
        clock: makes a context for each named stage.
        keywords: fields of :class:`VerifyOptions`, in the place of ``options``.

    Raises:
        BundleError: a bundle is damaged.
        UsageError: an option is impossible, or Polygraphy is not installed.
        VcutError: a graph does not run.
    """
    options = merge(VerifyOptions, options, keywords)
    opened = open_bundle(bundle)
    graphs = _chosen(opened, options.graphs)
    other = opened if options.against is None else open_bundle(options.against)
    _check_same(opened, other, graphs)
    for graph in graphs:
        check_reference_memory(other, graph)
    polygraphy = load_polygraphy()
    reference = reference_side(other, options.reference, polygraphy)
    sides, not_run = find_sides(opened, options.backend, polygraphy)
    work = _make_work(options.work)
    comparison = _Comparison(opened, reference, polygraphy, work, options.layers)
    checks: list[GraphCheck] = []
    kept = options.work is not None
    try:
        with polygraphy.logger.G_LOGGER.verbosity(polygraphy.logger.G_LOGGER.CRITICAL + 1):
            for graph in graphs:
                with clock(graph):
                    checks += comparison.check(graph, sides)
                if not kept and all(check.first is None for check in checks if check.graph == graph):
                    comparison.forget(graph)
        kept = kept or any(check.first for check in checks)
    finally:
        if not kept:
            shutil.rmtree(work, ignore_errors=True)
    return VerifyResult(tuple(checks), not_run, work if kept else None)


class _Comparison:
    """Runs the sides of a comparison and keeps their inputs and references in ``work``."""

    def __init__(self, bundle: Bundle, reference: Side, polygraphy: Any, work: Path, layers: bool) -> None:
        self._bundle, self._reference, self._polygraphy, self._work = bundle, reference, polygraphy, work
        self._layers = layers
        self._samples = sample_inputs(bundle.manifest, bundle.manifest.sizes)
        precisions = (bundle.manifest.precision, reference.bundle.manifest.precision)
        self._tolerance = max(TOLERANCE[precision] for precision in precisions)

    def check(self, graph: str, sides: Collection[Side]) -> list[GraphCheck]:
        """Compare ``graph`` on every side with the reference."""
        inputs = inputs_of(graph, self._samples, self._bundle.manifest)
        self._polygraphy.json.save_json([inputs], str(self._inputs(graph)))
        results = self._run(self._reference, graph, inputs)
        results.save(str(self._outputs(graph)))
        expected = results["reference"][0]
        names = [tensor.name for tensor in self._bundle.manifest.graphs[graph].outputs]
        checks = []
        for side in sides:
            outputs = self._compare(self._run(side, graph, inputs)[side.name][0], expected, names)
            first = next((output.name for output in outputs if output.differs), None)
            layer = self._layer(side, graph, inputs, first) if first and self._layers and side.markable else None
            command = self._command(side, graph, expected, names) if first else None
            checks.append(GraphCheck(graph, side.name, tuple(outputs), command, layer))
        return checks

    def forget(self, graph: str) -> None:
        """Remove the files of ``graph``."""
        self._inputs(graph).unlink()
        self._outputs(graph).unlink()

    def _inputs(self, graph: str) -> Path:
        return self._work / f"{graph}.inputs.json"

    def _outputs(self, graph: str) -> Path:
        return self._work / f"{graph}.reference.json"

    def _run(self, side: Side, graph: str, inputs: Arrays, model: bytes | None = None) -> Any:
        """Return Polygraphy's results of one run."""
        try:
            return self._polygraphy.comparator.Comparator.run([side.runner(graph, model)], data_loader=[inputs])
        except VcutError:
            raise
        except Exception as error:  # of Polygraphy, or of the library that it drives
            reason = first_line(error).removesuffix(" See log for details.").rstrip(".")
            log = f"; its log: {side.command(graph)}" if side.arguments and model is None else ""
            raise VcutError(f"{side.name} does not run {graph}: {reason}{log}") from None

    def _compare(self, actual: Any, expected: Any, names: list[str]) -> list[OutputCheck]:
        """Return the outputs of two runs beside each other."""
        checks = []
        for name in names:
            reference, value = np.asarray(expected[name]), np.asarray(actual[name])
            if value.shape != reference.shape or reference.size == 0 or reference.dtype.kind not in "fu":
                differs = not np.array_equal(value, reference)
                checks.append(OutputCheck(name, float("inf") if differs else 0.0, 0.0, False, differs))
                continue
            tolerance, unit = self._tolerance_of(reference)
            compare = self._polygraphy.comparator.SimpleCompareFunc(atol=tolerance * unit, rtol=0.0)
            with np.errstate(all="ignore"):  # it divides by zeros too
                result = compare(self._iteration(name, value), self._iteration(name, reference))[name]
            levels = reference.dtype == np.uint8
            checks.append(OutputCheck(name, result.max_absdiff / (unit or 1.0), tolerance, levels, not result))
        return checks

    def _iteration(self, name: str, value: np.ndarray) -> Any:
        return self._polygraphy.comparator.IterationResult({name: value}, runtime=0.0, runner_name=name)

    def _tolerance_of(self, reference: np.ndarray) -> tuple[float, float]:
        """Return the largest error that is allowed beside ``reference``, and its unit: a level, or the magnitude."""
        if reference.dtype == np.uint8:
            return allowed_levels(self._tolerance), 1.0
        return self._tolerance, float(np.abs(reference).max())

    def _layer(self, side: Side, graph: str, inputs: Arrays, output: str) -> Layer:
        onnx_graphs = self._polygraphy.onnx_graphs

        def differing(models: Mapping[str, Any], marks: list[str]) -> set[str]:
            marked = {
                name: onnx_graphs.ModifyOutputs(model, outputs=marks, copy=True)().SerializeToString()
                for name, model in models.items()
            }
            actual = self._run(side, graph, inputs, marked["actual"])[side.name][0]
            expected = self._run(self._reference, graph, inputs, marked["reference"])["reference"][0]
            return {check.name for check in self._compare(actual, expected, marks) if check.differs}

        files = {"actual": side.file(graph), "reference": self._reference.file(graph)}
        return find_layer(files, output, differing, self._polygraphy.onnx)

    def _command(self, side: Side, graph: str, expected: Any, names: list[str]) -> str:
        """Return the ``polygraphy run`` that compares the graph with the saved reference again."""
        allowed = [f"{name}:{math.prod(self._tolerance_of(np.asarray(expected[name]))):.9g}" for name in names]
        files = ["--load-inputs", str(self._inputs(graph)), "--load-outputs", str(self._outputs(graph))]
        return side.command(graph, *files, "--rtol", "0", "--atol", *allowed)


def _chosen(bundle: Bundle, names: str | None) -> list[str]:
    """Return the graphs to compare, in the manifest's order."""
    have = list(bundle.manifest.graphs)
    if names is None:
        return have
    asked = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in asked if name not in have]
    if unknown or not asked:
        raise UsageError(f"the bundle has no graph {', '.join(unknown) or names}: choose from {', '.join(have)}")
    return [name for name in have if name in asked]


def _check_same(bundle: Bundle, other: Bundle, graphs: Collection[str]) -> None:
    """Refuse a reference whose graphs take or give other tensors."""
    for graph in graphs:
        ours, theirs = bundle.manifest.graphs[graph], other.manifest.graphs.get(graph)
        if theirs is None or (ours.inputs, ours.outputs) != (theirs.inputs, theirs.outputs):
            lack = "has no" if theirs is None else "has other inputs or outputs of"
            raise UsageError(
                f"{other.root} {lack} {graph}: give --against a bundle of the same sizes, or choose --graphs"
            )


def _make_work(folder: Path | None) -> Path:
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="vcut-verify-"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {folder} ({error.strerror}): choose another --work") from None
    return folder.resolve()
