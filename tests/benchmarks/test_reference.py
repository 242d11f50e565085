"""Peers get the bundle's checkpoint, or random weights of its architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from vcut_bench import reference
from vcut_runtime import UsageError, VcutError, open_bundle
from vcut_runtime.bundle.manifest import Adapter


def test_without_the_checkpoint_weights_are_random_and_said_to_be(small_bundle: Path, tmp_path: Path) -> None:
    manifest = open_bundle(small_bundle, hashes=False).manifest
    chosen, why = reference.choose_reference(manifest, None)
    assert why is not None
    assert "--reference" in why
    assert chosen.checkpoint.seed == 0
    assert chosen.checkpoint.configs["unet"] == manifest.model.configs["unet"]
    with pytest.raises(VcutError, match="unknown model"):
        reference.choose_reference(manifest, str(tmp_path / "none"))


def test_merged_lora_are_part_of_the_reference(small_bundle: Path, small_checkpoint: Path) -> None:
    manifest = open_bundle(small_bundle, hashes=False).manifest
    model = replace(manifest.model, id="svd-tiny", adapters=(Adapter("motion.safetensors", "ef" * 32, 0.8),))
    adapted = replace(manifest, model=model)
    with pytest.raises(UsageError, match=r"LoRA motion\.safetensors merged .* --reference"):
        reference.find_reference(adapted)
    assert reference.find_reference(adapted, str(small_checkpoint)).checkpoint.id == "small"
