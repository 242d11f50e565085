"""Graphs are traced in processes of their own, whatever the threads of this one are doing."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from tqdm import tqdm

from vcut_export.tracing import GraphSpec, _trace_in_child
from vcut_runtime.manifest import TensorSpec


@pytest.mark.skipif(sys.platform != "linux", reason="only there processes are forked")
def test_a_child_does_not_wait_for_a_thread_that_it_does_not_have(tmp_path: Path) -> None:
    """tqdm's monitor holds its lock now and then; forked meanwhile, a child would wait for ever, and its parent too."""
    spec = GraphSpec("toy", (TensorSpec("x", "float32", (2, 3)),), (TensorSpec("y", "float32", (2, 4)),))
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with tqdm.get_lock():
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        child = multiprocessing.get_context("fork").Process(
            target=_trace_in_child, args=(torch.nn.Linear(3, 4).eval(), spec, tmp_path / "toy.onnx"), daemon=True
        )
        child.start()
        child.join(100)
        code = child.exitcode
        child.kill()
    finally:
        done.set()
        thread.join()
    assert code == 0
    assert [value.name for value in ir.load(tmp_path / "toy.onnx").graph.outputs] == ["y"]
