"""What an engine is built with, from a manifest alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest

import example_manifest
from vcut_engines import Target
from vcut_engines.recipe import Recipe, engine_key, make_recipes
from vcut_runtime import UsageError
from vcut_runtime.bundle.manifest import Profile

TARGET = Target("tensorrt-rtx", "1.2.3", "8.6", "a10")


def test_each_graph_has_a_recipe_for_the_target() -> None:
    manifest = example_manifest.example(deep=True)
    recipes = make_recipes(manifest, TARGET, None)
    assert tuple(recipes) == tuple(manifest.graphs)
    for name, recipe in recipes.items():
        profile = {"latents": Profile((1, 4, 8, 12), (14, 4, 8, 12), (14, 4, 8, 12))} if name == "decode" else {}
        assert recipe == Recipe("tensorrt-rtx", "1.2.3", "8.6", "fp32", profile)


@pytest.mark.parametrize(
    ("asked", "memory", "limit"), [(None, None, None), (None, 24 << 30, 24 << 30), (5, 24 << 30, 5)]
)
def test_kernels_use_at_most_the_workspace(asked: int | None, memory: int | None, limit: int | None) -> None:
    target = dataclasses.replace(TARGET, memory=memory)
    recipes = make_recipes(example_manifest.example(), target, None, asked)
    assert {recipe.workspace for recipe in recipes.values()} == {limit}


def test_decode_takes_up_to_its_chunk() -> None:
    profile = make_recipes(example_manifest.example(), TARGET, 5)["decode"].profile["latents"]
    assert (profile.min[0], profile.opt[0], profile.max[0]) == (1, 5, 5)


@pytest.mark.parametrize("chunk", [0, 15])
def test_a_chunk_longer_than_the_videos_is_refused(chunk: int) -> None:
    with pytest.raises(UsageError, match=f"--decode-chunk {chunk} is outside 1..14"):
        make_recipes(example_manifest.example(), TARGET, chunk)


def test_a_decoder_of_a_fixed_chunk_takes_no_other() -> None:
    manifest = msgspec.structs.replace(example_manifest.example(), decode_chunk=7)
    make_recipes(manifest, TARGET, 7)
    with pytest.raises(UsageError, match="takes 7 frames at a time, export it with --decode-chunk 6"):
        make_recipes(manifest, TARGET, 6)


@pytest.mark.parametrize(
    "change",
    [
        {"library": "tensorrt"},
        {"version": "1.2.4"},
        {"compute_capability": None},
        {"precision": "fp16"},
        {"profile": {"latents": Profile((1,), (2,), (3,))}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_in_a_recipe_makes_another_engine(change: dict[str, Any]) -> None:
    manifest = example_manifest.example()
    recipe = make_recipes(manifest, TARGET, None)["condition"]
    key = engine_key(manifest, "condition", recipe)
    assert key == engine_key(manifest, "condition", msgspec.structs.replace(recipe))
    assert key != engine_key(manifest, "condition", msgspec.structs.replace(recipe, **change))


def test_another_graph_or_other_weights_make_another_engine() -> None:
    manifest = example_manifest.example()
    recipe = make_recipes(manifest, TARGET, None)["condition"]
    graph = msgspec.structs.replace(manifest.graphs["condition"], sha256="0" * 64)
    weights = {name: msgspec.structs.replace(entry, sha256="0" * 64) for name, entry in manifest.weights.items()}
    others = (
        msgspec.structs.replace(manifest, graphs={**manifest.graphs, "condition": graph}),
        msgspec.structs.replace(manifest, weights=weights),
    )
    keys = {engine_key(other, "condition", recipe) for other in (manifest, *others)}
    assert len(keys) == 3
