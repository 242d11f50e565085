"""What tests of exports share."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from conftest import FP32, Once
from vcut_export import ExportResult, export


def again(checkpoint: Path, bundle: Path, **options: Any) -> ExportResult:
    """Export with the options of ``small_bundle``, some changed."""
    return export(str(checkpoint), bundle, **{**FP32, "steps": 4, "cut_step": 3, **options})


def fp16_bundle(checkpoint: Path, once: Once, **options: Any) -> Path:
    """Compile the shallow model in fp16 with shallow steps, with the given options at most once per run."""
    name = "-".join(["bundles/deep-fp16", *options])
    return once(name, partial(export, str(checkpoint), precision="fp16", deep_cache=True, **options))


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the inode and modification time of every file, hidden ones too."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): (f.stat().st_ino, f.stat().st_mtime_ns) for f in files}


def changed(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> set[str]:
    """Return the files that came, went or were written anew."""
    return {name for name in before | after if before.get(name) != after.get(name)}
