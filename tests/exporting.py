"""What tests of exports share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import FP32
from vcut_export import ExportResult, export


def again(checkpoint: Path, bundle: Path, **options: Any) -> ExportResult:
    """Export with the options of ``small_bundle``, some changed."""
    return export(str(checkpoint), bundle, **{**FP32, "steps": 4, "cut_step": 3, **options})


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the inode and modification time of every file, hidden ones too."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): (f.stat().st_ino, f.stat().st_mtime_ns) for f in files}


def changed(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> set[str]:
    """Return the files that came, went or were written anew."""
    return {name for name in before | after if before.get(name) != after.get(name)}
