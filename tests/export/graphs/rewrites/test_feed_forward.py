"""Chunked feed-forwards compute what diffusers' do, in as many parts as their size needs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from conftest import FP32
from models import tiny
from vcut_export import export
from vcut_export.checkpoint import weights
from vcut_export.graphs.rewrites.feed_forward import ChunkedFeedForward, chunk_feed_forwards
from vcut_export.graphs.simplify import TRANSPOSED


def feed_forward(channels: int = 8) -> Any:
    from diffusers.models.attention import FeedForward

    return FeedForward(channels, activation_fn="geglu")


@pytest.mark.parametrize("limit", [1, 7 * 64 * 4, 1 << 30])
@pytest.mark.parametrize("shape", [(3, 10, 8), (2, 8), (1, 29, 8)])
def test_the_same_in_any_number_of_parts(monkeypatch: pytest.MonkeyPatch, limit: int, shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(ChunkedFeedForward, "LIMIT", limit)
    whole, x = feed_forward(), torch.randn(shape)
    assert torch.allclose(ChunkedFeedForward(whole)(x), whole(x), atol=1e-6)


@pytest.mark.parametrize(
    ("batch", "channels", "pixels", "parts"),
    [(2, 320, 72 * 128, 4), (2, 640, 36 * 64, 2), (2, 1280, 18 * 32, 1), (1, 320, 72 * 128, 2), (1, 640, 36 * 64, 1)],
)
def test_parts_of_svd_xt_in_fp16(batch: int, channels: int, pixels: int, parts: int) -> None:
    with torch.device("meta"):
        chunked = ChunkedFeedForward(feed_forward(channels).half())
        seen: list[int] = []
        chunked.net[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-2]))
        out = chunked(torch.empty(batch * 25, pixels, channels, dtype=torch.float16))
    assert out.shape == (batch * 25, pixels, channels)
    assert len(seen) == parts
    assert sum(seen) in (batch * 25 * pixels, pixels)


def test_every_feed_forward_of_a_unet_is_replaced_and_keeps_its_parameter_names() -> None:
    unet = weights.load_unet(tiny(seed=2), "fp32", torch.float32)
    names = [name for name, _ in unet.named_parameters()]
    changed = copy.deepcopy(unet)
    chunk_feed_forwards(changed)
    assert [name for name, _ in changed.named_parameters()] == names
    chunked = [module for module in changed.modules() if isinstance(module, ChunkedFeedForward)]
    assert len(chunked) == 16 + 2 * 16  # one in each spatial block, two in each temporal one


@pytest.mark.slow
def test_graphs_in_parts_agree_with_unmodified_modules(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChunkedFeedForward, "LIMIT", 100_000)
    options: Any = {**FP32, "tca": "fold", "small_gpu": True, "verify": True}
    result = export(str(small_checkpoint), tmp_path / "bundle", **options)
    assert max(result.errors.values()) < 1e-4
    graphs = [
        onnx.load(tmp_path / f"bundle/onnx/{name}.onnx", load_external_data=False).graph
        for name in ("semantic_binding", "quality_improvement")
    ]
    projections = [
        node.input[1] for node in graphs[0].node if node.op_type == "Gemm" and "net.0.value" in node.input[1]
    ]
    assert len(projections) >= 2 * len(set(projections)) > 0
    stored = {tensor.name for graph in graphs for tensor in graph.initializer}
    assert not {name for name in stored if f"{name}{TRANSPOSED}" in stored}  # each weight once, however many parts
