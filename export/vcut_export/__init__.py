"""Compile an SVD checkpoint into a bundle that :mod:`vcut_runtime` runs."""

from __future__ import annotations

from vcut_export.checkpoint import Checkpoint, presets, resolve
from vcut_export.compiler import ExportResult, export
from vcut_export.weights import save_checkpoint

__all__ = ["Checkpoint", "ExportResult", "export", "presets", "resolve", "save_checkpoint"]
