"""Defaults, refusals, and which option touches which graph."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from vcut_export import resolve
from vcut_export.checkpoint import Checkpoint
from vcut_export.plan import make_manifest, make_plan
from vcut_runtime import UsageError

UNET = {"semantic_binding", "quality_improvement"}


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return resolve("svd-tiny")


@pytest.mark.parametrize(
    ("model", "frames", "size", "precision"),
    [
        ("svd", 14, (576, 1024), "fp16"),
        ("svd-xt", 25, (576, 1024), "fp16"),
        ("svd-xt-1.1", 25, (576, 1024), "fp16"),
        ("svd-tiny", 14, (64, 96), "fp32"),
    ],
)
def test_presets_have_their_defaults(model: str, frames: int, size: tuple[int, int], precision: str) -> None:
    plan = make_plan(resolve(model, random_weights=True))
    assert (plan.frames, (plan.height, plan.width), plan.precision) == (frames, size, precision)
    assert (plan.steps, plan.cut_step, plan.tca) == (25, 17, "remove")


def test_the_cut_scales_with_the_steps_unless_it_is_given(tiny: Checkpoint) -> None:
    assert make_plan(tiny, steps=50).cut_step == 33
    assert make_plan(tiny, steps=10).cut_step == 7
    assert make_plan(tiny, steps=1).cut_step == 2
    assert make_plan(tiny, steps=10, cut_step=3).cut_step == 3
    assert make_plan(tiny, steps=10, never_cut=True).cut_step == 11


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"height": 60}, "--height 60 is not a multiple of 8, the model's factor: use 64"),
        ({"width": 1}, "use 8"),
        ({"height": -64}, "--height"),
        ({"frames": 0}, "--frames 0 is below 1"),
        ({"steps": 0}, "--steps 0 is below 1"),
        ({"cut_step": 0}, r"outside 1..26"),
        ({"cut_step": 27}, r"outside 1..26"),
        ({"cut_step": 12, "steps": 10}, r"outside 1..11"),
        ({"precision": "int8"}, "choose fp16, bf16, fp32"),
        ({"tca": "keep"}, "choose remove or fold"),
    ],
)
def test_impossible_options_name_a_possible_one(tiny: Checkpoint, options: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        make_plan(tiny, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("component", "change", "says"),
    [
        ("unet", {"in_channels": 4}, "choose components of one SVD model"),
        ("unet", {"cross_attention_dim": 32}, "the image encoder gives 64"),
        ("unet", {"projection_class_embeddings_input_dim": 64}, "three numbers"),
        ("vae", {"latent_channels": 8}, "the VAE has 8"),
    ],
)
def test_components_that_do_not_fit_are_refused(tiny: Checkpoint, component: str, change: Any, says: str) -> None:
    configs = {**tiny.configs, component: {**tiny.configs[component], **change}}
    with pytest.raises(UsageError, match=says):
        make_plan(dataclasses.replace(tiny, configs=configs))


@pytest.mark.parametrize(
    ("options", "touched"),
    [
        ({}, set()),
        ({"steps": 10}, set()),
        ({"cut_step": 20}, set()),
        ({"frames": 15}, UNET),
        ({"tca": "fold"}, UNET | {"condition"}),
        ({"height": 128}, UNET | {"condition", "decode"}),
        ({"precision": "fp16"}, UNET | {"condition", "decode"}),
    ],
)
def test_an_option_touches_only_its_graphs(tiny: Checkpoint, options: Any, touched: set[str]) -> None:
    before, after = make_plan(tiny).keys, make_plan(tiny, **options).keys
    assert {name for name in before if before[name] != after[name]} == touched


def test_other_weights_touch_everything(tiny: Checkpoint) -> None:
    before, after = make_plan(tiny).keys, make_plan(resolve("svd-tiny", seed=1)).keys
    assert all(before[name] != after[name] for name in before)


@pytest.mark.parametrize(("size", "chunk"), [((576, 1024), 6), ((64, 96), 25), ((1152, 2048), 1), ((2304, 2048), 1)])
def test_decoding_stays_below_the_unet_by_default(size: tuple[int, int], chunk: int) -> None:
    plan = make_plan(resolve("svd-xt", random_weights=True), height=size[0], width=size[1])
    assert make_manifest(plan, (), {}, {}).decode_chunk == chunk
