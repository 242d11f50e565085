"""Backends run the graphs of a bundle: TensorRT and TensorRT-RTX its engines, ONNX Runtime its ONNX files."""

from __future__ import annotations

from vcut_runtime.backends.backend import Backend, Offer
from vcut_runtime.backends.registry import BACKENDS, choose, open_backend, verdicts

__all__ = ["BACKENDS", "Backend", "Offer", "choose", "open_backend", "verdicts"]
