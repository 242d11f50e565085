"""Compile a bundle's graphs into TensorRT or TensorRT-RTX engines."""

from __future__ import annotations

from vcut_engines.build import BuildResult, build
from vcut_engines.targets import Target, choose_target

__all__ = ["BuildResult", "Target", "build", "choose_target"]
