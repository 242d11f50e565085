"""What every result says about where, when and with what it was measured."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vcut_runtime.bundle.manifest import Manifest

_LIBRARIES = ("vcut", "torch", "diffusers", "onnxruntime", "tensorrt-rtx-cu13", "tensorrt")


def provenance(program: str) -> dict[str, Any]:
    """Return command, date, device and library versions of a run of ``program``.

    It is a command such as ``vcut bench macs``, or a module that ``python -m`` runs.
    """
    words = program.split() if program.startswith("vcut ") else ["python", "-m", program]
    options = sys.argv[len(words) :] if words[0] == "vcut" else sys.argv[1:]
    return {
        "command": shlex.join([*words, *options]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "versions": {name: installed for name in _LIBRARIES if (installed := _version(name))},
    }


def about(manifest: Manifest) -> dict[str, Any]:
    """Return what a result says of the bundle that it measures: ``model``, ``shape`` and ``precision``."""
    return {
        "model": manifest.model.id + (", random weights" if manifest.model.random_weights else ""),
        "shape": manifest.sizes._asdict(),
        "precision": manifest.precision,
    }


def save(result: dict[str, Any], path: Path) -> None:
    """Write a result where it is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
