"""Where a bundle is served: on GPUs, or on the CPU."""

from __future__ import annotations

from vcut_runtime import Manifest, VcutError
from vcut_runtime.backends.cuda import Cuda


def runs_on_gpu(manifest: Manifest, backend: str) -> bool:
    """Tell whether a bundle is served on GPUs: by the backend that was chosen, else if it has engines."""
    return bool(manifest.engines) if backend == "auto" else backend in ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda")


def gpus_of_worker(manifest: Manifest, backend: str, gpus: float) -> int:
    """Return how many GPUs a worker reserves, 0 or 1.

    Args:
        manifest: of the bundle.
        backend: that the user chose; ``auto`` takes the CPU if there is no GPU.
        gpus: that there are.
    """
    return int(runs_on_gpu(manifest, backend) and (backend != "auto" or gpus > 0))


def gpus_here() -> int:
    """Return how many GPUs this machine shows to CUDA; 0 without a driver or ``cuda-bindings``."""
    try:
        return Cuda().count
    except VcutError:
        return 0
