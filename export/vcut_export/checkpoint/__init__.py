"""Checkpoints: what a model name means, how the model is configured, and where its weights lie."""

from __future__ import annotations

from vcut_export.checkpoint.configs import CONFIG_FILES, WEIGHTED, presets
from vcut_export.checkpoint.models import resolve
from vcut_export.checkpoint.record import Checkpoint
from vcut_export.checkpoint.scheduler import scheduler_constants

__all__ = ["CONFIG_FILES", "WEIGHTED", "Checkpoint", "presets", "resolve", "scheduler_constants"]
