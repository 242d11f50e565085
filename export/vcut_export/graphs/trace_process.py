"""A process that traces step graphs on another core. It needs no weights.

It is a new process and not a fork. A fork copies locks that the parent's threads hold, and objects whose destructors
wait for threads that the child does not have.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import onnx_ir as ir

from vcut_export.graphs.steps import fold_empty_steps, graph_spec
from vcut_export.graphs.tracing import trace_structure
from vcut_export.libraries import quiet_libraries
from vcut_export.plan import Plan
from vcut_runtime.errors import VcutError
from vcut_runtime.parent import end_with_parent


class TraceProcess:
    """Traces graphs of a plan in the background.

    Args:
        plan: of the bundle.
        names: the step graphs to trace.
        folder: where its own folder is made, which is gone after :meth:`close`.
    """

    def __init__(self, plan: Plan, names: Sequence[str], folder: Path) -> None:
        self.names = names
        self._folder = tempfile.TemporaryDirectory(dir=folder, prefix="trace-")
        self._log = (Path(self._folder.name) / "log").open("w+", encoding="utf-8", errors="replace")
        command = [sys.executable, "-P", "-m", "vcut_export.graphs.trace_process", self._folder.name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._log)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # a process that has ended is reported by ``models``
            pickle.dump((plan, list(names)), self._process.stdin)  # from this process to its own child
            self._process.stdin.flush()  # it stays open: the child ends when it is closed

    def models(self) -> dict[str, ir.Model]:
        """Wait, and return the graphs without weights.

        Raises:
            VcutError: the process failed.
        """
        if self._process.wait():
            self._log.seek(0)
            lines = [line.strip() for line in self._log if line.strip()]
            reason = lines[-1] if lines else f"its process ended with {self._process.returncode}"
            raise VcutError(f"tracing {', '.join(self.names)} failed ({reason}): free memory, or report it")
        return {name: ir.load(Path(self._folder.name) / f"{name}.onnx") for name in self.names}

    def close(self) -> None:
        """End the process, whatever state it is in."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._log.close()
        self._folder.cleanup()


def main() -> None:
    """Trace the graphs of the plan on standard input into the folder given as argument."""
    plan, names = pickle.load(sys.stdin.buffer)
    end_with_parent()
    with quiet_libraries():
        steps = fold_empty_steps(plan)
        for name in names:
            spec = graph_spec(plan, name, len(steps.projection.bias))
            model = trace_structure(steps.modules[name], spec)
            for weight, value in model.graph.initializers.items():
                if value.const_value is None:  # a placeholder of the right type: the parent has the values
                    assert value.dtype is not None
                    assert value.shape is not None
                    value.const_value = ir.ExternalTensor("-", 0, 0, value.dtype, shape=value.shape, name=weight)
            ir.save(model, Path(sys.argv[1]) / f"{name}.onnx")
    os._exit(0)  # without torch's teardown


if __name__ == "__main__":
    main()
