"""Single files: which model they are, what is loaded of them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import Once
from exporting import again
from models import planned
from original_layout import write_original
from vcut_export import resolve
from vcut_export.checkpoint import WEIGHTED, presets, single_file
from vcut_export.checkpoint.single_file import preset_in
from vcut_export.checkpoint.weights import load_component
from vcut_export.reuse import place
from vcut_runtime import UsageError, VcutError
from vcut_runtime.bundle import open_bundle

VISUAL = "conditioner.embedders.0.open_clip.model.visual."


def write(checkpoint: Any, path: Path) -> Path:
    return write_original(path, *(load_component(checkpoint, name, "fp32", torch.float32) for name in WEIGHTED))


@pytest.fixture(scope="session")
def svd_tiny_file(once: Once) -> Path:
    """svd-tiny as a single file in the original layout."""

    def make(folder: Path) -> None:
        folder.mkdir()
        write(resolve("svd-tiny"), folder / "trained.safetensors")

    return once("checkpoints/original", make) / "trained.safetensors"


@pytest.fixture
def edited(svd_tiny_file: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write the file's tensors anew, after a change."""

    def make(change: Callable[[dict[str, torch.Tensor]], object], metadata: dict[str, str] | None = None) -> Path:
        tensors = load_file(svd_tiny_file)
        change(tensors)
        save_file(tensors, tmp_path / "edited.safetensors", metadata)
        return tmp_path / "edited.safetensors"

    return make


def without(start: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(start)]:
            del tensors[name]

    return change


def test_every_weight_is_the_diffusers_model_s(svd_tiny_file: Path) -> None:
    checkpoint = resolve(str(svd_tiny_file))
    assert checkpoint.id == "trained.safetensors"
    assert checkpoint.note == (
        "trained.safetensors is compiled as svd-tiny, which alone has its shapes; --preset changes that"
    )
    for component in WEIGHTED:
        models = (load_component(c, component, "fp32", torch.float32) for c in (resolve("svd-tiny"), checkpoint))
        own, loaded = (dict(model.named_parameters()) for model in models)
        assert own.keys() == loaded.keys()
        assert all(torch.equal(own[name], loaded[name]) for name in own), component


