"""The cost of a UNet from its configuration is what torch counts on the folded modules."""

from __future__ import annotations

from typing import Any

import pytest

from models import planned, tiny
from vcut_bench.unet_macs import count
from vcut_export import resolve
from vcut_export.checkpoint import Checkpoint
from vcut_runtime.unet_cost import step_macs, unet_parameters


def changed(**unet: Any) -> Checkpoint:
    import dataclasses

    model = tiny()
    return dataclasses.replace(model, configs={**model.configs, "unet": {**model.configs["unet"], **unet}})


MODELS = {
    "svd-xt": lambda: resolve("svd-xt", random_weights=True),
    "svd-tiny": lambda: resolve("svd-tiny"),
    "two layers": lambda: changed(transformer_layers_per_block=[1, 2, 1, 1], layers_per_block=[1, 2, 1, 2]),
    "three levels": lambda: changed(
        block_out_channels=[32, 64, 64],
        down_block_types=["DownBlockSpatioTemporal", *["CrossAttnDownBlockSpatioTemporal"] * 2],
        up_block_types=[*["CrossAttnUpBlockSpatioTemporal"] * 2, "UpBlockSpatioTemporal"],
        num_attention_heads=[1, 2, 2],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_as_torch_counts(name: str) -> None:
    checkpoint = MODELS[name]()
    plan = planned(checkpoint, width=192, height=128)
    counted = count(plan)["vcut"]
    _, height, width = plan.geometry.latent_shape()
    for graph, rows in (("semantic_binding", 2), ("quality_improvement", 1)):
        macs = step_macs(checkpoint.configs["unet"], rows, plan.geometry.sizes.frames, height, width)
        assert macs == pytest.approx(counted.steps[graph].full, rel=0.005)
    # Not counted: biases, normalisations and the table of frame positions.
    assert 0.93 < unet_parameters(checkpoint.configs["unet"]) / counted.parameters <= 1
