"""Result files: which kinds there are, how they are read, what they say about their origin, and their tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from vcut_bench.numbers import Numbers
from vcut_runtime.errors import UsageError


@dataclass(frozen=True)
class Kind:
    """A kind of result: its title, and the module whose ``numbers`` says what its tables are."""

    title: str
    module: str


# In the order of the report.
KINDS: Mapping[str, Kind] = {
    "latency": Kind("Latency", "vcut_bench.latency"),
    "fidelity": Kind("Fidelity", "vcut_bench.fidelity"),
    "tiny": Kind("Quality of svd-tiny", "vcut_bench.tiny_numbers"),
    "vbench": Kind("The paper's metrics", "vcut_bench.vbench"),
    "macs": Kind("Parameters and MACs", "vcut_bench.macs"),
    "memory": Kind("Memory", "vcut_bench.memory"),
    "export": Kind("Compiling", "vcut_bench.export_cost"),
    "seams": Kind("Seams of decoded chunks", "vcut_bench.seams"),
}


def load(path: Path) -> dict[str, Any]:
    """Read a result.

    Raises:
        UsageError: the file is no result, or the benchmark is unknown.
    """
    try:
        result = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"no result at {path} ({error.strerror}): check the path") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path} is not JSON: give results that vcut bench wrote") from None
    kind = result.get("benchmark") if isinstance(result, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        content = f"a result of {kind[:40]!r}" if isinstance(kind, str) else "no result of vcut bench"
        raise UsageError(f"{path} is {content}: give results of {', '.join(KINDS)}")
    return result


def tables(result: Mapping[str, Any]) -> list[Numbers]:
    """Return the tables of a result."""
    numbers: Callable[[Mapping[str, Any]], list[Numbers]] = import_module(KINDS[result["benchmark"]].module).numbers
    return numbers(result)


@contextmanager
def reading(path: Path) -> Any:
    """Turn what a damaged result makes its readers raise into one line.

    Raises:
        UsageError: the result lacks something, or something in it has another form.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        raise UsageError(f"{path} is not whole or of another version of vcut ({reason}): measure again") from None


def title(result: Mapping[str, Any]) -> str:
    """Return the title of a result's section."""
    name = KINDS[result["benchmark"]].title
    return f"{name}: {result['model']}" if isinstance(result.get("model"), str) else name


def origin(result: Mapping[str, Any]) -> dict[str, str]:
    """Return where the numbers come from: model, sizes, device, versions, date and command."""
    threads = f"CPU threads: {result['threads']}" if "threads" in result else None
    facts = {
        "model": result.get("model"),
        "size": _size(result),
        "device": ", ".join(str(part) for part in (result.get("device"), result.get("backend"), threads) if part),
        "versions": ", ".join(f"{name} {version}" for name, version in dict(result.get("versions") or {}).items()),
        "date": result.get("date"),
        "command": result.get("command"),
    }
    return {name: str(value) for name, value in facts.items() if value}


def _size(result: Mapping[str, Any]) -> str:
    shape = result.get("shape")
    parts = [f"{shape.get('frames')} frames of {shape.get('height')}x{shape.get('width')}"] if shape else []
    parts += [str(result["precision"])] if "precision" in result else []
    parts += [f"{result['steps']} steps"] if "steps" in result else []
    return ", ".join(parts)
