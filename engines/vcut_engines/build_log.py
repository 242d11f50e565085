"""What the library says while it builds: its log, its progress, and its errors in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcut_runtime.errors import first_line

OnPhase = Callable[[str, int, int], None]
# Words of warnings that no user can act on.
_NOISE = (
    "weights are never used",
    "cuda lazy loading",
    "int64",
    "unable to determine gpu memory usage",
    "timing cache",
    "was built with",
    "subnormal",
    "doesn't support weights",
)


@dataclass
class BuildLog:
    """Writes every message to a file, and keeps errors, warnings and the engine's facts."""

    path: Path

    def __post_init__(self) -> None:
        self.file = self.path.open("w", encoding="utf-8")
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.facts: dict[str, int] = {}
        self.layers = 0

    def __call__(self, severity: str, message: str) -> None:
        """Take one message."""
        self.file.write(f"[{severity}] {message}\n")
        self.file.flush()  # the log must be complete if this process is killed
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(" ".join(message.split()))
        elif severity == "WARNING" and not any(words in message.lower() for words in _NOISE):
            self.warnings.append(" ".join(message.split()))
        elif memory := re.search(r"Total (Activation|Weights) Memory: (\d+)", message):
            self.facts[memory[1]] = int(memory[2])
        elif message.startswith("Engine Layer Information"):
            self.layers = len(re.findall(r"^Layer\(", message, re.MULTILINE))


def progress_monitor(trt: Any, on_phase: OnPhase) -> Any:
    """Return an ``IProgressMonitor`` that reports the innermost phase."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.open: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.open[phase_name] = num_steps
            on_phase(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            on_phase(phase_name, step + 1, self.open.get(phase_name, 0))
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.open.pop(phase_name, None)
            if self.open:
                name, steps = list(self.open.items())[-1]
                on_phase(name, 0, steps)

    return Monitor()


def explain(title: str, graph: str, errors: list[str], log: str) -> str:
    """Return one line for a failed build: the library's reason with its node, and the fix."""
    reason = _reason(errors)
    text = reason.lower()
    if any(word in text for word in ("memory", "alloc", "outofmemory")):
        advice = "free memory, or export a smaller --height, --width or --frames"
    elif "implementation" in text or "unsupported" in text or "not supported" in text:
        advice = "update the library, or choose another --precision"
    elif "cuda" in text and "driver" in text:
        advice = "update the NVIDIA driver"
    else:
        advice = "update the library, or report it with the log"
    return f"{title} cannot build {graph}: {reason}; {advice}; log: {log}"


def explain_parser(title: str, parser: Any, graph: str, onnx: str, log: str) -> str:
    """Return one line for a graph that the library's ONNX parser refuses: the node, the reason and the fix."""
    if not parser.num_errors:
        return f"{title} cannot read {Path(onnx).name}: export the bundle again with --force"
    error = parser.get_error(0)
    node, operator, reason = (_text(error, name) for name in ("node_name", "node_operator", "desc"))
    if reason in ("", "false"):
        reason = "the library has no such operator"
    where = f"the node {node} ({operator})" if node else "the graph"
    return f"{title} does not support {where} of {graph}: {reason}; update the library, or report it with the log {log}"


def _text(error: Any, name: str) -> str:
    try:
        return " ".join(str(getattr(error, name)()).split())
    except AttributeError:  # an older library
        return ""


def _reason(errors: list[str]) -> str:
    """Return the message that names a node, else the first one: later ones repeat that the build failed."""
    if not errors:
        return "it gave no reason"
    named = next((error for error in errors if "node" in error.lower()), None)
    message = re.sub(r"\[ONNX Layer: [^\]]*\]", "", named or first_line(errors[0]))
    return message if len(message) <= 400 else f"{message[:400]} ..."
