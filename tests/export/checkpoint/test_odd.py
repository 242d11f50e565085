"""Odd checkpoints: each gives the right weights, or one line that names the tensor or file and a way out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from exporting import again
from lora_files import adapted_unet, write_lora
from vcut_export.checkpoint.weights import check_names_and_adapters, check_weights, load_component
from vcut_export.exporter import plan_export
from vcut_export.options import ExportOptions
from vcut_runtime import UsageError, VcutError

WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}
TENSOR = "conv_in.weight"  # of the UNet
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 3049435868\n"

Damage = Callable[[Path], Any]


@pytest.fixture
def folder(small_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_checkpoint, tmp_path / "model"))


def weights_file(folder: Path, component: str = "unet") -> Path:
    return folder / component / f"{WEIGHTS[component]}.safetensors"


def edit(change: Callable[[dict[str, torch.Tensor]], Any], component: str = "unet") -> Damage:
    """Return a function that changes the tensors of a component in place."""

    def apply(folder: Path) -> None:
        file = weights_file(folder, component)
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, {"format": "pt"})

    return apply


def put(name: str, tensor: torch.Tensor, component: str = "unet") -> Damage:
    """Return a function that adds a tensor or takes the place of one."""
    return edit(lambda tensors: tensors.update({name: tensor}), component)


def set_value(name: str, value: float, component: str = "unet") -> Damage:
    """Return a function that changes one number of a tensor."""
    return edit(lambda tensors: tensors[name].view(-1)[-1:].fill_(value), component)


def write(content: Callable[[bytes], bytes]) -> Damage:
    """Return a function that changes the bytes of the UNet's file."""

    def apply(folder: Path) -> None:
        file = weights_file(folder)
        file.write_bytes(content(file.read_bytes()))

    return apply


def lie(header: Callable[[dict[str, Any]], Any]) -> Damage:
    """Return a function that changes the header of the UNet's file."""

    def apply(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        described = json.loads(data[8 : 8 + length])
        header(described)
        text = json.dumps(described).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + length :]

    return write(apply)


def lose_a_shard(folder: Path) -> None:
    file = weights_file(folder)
    first, second = "diffusion_pytorch_model-00001-of-00002", "diffusion_pytorch_model-00002-of-00002"
    names = list(load_file(file))
    shards = {name: f"{second if name == TENSOR else first}.safetensors" for name in names}
    file.rename(file.with_name(f"{first}.safetensors"))
    file.with_name("diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def adapt(folder: Path) -> None:
    """Save the UNet with its adapter unmerged."""
    state = adapted_unet(folder, ["conv_in", "to_v"]).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, weights_file(folder), {"format": "pt"})


def replace_by_lora(folder: Path) -> None:
    write_lora(adapted_unet(folder, ["to_q"]), weights_file(folder))


ODD: dict[str, tuple[Damage, str]] = {
    "a shard is missing": (lose_a_shard, r"lacks diffusion_pytorch_model-00002-of-00002.safetensors"),
    "wrong shape": (put(TENSOR, torch.ones(32, 4, 3, 3)), r"conv_in.weight .* shape \[32, 4, 3, 3\]"),
    "extra weights": (put("pose_net.conv.weight", torch.ones(2)), r"pose_net.conv.weight among .* --ignore-unexpected"),
    "extra weights of the VAE": (
        put("post_quant_conv.weight", torch.ones(2), "vae"),
        r"vae in .* post_quant_conv.weight",
    ),
    "extra weights of the image encoder": (
        put("adapter.weight", torch.ones(2), "image_encoder"),
        r"image_encoder in .* adapter.weight",
    ),
    "scaled fp8": (put("conv_in.scale_weight", torch.ones(1)), "it is quantized"),
    "empty file": (write(lambda data: b""), r"cannot read .*diffusion_pytorch_model.safetensors: .*; restore the file"),
    "truncated": (write(lambda data: data[:-100]), r"cannot read .*; restore the file"),
    "a header of another length": (write(lambda data: (2**40).to_bytes(8, "little") + data[8:]), "cannot read"),
    "a header that lies about a place": (lie(lambda h: h[TENSOR].update(data_offsets=[0, 2**40])), "cannot read"),
    "a header that lies about a shape": (lie(lambda h: h[TENSOR].update(shape=[32, 8, 3, 4])), "cannot read"),
    "a pointer of Git LFS": (write(lambda data: LFS), "pointer of Git LFS.*git lfs pull"),
    "whole numbers": (
        put(TENSOR, torch.ones(32, 8, 3, 3, dtype=torch.int8)),
        "conv_in.weight .* is int8, so it is quantized",
    ),
    "NaN": (set_value(TENSOR, float("nan")), "conv_in.weight of unet in .* holds NaN"),
    "infinity": (
        set_value("encoder.conv_in.weight", float("inf"), "vae"),
        "encoder.conv_in.weight of vae in .* holds infinity",
    ),
    "beyond fp16": (
        set_value(TENSOR, 1e5),
        "conv_in.weight of unet .* 1e[+]05, and fp16 ends at .*--precision bf16 or fp32",
    ),
    "unmerged LoRA without its scale": (adapt, "LoRA that is not merged .*adapter_config.json"),
    "a LoRA in the UNet's place": (replace_by_lora, "holds a LoRA and no model .* give it as --lora"),
}


