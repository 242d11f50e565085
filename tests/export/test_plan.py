"""A plan: defaults, sizes and what is refused before any work."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import models
from models import planned
from vcut_export import ExportOptions, resolve
from vcut_export import plan as plan_module
from vcut_export.checkpoint import Checkpoint
from vcut_export.plan import make_manifest, make_plan
from vcut_runtime import UsageError
from vcut_runtime.bundle.geometry import SizeRange
from vcut_runtime.schedule.named import QUICK


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return models.tiny()


@pytest.mark.parametrize(
    ("model", "frames", "size", "precision", "operators"),
    [
        ("svd", 14, (576, 1024), "fp16", "gpu"),
        ("svd-xt", 25, (576, 1024), "fp16", "gpu"),
        ("svd-xt-1.1", 25, (576, 1024), "fp16", "gpu"),
        ("svd-tiny", 12, (72, 96), "fp32", "cpu"),
    ],
)
def test_presets_have_their_defaults(
    model: str, frames: int, size: tuple[int, int], precision: str, operators: str
) -> None:
    plan = make_plan(resolve(model, random_weights=True))
    assert plan.geometry.sizes == (frames, *size)
    assert (plan.precision, plan.options.operators) == (precision, operators)
    assert (plan.options.steps, plan.options.cut_step, plan.options.tca) == (25, 17, "remove")


def test_a_model_for_the_cpu_suits_gpus_in_half_precision(tiny: Checkpoint) -> None:
    chosen = [planned(tiny, precision=precision).options.operators for precision in ("fp32", "fp16", "bf16")]
    assert chosen == ["cpu", "gpu", "gpu"]


@pytest.mark.parametrize(
    ("steps", "cut_step", "expected"),
    [(25, None, 17), (10, None, 7), (50, None, 34), (1, None, 2), (10, 3, 3), (10, "none", 11), (25, "none", 26)],
)
def test_the_cut_stays_at_the_papers_noise_level_unless_it_is_given(
    steps: int, cut_step: Any, expected: int, tiny: Checkpoint
) -> None:
    assert planned(tiny, steps=steps, cut_step=cut_step).options.cut_step == expected


@pytest.mark.parametrize("cut_step", [None, "none", 3])
def test_the_manifest_has_the_schedule_cut_there_and_one_that_is_never_cut(cut_step: Any, tiny: Checkpoint) -> None:
    plan = planned(tiny, steps=10, cut_step=cut_step)
    manifest = make_manifest(plan, (), dict.fromkeys(plan.keys), {})  # pyright: ignore[reportArgumentType]
    assert (manifest.steps, manifest.cut_step) == (10, plan.options.cut_step)
    assert list(manifest.schedules) == ["vcut", "exact", *QUICK]
    biases = {name: [step.bias for step in rows] for name, rows in manifest.schedules.items() if name not in QUICK}
    assert biases == {
        "vcut": ["both" if i < manifest.cut_step else "mean" for i in range(1, 11)],
        "exact": ["both"] * 10,
    }


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"height": 60}, "--height 60 is not a multiple of 8, the model's factor: use 64"),
        ({"width": 1}, "use 8"),
        ({"height": -64}, "height is -64: give at least 1"),
        ({"frames": 0}, "frames is 0: give at least 1"),
        ({"steps": 0}, "steps is 0: give at least 1"),
        ({"cut_step": 0}, r"outside 1..26"),
        ({"cut_step": 27}, r"outside 1..26"),
        ({"cut_step": 12, "steps": 10}, r"outside 1..11"),
        ({"cut_step": "late"}, "cut_step is 'late': give a whole number or 'none'"),
        ({"precision": "int8"}, "choose fp16, bf16, fp32"),
        ({"tca": "keep"}, "choose remove, fold"),
        ({"operators": "npu"}, "choose cpu, gpu"),
        ({"upcast_attention": True, "precision": "fp32"}, "--upcast-attention is for fp16 and bf16"),
        ({"operators": "cpu", "precision": "fp16"}, "--operators cpu needs --precision fp32, not fp16: choose"),
    ],
)
def test_impossible_options_name_a_possible_one(tiny: Checkpoint, options: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        planned(tiny, **options)
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


def test_ranges_of_sizes(tiny: Checkpoint) -> None:
    plan = planned(tiny, width=128, dynamic={"frames": (4, 20), "width": (64, 192)})
    geometry = plan.geometry
    assert (geometry.smallest, geometry.sizes, geometry.largest) == ((4, 64, 64), (14, 64, 128), (20, 64, 192))
    assert geometry.dynamic == {"frames": SizeRange(4, 20, 1), "width": SizeRange(64, 192, 8)}
    assert geometry.has_free_size
    assert not planned(tiny, dynamic={"frames": (4, 20)}).geometry.has_free_size
    manifest = make_manifest(plan, (), dict.fromkeys(plan.keys), {})  # pyright: ignore[reportArgumentType]
    assert manifest.geometry == geometry
    assert (geometry.decode_chunk, geometry.decode_frames) == (20, None)


def test_every_size_that_the_vae_allows_can_be_chosen() -> None:
    for sizes in ({}, {"dynamic": {"height": (320, 720), "width": (480, 1280)}}):
        plan = planned(resolve("svd-xt", random_weights=True), height=480, width=720, **sizes)
        assert plan.geometry.sizes == (25, 480, 720)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dynamic": {"frames": (0, 14)}}, "--dynamic frames=0:14 is not a range"),
        ({"dynamic": {"frames": (15, 14)}}, "is not a range"),
        ({"dynamic": {"frames": (2, 13)}}, r"frames=2\.\.13 leaves out --frames 14, the default of runs"),
        ({"dynamic": {"height": (60, 128)}}, "is not a range in multiples of 8"),
        ({"dynamic": {"width": (104, 128)}}, "leaves out --width 96"),
        ({"dynamic": {"frames": (4, 14)}, "small_gpu": True}, "--small-gpu excludes --dynamic"),
        ({"dynamic": {"depth": (1, 2)}}, "has no 'depth': give ranges of frames, height, width"),
        ({"dynamic": {"frames": (4, 14)}, "decode_chunk": 5}, r"outside 1\.\.4, .* or use 14"),
    ],
)
def test_impossible_ranges_are_refused(tiny: Checkpoint, options: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        planned(tiny, **options)
    assert "\n" not in str(caught.value)


def test_measured_schedules_are_those_of_svd_tiny_as_it_was_measured() -> None:
    """Random weights, another precision or another size have not been measured."""
    measured = plan_module._measurements(make_plan(resolve("svd-tiny")))
    assert set(measured) == set(QUICK)
    assert measured["balanced"].psnr >= 36
    assert measured["fast"].psnr >= 33
    others: list[tuple[str, dict[str, Any]]] = [("svd-tiny", {"precision": "fp16"}), ("svd-tiny", {"width": 128})]
    for model, options in [*others, ("svd-xt", {})]:
        plan = make_plan(resolve(model, random_weights=model != "svd-tiny"), ExportOptions(**options))
        assert plan_module._measurements(plan) == {}
    assert plan_module._measurements(make_plan(resolve("svd-tiny", random_weights=True))) == {}
