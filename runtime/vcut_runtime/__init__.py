"""Run VCUT bundles. The runtime needs numpy and ONNX Runtime or TensorRT, and neither torch nor diffusers.

>>> from vcut_runtime import Pipeline
>>> Pipeline.load("vcut-svd-tiny")("photo.jpg", seed=0).save("out.mp4")  # doctest: +SKIP
"""

from __future__ import annotations

from vcut_runtime.bundle import Bundle, open_bundle
from vcut_runtime.bundle.manifest import Manifest
from vcut_runtime.errors import BundleError, Cancelled, UsageError, VcutError
from vcut_runtime.options import BackendOptions, RunOptions
from vcut_runtime.pipeline import Pipeline
from vcut_runtime.schedule import Step
from vcut_runtime.video import Video

__version__ = "0.1.0"
__all__ = [
    "BackendOptions",
    "Bundle",
    "BundleError",
    "Cancelled",
    "Manifest",
    "Pipeline",
    "RunOptions",
    "Step",
    "UsageError",
    "VcutError",
    "Video",
    "open_bundle",
]
