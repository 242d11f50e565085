"""A UNet in the place of the model's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from models import planned
from original_layout import original_unet_weights
from vcut_export import ExportOptions, plan_export, resolve
from vcut_export.checkpoint.weights import load_component
from vcut_runtime import UsageError


@pytest.fixture(scope="module")
def unet() -> Any:
    """A fine-tune of svd-tiny's UNet."""
    return load_component(resolve("svd-tiny", random_weights=True, seed=5), "unet", "fp32", torch.float32)


@pytest.fixture
def saved(unet: Any, tmp_path: Path) -> Callable[[str, bool], Path]:
    """Write the UNet into a file, with a prefix, under the original's names or diffusers'."""

    def save(prefix: str, original: bool) -> Path:
        weights = original_unet_weights(unet) if original else unet.state_dict()
        path = tmp_path / "fine-tune.safetensors"
        save_file({f"{prefix}{name}": value.contiguous().clone() for name, value in weights.items()}, path)
        return path

    return save


def loaded_equals(checkpoint: Any, unet: Any) -> bool:
    loaded = load_component(checkpoint, "unet", "fp32", torch.float32).state_dict()
    return all(torch.equal(value, loaded[name]) for name, value in unet.state_dict().items())


@pytest.mark.parametrize(
    ("prefix", "original"),
    [
        ("model.diffusion_model.", True),
        ("diffusion_model.", True),
        ("", True),
        ("", False),
        ("unet.", False),
    ],
)
def test_files_of_both_layouts_with_any_prefix(
    prefix: str, original: bool, unet: Any, saved: Callable[[str, bool], Path]
) -> None:
    path = saved(prefix, original)
    checkpoint = resolve("svd-tiny", unet=str(path))
    assert loaded_equals(checkpoint, unet)
    assert ("resnet_eps" in checkpoint.configs["unet"]) == original
    assert checkpoint.sources["vae"] == resolve("svd-tiny").sources["vae"]
    assert checkpoint.unet is not None
    assert checkpoint.unet.name == "fine-tune.safetensors"


def test_folders_and_pipelines_bring_their_configuration(unet: Any, tmp_path: Path) -> None:
    unet.save_pretrained(tmp_path / "pipeline/unet", variant="bf16")
    path = tmp_path / "pipeline/unet/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_frames": 7}))
    for folder in (tmp_path / "pipeline", tmp_path / "pipeline/unet"):
        checkpoint = resolve("svd-tiny", unet=str(folder))
        assert loaded_equals(checkpoint, unet)
        assert planned(checkpoint).options.frames == 7
    path.unlink()
    assert planned(resolve("svd-tiny", unet=str(path.parent))).options.frames == 12
    path.write_text('{"_class_name": "UNet2DConditionModel", "block_out_channels": [64]}')
    with pytest.raises(UsageError, match="UNet of class UNet2DConditionModel"):
        resolve("svd-tiny", unet=str(path.parent))


def test_it_replaces_the_unet_of_random_weights_too(unet: Any, saved: Callable[[str, bool], Path]) -> None:
    checkpoint = resolve("svd-tiny", random_weights=True, unet=str(saved("", False)))
    assert checkpoint.seed == 0
    assert loaded_equals(checkpoint, unet)


def test_another_unet_rebuilds_every_graph(unet: Any, saved: Callable[[str, bool], Path]) -> None:
    path = saved("", False)
    options = ExportOptions(unet=str(path))
    keys = [plan_export("svd-tiny", ExportOptions()).keys, plan_export("svd-tiny", options).keys]
    assert plan_export("svd-tiny", options).keys == keys[1]
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").rename(path)
    keys.append(plan_export("svd-tiny", options).keys)
    assert all(len({key[name] for key in keys}) == 3 for name in keys[0])


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            ["unet.down_blocks.0.attentions.0.lora_A.weight"],
            "holds a LoRA, which goes to --lora",
        ),
        (["first_stage_model.decoder.conv_in.weight"], "holds no UNet"),
    ],
)
def test_other_files_are_refused(names: list[str], says: str, tmp_path: Path) -> None:
    save_file({name: torch.ones(1) for name in names}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=says):
        resolve("svd-tiny", unet=str(tmp_path / "other.safetensors"))


def test_what_is_not_there_or_a_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no .*nowhere: --unet takes a file or a folder"):
        resolve("svd-tiny", unet=str(tmp_path / "nowhere"))
    (tmp_path / "unet.ckpt").touch()
    with pytest.raises(UsageError, match="is a pickle"):
        resolve("svd-tiny", unet=str(tmp_path / "unet.ckpt"))
    with pytest.raises(UsageError, match=r"has no \.safetensors file"):
        resolve("svd-tiny", unet=str(tmp_path))


@pytest.mark.parametrize("original", [False, True])
def test_a_unet_of_another_architecture_is_refused(original: bool, saved: Callable[[str, bool], Path]) -> None:
    with pytest.raises(UsageError, match=r"does not fit --model svd-xt: its first layer is 64x48x3x3, not 320x8x3x3"):
        resolve("svd-xt", random_weights=True, unet=str(saved("", original)))
