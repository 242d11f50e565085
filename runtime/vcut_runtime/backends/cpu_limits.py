"""What ONNX Runtime's CPU can run, and roughly what a step takes there in memory and time.

Measured on SVD-XT at 576x1024 in fp32, see ``benchmarks/results/full-size-cpu-*.json``.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from vcut_runtime.bundle.geometry import Geometry, Sizes
from vcut_runtime.bundle.graph import GRAPHS
from vcut_runtime.bundle.manifest import Manifest, Operators, Precision
from vcut_runtime.errors import UsageError, VcutError
from vcut_runtime.host import total_memory, usable_cpus
from vcut_runtime.unet_cost import step_macs, unet_parameters

_CONDITIONAL = "quality_improvement"
_TENSORS = 16  # a step's peak beside the weights, in tensors of the size of the first level's features
_PROCESS = 600_000_000  # bytes of everything else
_EFFICIENCY = 0.8  # of a step, against a large product of matrices
_LARGE = 2 << 30  # bytes of a step from which on memory counts more than the time to allocate it
_SHORT = 1e11  # multiplications of a step that takes a second or two


@dataclass(frozen=True)
class CpuModel:
    """What decides the cost of a bundle's steps on a CPU.

    Attributes:
        precision: of the network bodies.
        operators: those for a CPU write out no attention scores.
        geometry: of the bundle.
        unet: the UNet's configuration.
    """

    precision: Precision
    operators: Operators
    geometry: Geometry
    unet: Mapping[str, Any]

    @classmethod
    def of(cls, manifest: Manifest) -> CpuModel:
        """Return that of a bundle."""
        unet = manifest.model.configs.get("unet", {})
        return cls(manifest.precision, manifest.operators, manifest.geometry, unet)

    @property
    def is_large(self) -> bool:
        """Whether memory counts more than the time to allocate it."""
        return self.step_memory(_CONDITIONAL, self.geometry.sizes) > _LARGE

    def step_memory(self, graph: str, sizes: Sizes) -> int:
        """Return roughly the bytes that a step takes, its weights among them."""
        channels = self.unet.get("block_out_channels", [320])[0]
        _, height, width = self.geometry.latent_shape(sizes)
        rows = GRAPHS[graph].rows
        tensor = rows * sizes.frames * height * width * channels * 4
        return _PROCESS + 4 * unet_parameters(self.unet) + _TENSORS * tensor + self._attention_scores(rows, sizes)

    def _attention_scores(self, rows: int, sizes: Sizes) -> int:
        """Return the bytes of the largest attention scores that a step writes out."""
        if self.operators == "cpu":
            return 0
        heads = self.unet.get("num_attention_heads", 5)  # diffusers' default for the first level
        first = heads[0] if isinstance(heads, list) and heads else heads
        _, height, width = self.geometry.latent_shape(sizes)
        return rows * sizes.frames * (first if isinstance(first, int) else 1) * (height * width) ** 2 * 4

    def step_seconds(self, graph: str, sizes: Sizes, threads: int | None) -> float:
        """Return roughly how many seconds a step takes on this machine, and 0 for a step of a second or two."""
        _, height, width = self.geometry.latent_shape(sizes)
        macs = step_macs(self.unet, GRAPHS[graph].rows, sizes.frames, height, width)
        if macs < _SHORT:
            return 0.0
        share = min(1.0, (threads or usable_cpus()) / usable_cpus())
        return macs / (_EFFICIENCY * share * _macs_per_second())


def check_cpu(model: CpuModel, sizes: Sizes | None = None, graphs: Collection[str] = (_CONDITIONAL,)) -> None:
    """Refuse videos of ``sizes``, by default the bundle's smallest, that ONNX Runtime cannot make on this CPU.

    Args:
        model: the bundle's.
        sizes: of the video.
        graphs: that the video needs.

    Raises:
        UsageError: ONNX Runtime's CPU has no kernels for the precision.
        VcutError: a step needs more memory than the machine has; the message says what would fit.
    """
    if model.precision == "bf16":
        raise UsageError(
            "a bf16 bundle needs a GPU, ONNX Runtime has no bf16 kernels for the CPU: "
            "export with --precision fp32 or fp16 to run here"
        )
    sizes, have = sizes or model.geometry.smallest, total_memory()
    steps = [name for name in graphs if GRAPHS[name].is_step]
    need, graph = max((model.step_memory(name, sizes), name) for name in steps)
    if need <= have:
        return
    kind = "guided" if GRAPHS[graph].rows == 2 else "conditional"
    raise VcutError(
        f"a {kind} step of {sizes.frames} frames of {sizes.height}x{sizes.width} needs about {need / 2**30:.0f} GiB "
        f"on the CPU, this machine has {have / 2**30:.0f} GiB: {_what_fits(model, sizes, graph, have)}"
    )


def _what_fits(model: CpuModel, sizes: Sizes, graph: str, memory: int) -> str:
    if model.operators == "gpu" and replace(model, operators="cpu").step_memory(graph, sizes) <= memory:
        return "export with --precision fp32 --operators cpu, or run it on a GPU"
    frames = sizes.frames
    while frames and model.step_memory(graph, sizes._replace(frames=frames)) > memory:
        frames -= 1
    fitting = []
    if GRAPHS[graph].rows == 2 and model.step_memory(_CONDITIONAL, sizes) <= memory:
        fitting.append("leave out guidance with --max-guidance-scale 1")
    if frames:
        fitting.append(f"export at most {frames} frames with --frames {frames}")
    return ", or ".join([*fitting, "run it on a GPU"])


@cache
def _macs_per_second() -> float:
    """Return the multiply-accumulates a second of a product of large matrices on all cores."""
    size = 1536
    a, b = np.ones((size, size), np.float32), np.ones((size, size), np.float32)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        np.matmul(a, b)
        best = min(best, time.perf_counter() - start)
    return size**3 / best
