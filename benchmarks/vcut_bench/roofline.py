"""How far from the machine's limit: measured throughput of large products against the MACs of a step.

The limit is what the best of the libraries at hand reaches on this device, on these threads and in this precision, with
a large matrix product or a large convolution: what a step would take if every operator ran like those and nothing else
took time. Memory bandwidth and everything that is not a product make up the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vcut_runtime.bundle.manifest import Manifest

_SECONDS = 0.4  # of each kind, a turn
_CPU, _CUDA = 1024, 8192  # size of the matrices
_CONVOLUTION = {"cpu": (4, 128, 64, 64), "cuda": (16, 640, 72, 128)}  # rows, channels in and out, height, width


def rates(device: str, precision: str) -> dict[str, Callable[[], float]]:
    """Return functions that measure MACs per second, by kind of product and library."""
    import torch

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    size = _CPU if device == "cpu" else _CUDA
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    rows, channels, height, width = _CONVOLUTION[device]
    image = torch.randn(rows, channels, height, width, device=device, dtype=dtype)
    kernel = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def timed(macs: int, call: Callable[[], object]) -> Callable[[], float]:
        def rate() -> float:
            call()
            wait()
            return best_rate(macs, call, wait)

        return rate

    found = {
        "matmul, torch": timed(size**3, lambda: torch.mm(a, b)),
        "convolution, torch": timed(
            rows * height * width * channels**2 * 9, lambda: torch.nn.functional.conv2d(image, kernel, padding=1)
        ),
    }
    if device == "cpu" and precision == "fp32":
        found["matmul, onnxruntime"] = timed(size**3, _onnxruntime_matmul(a.numpy(), b.numpy()))
    return found


def best_rate(
    macs: int,
    call: Callable[[], object],
    wait: Callable[[], object] = lambda: None,
    seconds: float = _SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return ``macs`` over the shortest time of one ``call``, tried for ``seconds``: a limit is what is possible."""
    begin, shortest = clock(), float("inf")
    while True:
        start = clock()
        call()
        wait()
        end = clock()
        shortest = min(shortest, end - start)
        if end - begin >= seconds:
            return macs / shortest


def macs_per_step(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Return the MACs, attention included, of each kind of step, by graph, of vcut's network and the original."""
    from vcut_bench.macs import count
    from vcut_export.checkpoint import Checkpoint
    from vcut_export.options import ExportOptions
    from vcut_export.plan import make_plan

    checkpoint = Checkpoint(manifest.model.id, manifest.model.configs, None, None, None, 0, {})
    sizes: dict[str, Any] = {"height": manifest.height, "width": manifest.width, "frames": manifest.frames}
    plan = make_plan(
        checkpoint,
        ExportOptions(
            **sizes, precision=manifest.precision, operators=manifest.operators, tca=manifest.tca, deep_cache=True
        ),
    )
    return {
        name: {graph: macs.full for graph, macs in network.by_graph().items()}
        for name, network in count(plan).items()
        if name != "modified"
    }


def share(macs: Mapping[str, int], steps: Mapping[str, int], seconds: float, limit: float) -> float:
    """Return what share of ``limit`` (MACs per second) a step loop reached.

    Args:
        macs: of one step, by stage or graph.
        steps: how many, likewise.
        seconds: that the loop took.
        limit: of the machine.
    """
    return sum(macs[stage] * count for stage, count in steps.items()) / seconds / limit


def _onnxruntime_matmul(a: np.ndarray, b: np.ndarray) -> Callable[[], object]:
    """ONNX Runtime's own product: on some CPUs it is the faster one."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper

    specs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, a.shape) for name in ("a", "c")]
    weight = onnx.numpy_helper.from_array(b, "b")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "matmul", specs[:1], specs[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = _torch_threads()
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": a})


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()
