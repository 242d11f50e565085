"""What every result says about where, when and with what it was measured."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_LIBRARIES = ("vcut", "torch", "diffusers", "onnxruntime", "tensorrt-rtx-cu13", "tensorrt")


def provenance(module: str) -> dict[str, Any]:
    """Return command, date, device and library versions of a run of ``python -m module``."""
    return {
        "command": " ".join(["python -m", module, *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "versions": {name: found for name in _LIBRARIES if (found := _version(name))},
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
