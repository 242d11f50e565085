"""Graphs are traced in processes of their own, whatever the threads of this one are doing."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
import time
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from tqdm import tqdm

from vcut_export.tracing import GraphSpec, _trace_in_child
from vcut_runtime.bundle.manifest import TensorSpec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there processes are forked")


def trace_in_child(path: Path) -> int | None:
    """Trace a linear layer in a forked process and return its exit code, None if it hangs."""
    spec = GraphSpec("toy", (TensorSpec("x", "float32", (2, 3)),), (TensorSpec("y", "float32", (2, 4)),))
    child = multiprocessing.get_context("fork").Process(
        target=_trace_in_child, args=(torch.nn.Linear(3, 4).eval(), spec, path), daemon=True
    )
    child.start()
    child.join(100)
    code = child.exitcode
    child.kill()
    return code


def test_a_child_does_not_wait_for_a_thread_that_it_does_not_have(tmp_path: Path) -> None:
    """tqdm's monitor holds its lock now and then; forked meanwhile, a child would wait for ever, and its parent too."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with tqdm.get_lock():
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        code = trace_in_child(tmp_path / "toy.onnx")
    finally:
        done.set()
        thread.join()
    assert code == 0
    assert [value.name for value in ir.load(tmp_path / "toy.onnx").graph.outputs] == ["y"]


def test_a_child_leaves_its_parents_garbage_alone(tmp_path: Path) -> None:
    """A session of ONNX Runtime in a cycle, collected in a child, waits for the threads that it had in the parent."""
    parent = os.getpid()

    class Session:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            if os.getpid() != parent:
                time.sleep(1000)

    gc.collect()  # the next collection is the child's
    Session()
    assert trace_in_child(tmp_path / "toy.onnx") == 0
