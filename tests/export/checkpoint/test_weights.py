"""Loading weights: the saved ones, the right variant, never a pickle; and random ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from models import tiny
from vcut_export import resolve
from vcut_export.checkpoint import weights
from vcut_runtime import UsageError, VcutError


@pytest.fixture
def folder(small_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_checkpoint, tmp_path / "model"))


def test_local_weights_are_the_saved_ones(folder: Path) -> None:
    from safetensors.torch import load_file

    saved = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    unet = weights.load_unet(resolve(str(folder)), "fp32", torch.float32)
    assert all(torch.equal(saved[name], value) for name, value in unet.state_dict().items())
    assert not any(parameter.requires_grad for parameter in unet.parameters())


def test_pickled_weights_are_never_read(folder: Path) -> None:
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    torch.save({}, folder / "unet/diffusion_pytorch_model.bin")
    file.unlink()
    with pytest.raises(UsageError, match="only safetensors"):
        weights.check_weights(resolve(str(folder)), "fp32")


def test_truncated_weights_are_a_one_line_failure(folder: Path) -> None:
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(VcutError, match=r"cannot read .*unet.*restore the file") as caught:
        weights.load_unet(resolve(str(folder)), "fp32", torch.float32)
    assert "\n" not in str(caught.value)


def test_random_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    first, same, other = (weights.load_vae(tiny(seed=seed), "fp32", torch.float32).state_dict() for seed in (4, 4, 5))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    assert all(torch.isfinite(value).all() for value in first.values())


def test_random_weights_of_a_folder_take_its_architecture_alone(folder: Path) -> None:
    for file in folder.glob("*/*.safetensors"):
        file.unlink()
    checkpoint = resolve(str(folder), random_weights=True, seed=7)
    assert checkpoint.seed == 7
    unet = weights.load_unet(checkpoint, "fp32", torch.float32)
    assert unet.conv_in.out_channels == 32


@pytest.mark.parametrize(
    ("component", "name"),
    [("unet", "conv_out.weight"), ("vae", "quant_conv.weight"), ("image_encoder", "visual_projection.weight")],
)
def test_a_missing_weight_is_never_made_up(folder: Path, component: str, name: str) -> None:
    from safetensors.torch import load_file, save_file

    (file,) = (folder / component).glob("*.safetensors")
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors, file, {"format": "pt"})
    load = {"unet": weights.load_unet, "vae": weights.load_vae, "image_encoder": weights.load_image_encoder}[component]
    with pytest.raises(VcutError, match=f"lacks 1 weights, {name}"):
        load(resolve(str(folder)), "fp32", torch.float32)


def test_random_weights_are_the_same_in_every_precision() -> None:
    full, half = (weights.load_vae(tiny(), "fp16", dtype).state_dict() for dtype in (torch.float32, torch.float16))
    assert all(torch.equal(full[name].half(), half[name]) for name in full)


def test_keys_that_diffusers_ignores_are_ignored(folder: Path) -> None:
    import json

    path = folder / "unet/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "from_the_future": 1}))
    weights.load_unet(resolve(str(folder), random_weights=True), "fp32", torch.float32)
