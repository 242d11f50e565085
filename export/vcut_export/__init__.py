"""Compile an SVD checkpoint into a bundle that :mod:`vcut_runtime` runs."""

from __future__ import annotations

from vcut_export.checkpoint import Checkpoint, presets, resolve
from vcut_export.checkpoint.weights import save_checkpoint
from vcut_export.exporter import ExportResult, export, export_plan, plan_export
from vcut_export.options import ExportOptions

__all__ = [
    "Checkpoint",
    "ExportOptions",
    "ExportResult",
    "export",
    "export_plan",
    "plan_export",
    "presets",
    "resolve",
    "save_checkpoint",
]
