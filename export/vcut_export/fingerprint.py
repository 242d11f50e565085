"""Fingerprints: an export rebuilds a graph only if something that shapes it has changed."""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import asdict, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from vcut_export.checkpoint import Checkpoint
from vcut_export.options import ExportOptions
from vcut_runtime.bundle.geometry import Geometry
from vcut_runtime.bundle.graph import bind
from vcut_runtime.errors import UsageError

_LIBRARIES = ("torch", "diffusers", "transformers", "onnxscript", "onnx-ir")
# The code that decides what a graph computes.
_READERS = ("folders", "original", "original_names", "tensors", "weights")
_SHAPING = ("graphs", "lora", *(f"checkpoint/{name}.py" for name in _READERS))


def graph_keys(checkpoint: Checkpoint, options: ExportOptions, geometry: Geometry) -> dict[str, str]:
    """Return a fingerprint of each graph: of the weights, the options that rebuild it, its tensors, and the compiler.

    Raises:
        UsageError: a library that exports need is not installed.
    """
    try:
        made_by = {name: metadata.version(name) for name in _LIBRARIES}
    except metadata.PackageNotFoundError as error:
        raise UsageError(f"exporting needs {error.name}: pip install 'vcut[export]'") from None
    assert options.precision is not None
    common = {"by": made_by, "code": code_fingerprint(), "weights": checkpoint.identity}
    # Sizes enter as the graph sees them: a number, or a range that a run chooses from.
    values = {**asdict(options), **geometry.describe(), "decode_chunk": geometry.decode_frames, "dynamic": None}
    values["lora"] = [(adapter.sha256, adapter.scale) for adapter in checkpoint.adapters]  # wherever the files lie
    keys = {}
    for name, tensors in bind(geometry.bound(), options.precision).items():
        own = {f.name: values[f.name] for f in fields(options) if name in f.metadata["rebuilds"]}
        keys[name] = _hash({"graph": name, **common, "options": own, "tensors": msgspec.to_builtins(tensors)})
    return keys


def code_fingerprint(root: Path = Path(__file__).parent) -> str:
    """Return a fingerprint of the code that shapes graphs. Comments and docstrings do not count."""
    digest = hashlib.sha256()
    for name in _SHAPING:
        for path in sorted((root / name).rglob("*.py")) if (root / name).is_dir() else [root / name]:
            tree = ast.parse(path.read_text("utf-8"))
            for node in ast.walk(tree):
                body = getattr(node, "body", None)
                if isinstance(body, list) and body and _is_text(body[0]):
                    body[0] = ast.Pass()
            digest.update(path.relative_to(root).as_posix().encode() + ast.dump(tree).encode())
    return digest.hexdigest()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _hash(parts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
