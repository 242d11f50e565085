"""Weights that a network cannot be made of: too few, too many, no numbers."""

from __future__ import annotations

import pytest
import torch

from vcut_export.checkpoint.checks import check_finite, check_names, check_type
from vcut_runtime import VcutError

EXPECTED = ["conv_in.weight", "conv_out.weight"]


def refusal(*names: str, component: str = "unet", ignore: bool = False) -> str:
    with pytest.raises(VcutError) as caught:
        check_names(component, names, EXPECTED, "unet in model", ignore=ignore)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "meaning"),
    [
        (["pose_net.conv.weight", "pose_net.conv.bias"], "another model that is built on SVD"),
        (["conv_in.weight.absmax", "conv_in.weight.quant_map"], "it is quantized"),
        (["conv_in.scale_weight"], "it is quantized"),
        (["model_ema.decay"], "averaged copy"),
    ],
)
def test_weights_that_nobody_asked_for_are_refused(names: list[str], meaning: str) -> None:
    said = refusal(*EXPECTED, *names)
    assert f"has {len(names)} weights that SVD does not have, {sorted(names)[0]} among them: " in said
    assert meaning in said
    assert "--ignore-unexpected" in said


def test_they_can_be_ignored_but_nothing_may_lack() -> None:
    check_names("unet", [*EXPECTED, "pose_net.conv.weight"], EXPECTED, "unet in model", ignore=True)
    assert "lacks 1 weights, conv_out.weight" in refusal("conv_in.weight", "pose_net.conv.weight", ignore=True)


def test_a_whole_clip_model_is_an_image_encoder() -> None:
    others = ["text_model.embeddings.token_embedding.weight", "text_projection.weight", "logit_scale"]
    others.append("vision_model.embeddings.position_ids")
    check_names("image_encoder", [*EXPECTED, *others], EXPECTED, "image_encoder in model", ignore=False)
    assert "logit_scale" in refusal(*EXPECTED, *others, component="vae")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_whole_numbers_are_no_weights(dtype: torch.dtype) -> None:
    with pytest.raises(VcutError, match=f"conv_in.weight of unet is {str(dtype)[6:]}, so it is quantized"):
        check_type("conv_in.weight", torch.ones(2, dtype=dtype), "unet")


@pytest.mark.parametrize(
    ("value", "dtype", "says"),
    [
        ("nan", torch.float16, "holds NaN: restore the file"),
        ("-inf", torch.float32, "holds infinity: restore the file"),
        ("70000", torch.float16, r"holds 7e\+04, and fp16 ends at 6.55e\+04: export with --precision bf16 or fp32"),
        ("-70000", torch.float16, "--precision bf16 or fp32"),
        ("3.4e38", torch.bfloat16, r"bf16 ends at 3.39e\+38: export with --precision fp32"),
    ],
)
def test_what_is_no_number_is_refused_with_the_remedy(value: str, dtype: torch.dtype, says: str) -> None:
    stored = torch.ones(5)
    stored[3] = float(value)
    with pytest.raises(VcutError, match=f"conv_in.weight of unet {says}|{says}"):
        check_finite("conv_in.weight", stored, stored.to(dtype), "unet")


def test_numbers_pass() -> None:
    stored = torch.tensor([65504.0, -65504.0, 0.0])
    check_finite("conv_in.weight", stored, stored.half(), "unet")