@pytest.mark.slow
def test_the_bundle_has_the_weights_of_the_folder_s(
    small_checkpoint: Path, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = resolve(str(small_checkpoint))
    preset = {**folder.configs, **folder.defaults}
    monkeypatch.setattr(single_file, "presets", lambda: {**presets(), "svd-small": preset})
    path = write(folder, tmp_path / "small.safetensors")
    manifest = again(path, tmp_path / "bundle").manifest
    assert manifest.model.id == "small.safetensors"
    of_folder = open_bundle(small_bundle).manifest
    assert {w.sha256 for w in manifest.weights.values()} == {w.sha256 for w in of_folder.weights.values()}
    assert again(path, tmp_path / "bundle").rebuilt == ()


@pytest.mark.parametrize(
    ("title", "preset"),
    [
        ("svd", "svd"),
        ("SVD-fp16", "svd"),
        ("svd_xt", "svd-xt"),
        ("svd_xt_fp16", "svd-xt"),
        ("svd_xt_1_1", "svd-xt-1.1"),
        ("svd_xt_1.1-pruned", "svd-xt-1.1"),
        ("Stable Video Diffusion img2vid XT 1.1", "svd-xt-1.1"),
        ("stable-video-diffusion-img2vid", "svd"),
        ("my svd", None),
        ("ComfyUI_00001_", None),
        ("", None),
    ],
)
def test_names_and_titles_tell_models_of_one_shape_apart(title: str, preset: str | None) -> None:
    assert preset_in(title) == preset


@pytest.mark.parametrize(
    ("title", "name", "preset", "why"),
    [
        ("", "svd_xt_1_1", "svd-xt-1.1", "as its name says"),
        ("svd", "svd_xt", "svd", "as its metadata says"),
        ("", "fine-tune", "svd-xt", "because nothing in it tells svd and svd-xt apart"),
    ],
)
def test_metadata_comes_before_the_name(title: str, name: str, preset: str, why: str) -> None:
    choice = single_file._choose(
        Path(f"{name}.safetensors"), {"modelspec.title": title}, ["svd", "svd-xt", "svd-xt-1.1"]
    )
    assert (choice.preset, choice.why) == (preset, why)


def test_a_named_preset_decides_and_must_fit(svd_tiny_file: Path) -> None:
    assert resolve(str(svd_tiny_file), preset="svd-tiny").note is None
    with pytest.raises(
        UsageError, match=r"does not fit --preset svd-xt: model.diffusion_model.input_blocks.0.0.weight is"
    ):
        resolve(str(svd_tiny_file), preset="svd-xt")
    with pytest.raises(UsageError, match="--preset 'svd-xl' is none of svd, svd-xt"):
        resolve(str(svd_tiny_file), preset="svd-xl")
    with pytest.raises(UsageError, match="--preset is for single files"):
        resolve("svd-tiny", preset="svd-tiny")
    with pytest.raises(UsageError, match="--revision is for hub models"):
        resolve(str(svd_tiny_file), revision="main")


def test_random_weights_take_the_architecture_alone(svd_tiny_file: Path) -> None:
    checkpoint = resolve(str(svd_tiny_file), random_weights=True, seed=3)
    assert (checkpoint.sources, checkpoint.revision, checkpoint.seed) == ({}, None, 3)


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("first_stage_model.decoder.conv_out.time_mix_conv.", "has no temporal decoder"),
        (VISUAL, "has no image encoder"),
        ("model.diffusion_model.", "has no original SVD layout"),
        ("model.diffusion_model.middle_block.1.time_stack.", "is an image model"),
        (
            "model.diffusion_model.label_emb.",
            r"has no preset's architecture: .*input_blocks.0.0.weight is 64x48x3x3, and 320x8x3x3 in svd-xt",
        ),
    ],
)
def test_what_is_no_whole_model_is_told(missing: str, says: str, edited: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        resolve(str(edited(without(missing))))
    assert "\n" not in str(caught.value)


def test_a_unet_alone_is_sent_to_its_option(edited: Callable[..., Path]) -> None:
    def unet_alone(tensors: dict[str, torch.Tensor]) -> None:
        without("conditioner.")(tensors)
        without("first_stage_model.")(tensors)

    with pytest.raises(UsageError, match="holds a UNet alone: give it as --unet"):
        resolve(str(edited(unet_alone)))


def test_what_the_original_carries_beside_its_networks_is_left_out(edited: Callable[..., Path]) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        for name in ("token_embedding.weight", "positional_embedding", "logit_scale", "ln_final.bias"):
            tensors[f"conditioner.embedders.0.open_clip.model.{name}"] = torch.ones(1)
        for name in ("decoder.conv_in.weight", "post_quant_conv.weight"):
            tensors[f"conditioner.embedders.3.encoder.{name}"] = torch.ones(1)
        tensors["first_stage_model.encoder.conv_in.weight"] = torch.full((1,), float("nan"))
        tensors |= {name: torch.ones(1) for name in ("model_ema.decay", "denoiser.sigmas")}

    checkpoint = resolve(str(edited(add)))
    for component in WEIGHTED:
        load_component(checkpoint, component, "fp32", torch.float32)


@pytest.mark.parametrize("name", ["pose_net.conv.weight", "model.diffusion_model.pose_net.conv.weight"])
def test_weights_of_another_model_are_refused(name: str, edited: Callable[..., Path]) -> None:
    checkpoint = resolve(str(edited(lambda tensors: tensors.update({name: torch.ones(1)}))))
    with pytest.raises(VcutError, match=f"1 weights that SVD does not have, {name}"):
        load_component(checkpoint, "unet", "fp32", torch.float32)


def test_comfyui_s_names_of_the_image_encoder_are_read(edited: Callable[..., Path]) -> None:
    own = load_component(resolve("svd-tiny"), "image_encoder", "fp32", torch.float32).state_dict()

    def change(tensors: dict[str, torch.Tensor]) -> None:
        without("conditioner.")(tensors)
        tensors.update({f"{VISUAL}{name}": value.clone() for name, value in own.items()})

    loaded = load_component(resolve(str(edited(change))), "image_encoder", "fp32", torch.float32)
    assert all(torch.equal(own[name], value) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin", ".pth"])
def test_a_pickle_is_never_read(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"svd_xt{suffix}").touch()
    for model in (str(tmp_path / f"svd_xt{suffix}"), f"models/svd_xt{suffix}"):
        with pytest.raises(UsageError, match=r"is a pickle.*does not read it: take the model's \.safetensors file"):
            resolve(model)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "svd_xt.gguf").touch()
    with pytest.raises(UsageError, match=r"is not a \.safetensors file"):
        resolve(str(tmp_path / "svd_xt.gguf"))
    with pytest.raises(UsageError, match="there is no file"):
        resolve(str(tmp_path / "svd_xt.safetensors"))
    (tmp_path / "svd_xt.safetensors").write_text("<html>")
    with pytest.raises(VcutError, match=r"cannot read .*download it again"):
        resolve(str(tmp_path / "svd_xt.safetensors"))


def test_the_bundle_s_folder_has_no_suffix(
    svd_tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert place(None, planned(resolve(str(svd_tiny_file)))) == Path("vcut-trained")
