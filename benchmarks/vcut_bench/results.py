"""Result files: their kinds, how they are read and written, what they say about their origin, and their tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

from vcut_bench.numbers import Numbers, show
from vcut_bench.provenance import save
from vcut_runtime.errors import UsageError
from vcut_runtime.terminal import print_json, say

OUTPUT = typer.Option("--output", "-o", help="Write the result here too, as JSON.")
Result = Mapping[str, Any]
# The title of each kind, and the module whose ``numbers`` says what its tables are; in the order of the report.
KINDS: Mapping[str, tuple[str, str]] = {
    "latency": ("Latency", "vcut_bench.latency_numbers"),
    "tune": ("Tuned schedules", "vcut_bench.tune"),
    "fidelity": ("Fidelity", "vcut_bench.fidelity"),
    "tiny": ("Quality", "vcut_bench.tiny_numbers"),
    "vbench": ("The paper's metrics", "vcut_bench.vbench"),
    "macs": ("Parameters and MACs", "vcut_bench.macs"),
    "memory": ("Memory", "vcut_bench.memory"),
    "full-size": ("Full size on a CPU", "vcut_bench.full_size"),
    "native": ("The C++ runtime", "vcut_bench.native"),
    "serving": ("Serving", "vcut_bench.serving"),
    "export": ("Compiling", "vcut_bench.export_cost"),
    "seams": ("Seams of decoded chunks", "vcut_bench.seams"),
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


def tables(result: Result) -> list[Numbers]:
    """Return the tables of a result."""
    return import_module(KINDS[result["benchmark"]][1]).numbers(result)


def deliver(result: dict[str, Any], output: Path | None, json: bool) -> None:
    """Write a measured result to ``output`` if it is given, and print it: its tables, or as JSON."""
    if output is not None:
        save(result, output)
        say((str(output), "bold"))
    if json:
        print_json(result)
    else:
        show(tables(result))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what a damaged result makes its readers raise into one line.

    Raises:
        UsageError: the result lacks something, or something in it has another form.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        raise UsageError(f"{path} is not whole or of another version of vcut ({reason}): measure again") from None


def title(result: Result) -> str:
    """Return the title of a result's section."""
    name = KINDS[result["benchmark"]][0]
    return f"{name}: {result['model']}" if "model" in result else name


def origin(result: Result) -> dict[str, str]:
    """Return where the numbers come from: model, sizes, device, versions, date and command."""
    shape, steps, threads = result.get("shape"), result.get("steps"), result.get("threads")
    size = [
        f"{shape['frames']} frames of {shape['height']}x{shape['width']}" if shape else None,
        result.get("precision"),
        f"{steps} steps" if steps else None,
    ]
    facts = {
        "model": result.get("model"),
        "size": ", ".join(part for part in size if part),
        "device": result["device"],
        "backend": result.get("backend"),
        "threads": threads and f"CPU threads: {threads}",
        "versions": ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        "date": result["date"],
        "command": result["command"],
    }
    return {name: str(value) for name, value in facts.items() if value}
