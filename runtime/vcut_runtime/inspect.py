"""What ``vcut inspect`` shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from rich import box
from rich.table import Column, Table
from rich.text import Text

from vcut_runtime.backends import verdicts
from vcut_runtime.backends.engine_validity import describe_target, target_verdict
from vcut_runtime.bundle import open_bundle
from vcut_runtime.bundle.geometry import SizeRange
from vcut_runtime.errors import printable
from vcut_runtime.schedule.named import QUICK

_MOST = 1000  # characters of a text


def describe(root: Path, *, hashes: bool = True) -> dict[str, Any]:
    """Open the bundle at ``root`` and return its manifest with what can run it here, ready for JSON.

    Raises:
        BundleError: it is damaged, foreign or unsafe.
    """
    bundle = open_bundle(root, hashes=hashes)
    manifest = bundle.manifest
    facts = msgspec.to_builtins(manifest)
    for target, engines in manifest.engines.items():
        facts["engines"][target] |= {"for": describe_target(engines), "valid_here": target_verdict(bundle, target)}
    return {
        "bundle": str(root),
        **facts,
        "steps": manifest.steps,
        "cut_step": manifest.cut_step,
        "bias_channels": manifest.bias_channels,
        "bytes": sum(entry.bytes for entry in manifest.files()),
        "hashes": "match" if hashes else "not read",
        "runs_here": verdicts(bundle),
    }


def render(description: dict[str, Any]) -> Iterator[Any]:
    """Yield the parts of ``description`` as Rich renderables, for a console without markup."""
    d = _printable(description)
    model = d["model"]
    revision = f"revision {(model['revision'] or '')[:12]}"
    weights = f"random weights, seed {model['seed']}" if model["random_weights"] else revision
    cut = "never" if d["cut_step"] > d["steps"] else f"from step {d['cut_step']}"
    unet = f", with the UNet of {model['unet']['name']}" if model["unet"] else ""
    yield Text(f"{model['id']} ({weights}){unet}", style="bold")
    for adapter in model["adapters"]:
        yield Text(f"LoRA {adapter['file']}, scale {adapter['scale']:g}, sha256 {adapter['sha256'][:12]}")
    yield (
        f"{d['frames']} frames of {d['height']}x{d['width']}, {d['precision']}, operators for a "
        f"{d['operators'].upper()}, TCA {d['tca']}, {d['steps']} steps, conditional only {cut}, "
        f"guidance {d['guidance']['min']:g} to {d['guidance']['max']:g}"
    )
    if d["dynamic"]:
        ranges = (f"{name} {SizeRange(**sizes)}" for name, sizes in d["dynamic"].items())
        yield f"a run may choose {', '.join(ranges)}"
    if d["deep_features"]:
        yield f"has shallow steps, for runs with --cache-interval ({d['deep_features']} channels of deep features)"
    yield f"{_size(d['bytes'])}, {d['bias_channels']} bias channels, vcut {d['vcut_version']}, hashes {d['hashes']}"
    for name, schedule in d["schedules"].items():
        yield _schedule(name, schedule, d["measurements"].get(name))
    graphs = Table("graph", "inputs, then outputs")
    for name, graph in d["graphs"].items():
        tensors = [*map(_tensor, graph["inputs"]), *(f"→ {_tensor(tensor)}" for tensor in graph["outputs"])]
        about = f"{name}\n{_size(graph['bytes'])}, {graph['weights']}\n{graph['sha256'][:12]}"
        if graph["contrib"]:
            about += f"\nand for ONNX Runtime's CPU\n{graph['contrib']['sha256'][:12]}"
        graphs.add_row(about, "\n".join(tensors))
    yield graphs
    files = Table("weights", "size", "sha256")
    for name, entry in d["weights"].items():
        files.add_row(name, _size(entry["bytes"]), entry["sha256"][:12])
    yield files
    for target, engines in d["engines"].items():
        yield f"engines {target}: {engines['library']} {engines['version']}, {engines['for']}"
        heads = ("engine", "size", "activations", "weights", "layers", "built in")
        table = Table(*heads, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)  # the longest name fits
        for name, engine in engines["engines"].items():
            sizes = [_size(engine[key]) for key in ("bytes", "activation_bytes", "weight_bytes")]
            table.add_row(name, *sizes, str(engine["layers"]), f"{engine['build_seconds']:.0f} s")
        yield table
        yield f"valid on this machine: {engines['valid_here']}"
    backends = Table("backend", Column("runs here", overflow="fold"))  # a path may be longer than a line
    for name, verdict in d["runs_here"].items():
        backends.add_row(name, verdict)
    yield backends


def _printable(value: Any) -> Any:
    """Return a part of a description with every text of it as one short line: a bundle may say anything."""
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    return printable(value, _MOST) if isinstance(value, str) else value


def _schedule(name: str, schedule: list[dict[str, Any]], measured: dict[str, Any] | None) -> str:
    """Return a schedule in a line: its work, and what it was measured as."""
    guided = sum(step["bias"] == "both" for step in schedule)
    line = f"schedule {name}: {len(schedule)} steps, {guided} of them guided"
    if measured:
        least = "" if measured["low"] is None else f" (at least {measured['low']:.1f})"
        line += f", {measured['psnr']:.1f} dB{least} to the converged video, {measured['seconds']:.2g} s"
    elif name in QUICK:
        line += ", untuned: see vcut tune"
    return line


def _tensor(tensor: dict[str, Any]) -> str:
    """Return ``sigma 1x3``, with the type of a tensor that is not float32."""
    dtype = "" if tensor["dtype"] == "float32" else f"{tensor['dtype']} "
    return f"{tensor['name']} {dtype}{'x'.join(map(str, tensor['shape']))}"


def _size(count: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} B"
