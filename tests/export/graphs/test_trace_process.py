"""Tracing in a process without weights gives the graphs that tracing the loaded model gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from conftest import FP32
from models import planned
from vcut_export import export, resolve
from vcut_export.checkpoint import weights
from vcut_export.graphs import maker, trace_process
from vcut_export.graphs.simplify import TRANSPOSED
from vcut_export.graphs.steps import fold_empty_steps, fold_steps, graph_spec
from vcut_export.graphs.trace_process import TraceProcess
from vcut_export.graphs.tracing import attach_weights, trace, trace_structure, weights_of
from vcut_export.libraries import quiet_libraries
from vcut_export.plan import Plan
from vcut_runtime import VcutError

# Options that take every path of a step: kernels for the CPU, parts, shallow steps and folded TCA.
OPTIONS: dict[str, Any] = {"tca": "fold", "deep_cache": True, "small_gpu": True, "steps": 2}
SHALLOW = "semantic_binding_shallow"


@pytest.fixture(scope="module")
def plan(small_checkpoint: Path) -> Plan:
    return planned(resolve(str(small_checkpoint)), **FP32, **OPTIONS)


def serialized(model: ir.Model) -> bytes:
    """Return the graph in one form, whatever the order of its initializers in memory; weights are their values."""
    initializers = model.graph.initializers
    for name in sorted(initializers):
        initializers[name] = initializers.pop(name)
    model.producer_name = model.producer_version = None
    return ir.to_proto(model).SerializeToString(deterministic=True)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_graph_is_the_one_traced_here(precision: str, small_checkpoint: Path, tmp_path: Path) -> None:
    options = {"precision": precision, "operators": "cpu" if precision == "fp32" else "gpu"}
    plan = planned(resolve(str(small_checkpoint)), **{**OPTIONS, **options})
    process = TraceProcess(plan, [SHALLOW], tmp_path)
    try:
        with quiet_libraries():
            unet = weights.load_unet(plan.checkpoint, plan.precision, weights.torch_dtype(plan.precision))
            steps = fold_steps(unet, plan)
            spec = graph_spec(plan, SHALLOW, len(steps.projection.bias))
            here = attach_weights(
                trace_structure(fold_empty_steps(plan).modules[SHALLOW], spec), steps.modules[SHALLOW]
            )
            loaded = trace(steps.modules[SHALLOW], spec)
        there = process.models()[SHALLOW]
        placeholders = [v.const_value for v in there.graph.initializers.values() if v.const_value is not None]
        assert any(isinstance(tensor, ir.ExternalTensor) for tensor in placeholders)  # weights have no values there
        attach_weights(there, steps.modules[SHALLOW])
        assert serialized(there) == serialized(here)
        # The loaded model has the same nodes and weights; constants may have other names.
        assert [(n.name, n.op_type) for n in there.graph] == [(n.name, n.op_type) for n in loaded.graph]
        named = set(weights_of(steps.modules[SHALLOW]))
        assert {n for n in there.graph.initializers if n.removesuffix(TRANSPOSED) in named} == {
            n for n in loaded.graph.initializers if n.removesuffix(TRANSPOSED) in named
        }
    finally:
        process.close()


def test_a_failure_is_one_line_with_its_reason(plan: Plan, tmp_path: Path) -> None:
    process = TraceProcess(plan, ["no_such_graph"], tmp_path)
    try:
        with pytest.raises(VcutError, match=r"^tracing no_such_graph failed \(KeyError: 'no_such_graph'\)") as caught:
            process.models()
        assert "\n" not in str(caught.value)
    finally:
        process.close()


def test_a_killed_process_is_a_failure(plan: Plan, tmp_path: Path) -> None:
    process = TraceProcess(plan, [SHALLOW], tmp_path)
    process._process.kill()
    try:
        with pytest.raises(VcutError, match=f"tracing {SHALLOW} failed .* ended with -9.*: free memory"):
            process.models()
    finally:
        process.close()


def test_close_ends_the_process_and_leaves_no_file(plan: Plan, tmp_path: Path) -> None:
    process = TraceProcess(plan, [SHALLOW], tmp_path)
    assert process._process.poll() is None
    assert len(list(tmp_path.iterdir())) == 1
    process.close()
    assert process._process.poll() is not None
    assert list(tmp_path.iterdir()) == []


def content(bundle: Path) -> dict[str, bytes]:
    return {str(path.relative_to(bundle)): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def test_one_core_traces_alone_and_makes_the_same_bundle(
    small_checkpoint: Path, deep_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    monkeypatch.setattr(maker, "TraceProcess", start)
    options: dict[str, Any] = {**FP32, "steps": 7, "cut_step": 5, "deep_cache": True}  # those of deep_bundle
    export(str(small_checkpoint), tmp_path / "bundle", **options)
    assert content(tmp_path / "bundle") == content(deep_bundle)


def test_a_failing_process_fails_the_export_and_leaves_nothing(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(trace_process.sys, "executable", "/bin/false")
    with pytest.raises(VcutError, match="tracing quality_improvement failed"):
        export(str(small_checkpoint), tmp_path / "bundle", **FP32)
    assert list(tmp_path.iterdir()) == []


def test_a_script_without_a_main_guard_exports(small_checkpoint: Path, tmp_path: Path) -> None:
    """The process runs a module of its own and never imports the caller's script."""
    script = tmp_path / "compile.py"
    script.write_text(
        "import sys\n"
        "from vcut_export import export\n"
        "print('started')\n"
        "result = export(sys.argv[1], sys.argv[2], precision='fp32', tca='fold')\n"
        "print(len(result.rebuilt))\n"
    )
    command = [sys.executable, str(script), str(small_checkpoint), str(tmp_path / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["started", "4"]
