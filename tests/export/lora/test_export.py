"""Compiled graphs with LoRA against PEFT's own UNet with the adapters unmerged."""

from __future__ import annotations

import copy
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from diffusers import UNetSpatioTemporalConditionModel

from conftest import FP32
from exporting import again
from lora_files import ATTENTION, FEED_FORWARD, adapted_unet, outputs, relative, write_lora
from vcut_export import ExportOptions, verify
from vcut_export.exporter import plan_export
from vcut_export.lora import AdapterFile
from vcut_export.verify import verify_bundle
from vcut_runtime import open_bundle
from vcut_runtime.inspect import describe, render

ADAPTED = ("condition", "semantic_binding", "quality_improvement")


@pytest.mark.slow
def test_graphs_compute_what_the_adapted_unet_computes(
    small_checkpoint: Path, bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With TCA folded, so that every adapted layer counts."""
    theirs = adapted_unet(small_checkpoint, [*ATTENTION, *FEED_FORWARD])
    file = write_lora(theirs, tmp_path / "motion.safetensors", "kohya")
    assert again(small_checkpoint, bundle_copy, tca="fold", lora=[f"{file}:1.0"]).rebuilt == ADAPTED
    bundle = open_bundle(bundle_copy)
    (adapter,) = bundle.manifest.model.adapters
    assert (adapter.file, adapter.sha256, adapter.scale) == (file.name, AdapterFile.parse(str(file)).sha256, 1.0)
    assert any("motion.safetensors, scale 1" in str(part) for part in render(describe(bundle_copy)))

    plan = plan_export(str(small_checkpoint), ExportOptions(**FP32, tca="fold"))
    monkeypatch.setattr(verify.weights, "load_unet", lambda *_: copy.deepcopy(theirs))
    errors = verify_bundle(bundle, plan, lambda _: nullcontext())
    assert max(errors.values()) < 1e-4, errors
    plain = UNetSpatioTemporalConditionModel.from_pretrained(small_checkpoint, subfolder="unet").eval()
    assert relative(outputs(plain), outputs(theirs)) > 1e-2, "the adapter changes nothing, so this proves nothing"


def test_adapters_count_by_content_and_scale(small_checkpoint: Path, tmp_path: Path) -> None:
    file = write_lora(adapted_unet(small_checkpoint, ["to_q"]), tmp_path / "lora.safetensors")
    elsewhere = shutil.copy(file, tmp_path / "copy.safetensors")
    other = write_lora(adapted_unet(small_checkpoint, ["to_q"], seed=1), tmp_path / "other.safetensors")

    def keys(*lora: Any) -> dict[str, str]:
        return dict(plan_export(str(small_checkpoint), ExportOptions(precision="fp32", lora=lora)).keys)

    plain, adapted = keys(), keys(file)
    assert keys(elsewhere) == keys(f"{file}:1") == adapted
    for changed in (keys(f"{file}:0.5"), keys(other), keys(file, other), plain):
        assert {name for name in adapted if adapted[name] != changed[name]} == set(ADAPTED)
