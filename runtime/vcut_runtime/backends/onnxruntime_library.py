"""The only place that imports ONNX Runtime."""

from __future__ import annotations

import os
from typing import Any


def load_onnxruntime(*, cuda: bool = False) -> Any:
    """Import ONNX Runtime without its telemetry, and for ``cuda`` load the libraries of CUDA and cuDNN first.

    From 1.32 on ONNX Runtime writes a device id and a database under the user's cache folder and sends what it counts.
    The variable stops that only if it is set before the import. A value that the user has set stays.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    if cuda and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # from pip's packages of CUDA and cuDNN, which no loader finds by itself
    return onnxruntime
