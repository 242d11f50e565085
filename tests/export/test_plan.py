"""Defaults, refusals, and which option touches which graph."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import models
from vcut_export import resolve
from vcut_export.checkpoint import Checkpoint
from vcut_export.plan import decode_context, default_decode_chunk, make_manifest, make_plan
from vcut_runtime import UsageError
from vcut_runtime.bundle.manifest import SizeRange
from vcut_runtime.decoding import decode_chunks

UNET = {"semantic_binding", "quality_improvement"}


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return models.tiny()


@pytest.mark.parametrize(
    ("model", "frames", "size", "precision"),
    [
        ("svd", 14, (576, 1024), "fp16"),
        ("svd-xt", 25, (576, 1024), "fp16"),
        ("svd-xt-1.1", 25, (576, 1024), "fp16"),
        ("svd-tiny", 12, (72, 96), "fp32"),
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
        ({"low_memory": True}, UNET),
        ({"decode_chunk": 5}, {"decode"}),
        ({"dynamic": {"frames": (4, 14)}}, UNET),
        ({"width": 128, "dynamic": {"width": (64, 128)}}, UNET | {"condition", "decode"}),
    ],
)
def test_an_option_touches_only_its_graphs(tiny: Checkpoint, options: Any, touched: set[str]) -> None:
    before, after = make_plan(tiny).keys, make_plan(tiny, **options).keys
    assert {name for name in before if before[name] != after[name]} == touched


def test_other_weights_touch_everything(tiny: Checkpoint) -> None:
    before, after = make_plan(tiny).keys, make_plan(models.tiny(seed=1)).keys
    assert all(before[name] != after[name] for name in before)


@pytest.mark.parametrize(
    ("model", "size", "low_memory", "chunk", "overlap", "exactly"),
    [
        ("svd-xt", (576, 1024), False, 11, 2, True),
        ("svd-xt", (576, 1024), True, 7, 2, True),
        ("svd-xt", (1152, 2048), False, 11, 2, True),
        ("svd", (576, 1024), False, 6, 1, True),
        ("svd-xt", (64, 96), False, 25, 0, False),
    ],
)
def test_decoding_stays_below_the_unet_by_default(
    model: str, size: tuple[int, int], low_memory: bool, chunk: int, overlap: int, exactly: bool
) -> None:
    checkpoint = resolve(model, random_weights=True)
    plan = make_plan(checkpoint, height=size[0], width=size[1], low_memory=low_memory)
    manifest = make_manifest(plan, (), {}, {})
    assert (manifest.decode_chunk, manifest.decode_overlap) == (chunk, overlap)
    assert plan.decode_frames == (chunk if exactly else None)


@given(frames=st.integers(1, 200), pixels=st.integers(64, 1 << 22), low=st.booleans())
def test_chunks_by_default_have_their_context_and_are_no_larger_than_need_be(
    frames: int, pixels: int, low: bool
) -> None:
    chunk = default_decode_chunk(pixels, frames, "fp16", low)
    assert 1 <= chunk <= frames
    if chunk < frames:
        context = decode_context(chunk)
        count = len(decode_chunks(frames, chunk, context))
        if chunk - 1 > 2 * context:
            assert len(decode_chunks(frames, chunk - 1, context)) > count


def test_a_decode_chunk_of_ones_own(tiny: Checkpoint) -> None:
    plan = make_plan(tiny, decode_chunk=5)
    assert (plan.decode_frames, plan.decode_overlap, plan.frames_at_once) == (5, 1, 1)
    assert make_plan(tiny, decode_chunk=14).decode_frames is None
    for bad in (0, 15):
        with pytest.raises(UsageError, match=r"1\.\.14"):
            make_plan(tiny, decode_chunk=bad)


def test_ranges_of_sizes(tiny: Checkpoint) -> None:
    plan = make_plan(tiny, width=128, dynamic={"frames": (4, 20), "width": (64, 192)})
    assert (plan.smallest, plan.sizes, plan.largest) == ((4, 64, 64), (14, 64, 128), (20, 64, 192))
    assert plan.dynamic == {"frames": SizeRange(4, 20, 1), "width": SizeRange(64, 192, 64)}
    assert plan.resizes
    assert plan.frame_positions == 20
    assert not make_plan(tiny, dynamic={"frames": (4, 20)}).resizes
    assert make_manifest(plan, (), {}, {}).dynamic == plan.dynamic
    assert (plan.decode_chunk, plan.decode_frames) == (20, None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dynamic": {"frames": (0, 14)}}, "--dynamic frames=0:14 is no range"),
        ({"dynamic": {"frames": (15, 14)}}, "is no range"),
        ({"dynamic": {"frames": (2, 13)}}, r"frames=2\.\.13 leaves out --frames 14, the default of runs"),
        ({"dynamic": {"height": (60, 128)}}, "is no range in multiples of 64"),
        ({"dynamic": {"width": (64, 128)}}, "leaves out --width 96"),
        ({"dynamic": {"height": (64, 128)}}, "--width 96 is not a multiple of 64, which a free size wants"),
        ({"dynamic": {"frames": (4, 14)}, "low_memory": True}, "--low-memory does not go with --dynamic"),
        ({"dynamic": {"depth": (1, 2)}}, "has no 'depth': give ranges of frames, height, width"),
        ({"dynamic": {"frames": (4, 14)}, "decode_chunk": 5}, r"outside 1\.\.4, .* or use 14"),
    ],
)
def test_impossible_ranges_are_refused(tiny: Checkpoint, options: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        make_plan(tiny, **options)
    assert "\n" not in str(caught.value)


def test_other_ranges_make_other_graphs(tiny: Checkpoint) -> None:
    one, other = (make_plan(tiny, dynamic={"frames": (2, most)}).keys for most in (14, 15))
    assert {name for name in one if one[name] != other[name]} == UNET


def test_short_videos_are_traced_within_the_frame_position_table(tiny: Checkpoint) -> None:
    for most in (1, 2, 4):
        plan = make_plan(tiny, frames=1, dynamic={"frames": (1, most)})
        assert plan.frame_positions >= plan.examples["F"] > plan.largest.frames
    assert make_plan(tiny, frames=2).frame_positions == 2


def test_a_decoder_in_chunks_serves_the_shortest_video_too() -> None:
    checkpoint = resolve("svd-xt", random_weights=True)
    chunks = [make_plan(checkpoint, dynamic={"frames": (least, 25)}) for least in (14, 5, 1)]
    assert [(plan.decode_frames, plan.decode_overlap) for plan in chunks] == [(11, 2), (5, 1), (1, 0)]
    free = {"height": (64, 576), "width": (128, 1024)}
    small = make_plan(checkpoint, height=64, width=128, dynamic=free)
    assert small.decode_frames == 10  # for the largest, whose decoder takes more with height and width free
    assert make_plan(checkpoint, dynamic={"frames": (14, 25), **free}).decode_frames == 10
