"""A shallow step that takes the deep features of the same step is the full step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from models import planned, tiny
from vcut_export.checkpoint import weights
from vcut_export.graphs.steps import FoldedSteps, fold_steps
from vcut_runtime.bundle.graph import GRAPHS, bind, sized

PLAIN_LAST_BLOCK = {
    "block_out_channels": [32, 64],
    "down_block_types": ["DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal"],
    "up_block_types": ["CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"],
    "layers_per_block": 1,
    "num_attention_heads": [1, 2],
}


@pytest.fixture(scope="module", params=[{}, PLAIN_LAST_BLOCK], ids=["SVD's blocks", "last block without attention"])
def plan(request: pytest.FixtureRequest) -> Any:
    checkpoint = tiny(seed=2)
    unet = {**checkpoint.configs["unet"], **request.param}
    checkpoint = replace(checkpoint, configs={**checkpoint.configs, "unet": unet})
    return planned(checkpoint, frames=2, deep_cache=True, precision="fp32")


@pytest.fixture(scope="module")
def steps(plan: Any) -> FoldedSteps:
    return fold_steps(weights.load_unet(plan.checkpoint, "fp32", torch.float32), plan)


def inputs(plan: Any, steps: FoldedSteps, name: str) -> dict[str, torch.Tensor]:
    values = {**plan.geometry.bound(), "N": len(steps.projection.bias)}
    tensors = {t.name: torch.randn(sized(t.shape, values)) for t in bind(values, "fp32")[name].inputs}
    return {**tensors, "sigma": torch.tensor([2.0])}


@pytest.mark.parametrize("name", [name for name, graph in GRAPHS.items() if graph.full])
@torch.no_grad()
def test_features_of_the_same_step_give_the_full_step(name: str, plan: Any, steps: FoldedSteps) -> None:
    given = inputs(plan, steps, name)
    own = given.pop("deep_features")
    full = steps.modules[str(GRAPHS[name].full)](*given.values())
    features = full[-1]
    assert features.shape == own.shape
    shallow = steps.modules[name](*given.values(), features)
    assert len(shallow) == len(full) - 1
    for result, expected in zip(shallow, full, strict=False):
        assert torch.allclose(result, expected, atol=1e-5 * float(expected.abs().max()))
    other = steps.modules[name](*given.values(), own)
    assert not torch.allclose(other[0], full[0], atol=1e-2)


def test_a_shallow_step_has_no_parameters_of_its_own(steps: FoldedSteps) -> None:
    names = ("semantic_binding", "semantic_binding_shallow")
    full, shallow = (dict(steps.modules[name].named_parameters()) for name in names)
    assert 0 < len(shallow) < len(full) / 2
    assert all(full[name] is parameter for name, parameter in shallow.items())
