"""How far from the machine's limit: measured throughput of large products against the MACs of a step.

The limit is the fastest large matrix product or convolution of the libraries here, on this device, with these threads
and in this precision. A step at the limit would run all its operators like that. Memory bandwidth, and operators that
are not products, make up the difference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from vcut_bench.compiled import same_options
from vcut_bench.reference import random_checkpoint
from vcut_runtime.bundle.manifest import Manifest, Precision

_SECONDS = 0.4  # of each kind, a turn
_MATRIX = {"cpu": 1024, "cuda": 8192}  # rows and columns
_CONVOLUTION = {"cpu": (4, 128, 64, 64), "cuda": (16, 640, 72, 128)}  # rows, channels in and out, height, width


def rates(device: str, precision: Precision) -> dict[str, Callable[[], float]]:
    """Return functions that measure MACs per second, by kind of product and library."""
    import torch

    from vcut_export.checkpoint.weights import torch_dtype

    draw = partial(torch.randn, device=device, dtype=torch_dtype(precision))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    size, (rows, channels, height, width) = _MATRIX[device], _CONVOLUTION[device]
    a, b = draw(size, size), draw(size, size)
    image, kernel = draw(rows, channels, height, width), draw(channels, channels, 3, 3)
    products: dict[str, tuple[int, Callable[[], object]]] = {
        "matmul, torch": (size**3, lambda: torch.mm(a, b)),
        "convolution, torch": (
            rows * height * width * channels**2 * 9,
            lambda: torch.nn.functional.conv2d(image, kernel, padding=1),
        ),
    }
    if device == "cpu" and precision == "fp32":
        products["matmul, onnxruntime"] = size**3, _onnxruntime_matmul(a.numpy(), b.numpy(), torch.get_num_threads())
    for _, call in products.values():  # the first call chooses an algorithm
        call()
    return {name: partial(best_rate, macs, call, wait, _SECONDS) for name, (macs, call) in products.items()}


def best_rate(
    macs: int,
    call: Callable[[], object],
    wait: Callable[[], object] = lambda: None,
    seconds: float = _SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return ``macs`` over the shortest time of one ``call``, tried for ``seconds``."""
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
    """Return the MACs of a step of each graph, attention included, of vcut's network and of the original."""
    from vcut_bench.unet_macs import count
    from vcut_export.options import ExportOptions
    from vcut_export.plan import make_plan

    networks = count(make_plan(random_checkpoint(manifest), ExportOptions(**same_options(manifest))))
    return {name: {graph: macs.full for graph, macs in networks[name].steps.items()} for name in ("original", "vcut")}


def share(macs: Mapping[str, int], steps: Mapping[str, int], seconds: float, limit: float) -> float:
    """Return the share of ``limit`` (MACs per second) that a step loop reached in ``seconds``.

    ``macs`` has the work of one step by graph or stage, and ``steps`` their number.
    """
    return sum(macs[stage] * count for stage, count in steps.items()) / seconds / limit


def _onnxruntime_matmul(a: np.ndarray, b: np.ndarray, threads: int) -> Callable[[], Any]:
    """Return ONNX Runtime's own product, which is the faster one on some CPUs."""
    import onnx

    from vcut_runtime.backends.onnxruntime_library import load_onnxruntime

    ort = load_onnxruntime()

    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : 20]>
        matmul (float[{len(a)}, {len(a)}] a) => (float[{len(a)}, {len(a)}] c) {{ c = MatMul(a, b) }}""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(b, "b"))
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": a})
