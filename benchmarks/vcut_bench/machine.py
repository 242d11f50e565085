"""What every result says about where, when and with what it was measured."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from importlib.metadata import version
from typing import Any


def provenance(module: str) -> dict[str, Any]:
    """Return command, date, device and library versions of a run of ``python -m module``."""
    return {
        "command": " ".join(["python -m", module, *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("vcut", "torch", "diffusers", "onnxruntime")},
    }
