"""Loading weights: the saved ones, the right variant, never a pickle; and random ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from vcut_export import resolve, weights
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


def test_the_fp16_variant_is_preferred_except_for_fp32(folder: Path) -> None:
    plain = folder / "unet/diffusion_pytorch_model.safetensors"
    half = folder / "unet/diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(plain, half)
    assert weights.weight_variant(folder, "unet", "fp16") == "fp16"
    assert weights.weight_variant(folder, "unet", "fp32") == ""
    plain.unlink()
    assert weights.weight_variant(folder, "unet", "fp32") == "fp16"
    unet = weights.load_unet(resolve(str(folder)), "fp16", torch.float16)
    assert unet.conv_in.weight.dtype == torch.float16


def test_pickled_weights_are_never_read(folder: Path) -> None:
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    torch.save({}, folder / "unet/diffusion_pytorch_model.bin")
    file.unlink()
    with pytest.raises(UsageError, match="only safetensors"):
        weights.check_weights(resolve(str(folder)), "fp32")


def test_truncated_weights_are_a_one_line_failure(folder: Path) -> None:
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(VcutError, match="cannot load unet") as caught:
        weights.load_unet(resolve(str(folder)), "fp32", torch.float32)
    assert "\n" not in str(caught.value)


def test_random_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    one, same, other = (
        weights.load_vae(resolve("svd-tiny", seed=seed), "fp32", torch.float32).state_dict() for seed in (4, 4, 5)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.isfinite(value).all() for value in one.values())


def test_random_weights_of_a_folder_take_its_architecture_alone(folder: Path) -> None:
    for file in folder.glob("*/*.safetensors"):
        file.unlink()
    found = resolve(str(folder), random_weights=True, seed=7)
    assert found.seed == 7
    unet = weights.load_unet(found, "fp32", torch.float32)
    assert unet.conv_in.out_channels == 32