def load(folder: Path, **options: Any) -> dict[str, Any]:
    """Do what an export does before and besides tracing, and return the networks."""
    plan = plan_export(str(folder), ExportOptions(**{"precision": "fp16", **options}))
    check_weights(plan.checkpoint, plan.precision)
    check_names_and_adapters(plan.checkpoint, plan.precision)
    dtype = {"fp16": torch.float16, "fp32": torch.float32}[plan.precision]
    return {component: load_component(plan.checkpoint, component, plan.precision, dtype) for component in WEIGHTS}


@pytest.mark.parametrize("name", list(ODD))
def test_an_odd_checkpoint_is_refused_with_one_line(name: str, folder: Path) -> None:
    damage, says = ODD[name]
    damage(folder)
    with pytest.raises(VcutError, match=says) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_an_export_of_one_fails_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    put("pose_net.conv.weight", torch.ones(2))(folder)
    with pytest.raises(VcutError, match="pose_net"):
        again(folder, tmp_path / "bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_what_is_too_large_for_fp16_fits_into_fp32(folder: Path) -> None:
    set_value(TENSOR, 1e5)(folder)
    assert load(folder, precision="fp32")["unet"].conv_in.weight.max() == 1e5


def test_unexpected_weights_can_be_left_out(folder: Path) -> None:
    before = load(folder)["unet"].state_dict()
    put("pose_net.conv.weight", torch.ones(2))(folder)
    after = load(folder, ignore_unexpected=True)["unet"].state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_text_half_of_clip_is_left_out(folder: Path) -> None:
    others = {"text_model.final_layer_norm.weight": torch.ones(2), "logit_scale": torch.ones(1)}
    others["vision_model.embeddings.position_ids"] = torch.arange(5)
    edit(lambda tensors: tensors.update(others), "image_encoder")(folder)
    assert not any("text" in name for name in load(folder)["image_encoder"].state_dict())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.float64])
def test_other_precisions_are_read(dtype: torch.dtype, folder: Path) -> None:
    kept = load_file(weights_file(folder))[TENSOR].to(dtype)
    edit(lambda tensors: tensors.update({name: value.to(dtype) for name, value in tensors.items()}))(folder)
    unet = load(folder, precision="fp32")["unet"]
    assert torch.equal(unet.conv_in.weight, kept.float())


@pytest.mark.parametrize("wrapper", ["", "base_model.model."])
@pytest.mark.parametrize("alone", [False, True])
def test_unmerged_lora_with_its_scale_is_merged(wrapper: str, alone: bool, folder: Path) -> None:
    """In a whole model, and given as ``--unet``."""
    before = load(folder, precision="fp32")["unet"].state_dict()
    adapt(folder)
    saved, layer = load_file(weights_file(folder)), "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    save_file({wrapper + key: value for key, value in saved.items()}, weights_file(folder), {"format": "pt"})
    (folder / "unet/adapter_config.json").write_text('{"lora_alpha": 6}')
    down, up = (saved[f"{layer}.lora_{part}.default.weight"] for part in "AB")
    options = {"unet": str(folder / "unet")} if alone else {}
    after = load(folder, precision="fp32", **options)["unet"].state_dict()
    torch.testing.assert_close(after[f"{layer}.weight"], before[f"{layer}.weight"] + 6 / len(down) * up @ down)
    assert not torch.equal(after[TENSOR], before[TENSOR])
    assert torch.equal(after["conv_out.weight"], before["conv_out.weight"])


@pytest.mark.parametrize("option", ["model", "unet"])
def test_a_lora_is_no_model(option: str, folder: Path, tmp_path: Path) -> None:
    file = write_lora(adapted_unet(folder, ["to_q"]), tmp_path / "motion.safetensors")
    model, unet = (str(file), None) if option == "model" else (str(folder), str(file))
    with pytest.raises(UsageError, match=r"motion.safetensors (is|holds) a LoRA.*--lora"):
        plan_export(model, ExportOptions(unet=unet))


def test_a_lora_that_does_not_fit_fails_before_any_work(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    save_file({"unet.conv_9.lora_A.weight": torch.ones(1, 2), "unet.conv_9.lora_B.weight": torch.ones(2, 1)}, file)
    with pytest.raises(
        UsageError, match=r"changes 1 of 1 layers that the model lacks, such as unet.conv_9.lora_A.weight"
    ):
        again(folder, tmp_path / "bundle", lora=[file])
    assert not (tmp_path / "bundle").exists()
