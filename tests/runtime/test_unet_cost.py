"""The cost of a UNet from its configuration is what torch counts on the folded modules."""

from __future__ import annotations

from typing import Any

import pytest

from models import planned, tiny
from vcut_bench.unet_macs import count
from vcut_export import resolve
from vcut_export.checkpoint import Checkpoint, presets
from vcut_runtime.unet_cost import check_unet, step_macs, unet_parameters


def changed(**unet: Any) -> Checkpoint:
    import dataclasses

    model = tiny()
    return dataclasses.replace(model, configs={**model.configs, "unet": {**model.configs["unet"], **unet}})


MODELS = {
    "svd-xt": lambda: resolve("svd-xt", random_weights=True),
    "three levels, two layers": lambda: changed(
        transformer_layers_per_block=[1, 2, 1],
        layers_per_block=[1, 2, 1],
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


@pytest.mark.parametrize(
    "config",
    [
        {"block_out_channels": []},
        {"block_out_channels": ["32", "64"]},
        {"block_out_channels": [10**9] * 4},
        {"block_out_channels": [32] * 500},
        {"block_out_channels": [32, 64]},  # the block types are those of four levels
        {"layers_per_block": 10**9},
        {"layers_per_block": [1, 2]},
        {"num_attention_heads": 0},
        {"down_block_types": None},
        {"transformer_layers_per_block": {"a": 1}},
        {"in_channels": "8"},
    ],
)
def test_a_configuration_that_cannot_be_read_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # each has its own message
        check_unet(config)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("preset", ["svd", "svd-xt-1.1", "svd-tiny"])
def test_the_presets_can_be_read(preset: str) -> None:
    check_unet(presets()[preset]["unet"])
    check_unet({})
