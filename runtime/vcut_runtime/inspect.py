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
from vcut_runtime.bundle.graph import GRAPHS
from vcut_runtime.bundle.manifest import TensorSpec
from vcut_runtime.schedule import cut_step_of


def describe(root: Path, *, hashes: bool = True) -> dict[str, Any]:
    """Open the bundle at ``root`` and return all there is to say about it, ready for JSON.

    Raises:
        BundleError: it is damaged, foreign or unsafe.
    """
    bundle = open_bundle(root, hashes=hashes)
    manifest = bundle.manifest
    model = manifest.model
    return {
        "bundle": str(root),
        "model": model.id,
        "revision": model.revision,
        "random_weights": model.random_weights,
        "seed": model.seed,
        "vcut_version": manifest.vcut_version,
        "height": manifest.height,
        "width": manifest.width,
        "frames": manifest.frames,
        "dynamic": msgspec.to_builtins(manifest.dynamic),
        "precision": manifest.precision,
        "operators": manifest.operators,
        "tca": manifest.tca,
        "steps": manifest.steps,
        "cut_step": manifest.cut_step,
        "schedules": {
            name: {
                "steps": len(schedule),
                "cut_step": cut_step_of(schedule),
                "network_evaluations": sum(GRAPHS[step.graph].rows for step in schedule),
            }
            for name, schedule in manifest.schedules.items()
        },
        "guidance": [manifest.guidance.min, manifest.guidance.max],
        "decode_chunk": manifest.decode_chunk,
        "decode_overlap": manifest.decode_overlap,
        "deep_features": manifest.deep_features,
        "sca_bias_channels": manifest.bias_channels,
        "bytes": sum(entry.bytes for entry in manifest.files()),
        "hashes": "match" if hashes else "not read",
        "graphs": {
            name: {
                "file": graph.file,
                "bytes": graph.bytes,
                "sha256": graph.sha256,
                "weights": graph.weights,
                "inputs": {tensor.name: _shape(tensor) for tensor in graph.inputs},
                "outputs": {tensor.name: _shape(tensor) for tensor in graph.outputs},
            }
            for name, graph in manifest.graphs.items()
        },
        "weights": {
            name: {"file": entry.file, "bytes": entry.bytes, "sha256": entry.sha256}
            for name, entry in manifest.weights.items()
        },
        "engines": {
            target: {
                "library": engines.library,
                "version": engines.version,
                "compute_capability": engines.compute_capability,
                "for": describe_target(engines),
                "valid_here": target_verdict(bundle, target),
                "engines": {
                    name: {
                        "file": engine.file,
                        "bytes": engine.bytes,
                        "sha256": engine.sha256,
                        "activation_bytes": engine.activation_bytes,
                        "weight_bytes": engine.weight_bytes,
                        "layers": engine.layers,
                        "build_seconds": engine.build_seconds,
                        "profile": {
                            tensor: [list(p.min), list(p.opt), list(p.max)] for tensor, p in engine.profile.items()
                        },
                    }
                    for name, engine in engines.engines.items()
                },
            }
            for target, engines in manifest.engines.items()
        },
        "runs_here": verdicts(bundle),
    }


def render(description: dict[str, Any]) -> Iterator[Any]:
    """Yield the parts of ``description`` as Rich renderables."""
    d = description
    weights = f"random weights, seed {d['seed']}" if d["random_weights"] else f"revision {(d['revision'] or '')[:12]}"
    cut = "never" if d["cut_step"] > d["steps"] else f"from step {d['cut_step']}"
    yield Text(f"{d['model']} ({weights})", style="bold")
    yield (
        f"{d['frames']} frames of {d['height']}x{d['width']}, {d['precision']}, operators for a "
        f"{d['operators'].upper()}, TCA {d['tca']}, {d['steps']} steps, conditional only {cut}, "
        f"guidance {d['guidance'][0]:g} to {d['guidance'][1]:g}"
    )
    if d["dynamic"]:
        ranges = (f"{name} {SizeRange(**sizes)}" for name, sizes in d["dynamic"].items())
        yield f"a run may choose {', '.join(ranges)}"
    if d["deep_features"]:
        yield f"has shallow steps, for runs with --cache-interval ({d['deep_features']} channels of deep features)"
    yield f"{_size(d['bytes'])}, {d['sca_bias_channels']} bias channels, vcut {d['vcut_version']}, hashes {d['hashes']}"
    for name, schedule in d["schedules"].items():
        guided = schedule["network_evaluations"] - schedule["steps"]
        yield f"schedule {name}: {schedule['steps']} steps, {guided} of them guided"
    graphs = Table("graph", "inputs, then outputs")
    for name, graph in d["graphs"].items():
        tensors = [f"{k} {_short(v)}" for k, v in graph["inputs"].items()]
        tensors += [f"→ {k} {_short(v)}" for k, v in graph["outputs"].items()]
        about = f"{name}\n{_size(graph['bytes'])}, {graph['weights']}\n{graph['sha256'][:12]}"
        graphs.add_row(Text(about), Text("\n".join(tensors)))
    yield graphs
    files = Table("weights", "size", "sha256")
    for name, entry in d["weights"].items():
        files.add_row(name, _size(entry["bytes"]), entry["sha256"][:12])
    yield files
    for target, engines in d["engines"].items():
        yield Text(f"engines {target}: {engines['library']} {engines['version']}, {engines['for']}")
        heads = ("engine", "size", "activations", "weights", "layers", "built in")
        table = Table(*heads, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)  # the longest name fits
        for name, engine in engines["engines"].items():
            sizes = [_size(engine[key]) for key in ("bytes", "activation_bytes", "weight_bytes")]
            table.add_row(name, *sizes, str(engine["layers"]), f"{engine['build_seconds']:.0f} s")
        yield table
        yield Text(f"valid on this machine: {engines['valid_here']}")
    backends = Table("backend", Column("runs here", overflow="fold"))  # a path may be longer than a line
    for name, verdict in d["runs_here"].items():
        backends.add_row(name, Text(verdict))  # its brackets are no markup
    yield backends


def _shape(tensor: TensorSpec) -> str:
    return f"{tensor.dtype}[{', '.join(map(str, tensor.shape))}]"


def _short(tensor: str) -> str:
    """``float32[1, 3]`` as ``1x3``: most tensors are float32."""
    dtype, shape = tensor.rstrip("]").split("[")
    short = shape.replace(", ", "x")
    return short if dtype == "float32" else f"{dtype} {short}"


def _size(count: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} B"
