"""Compile a bundle's graphs into TensorRT or TensorRT-RTX engines."""

from __future__ import annotations

from vcut_engines.build import BuildResult, build, summary
from vcut_engines.options import EngineOptions
from vcut_engines.targets import Target, choose_target

__all__ = ["BuildResult", "EngineOptions", "Target", "build", "choose_target", "summary"]
