"""Builds the project's wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {
    "export": "vcut_export",
    "engines": "vcut_engines",
    "runtime": "vcut_runtime",
    "serving": "vcut_serving",
    "benchmarks": "vcut_bench",
}


def build_wheel(folder: Path) -> Path:
    """Build the wheel in ``folder`` and return its path. It is built from a copy: a build writes beside its sources."""
    source = folder / "source"
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel
