"""Compile an SVD checkpoint into a bundle that :mod:`vcut_runtime` runs."""

from __future__ import annotations

from vcut_export.checkpoint import Checkpoint, presets, resolve, save_checkpoint
from vcut_export.compiler import ExportResult, export

__all__ = ["Checkpoint", "ExportResult", "export", "presets", "resolve", "save_checkpoint"]
