"""Peers get the bundle's checkpoint, or random weights of its architecture."""

from __future__ import annotations

from pathlib import Path

import pytest

from vcut_bench import reference
from vcut_runtime import VcutError, open_bundle


def test_without_the_checkpoint_weights_are_random_and_said_to_be(small_bundle: Path, tmp_path: Path) -> None:
    manifest = open_bundle(small_bundle, hashes=False).manifest
    chosen, why = reference.choose_reference(manifest, None)
    assert why is not None
    assert "folder" in why
    assert chosen.checkpoint.seed == 0
    assert chosen.checkpoint.configs["unet"] == manifest.model.configs["unet"]
    with pytest.raises(VcutError, match="unknown model"):
        reference.choose_reference(manifest, str(tmp_path / "none"))
