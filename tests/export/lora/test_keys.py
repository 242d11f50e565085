"""Names of tensors in LoRA files, one by one."""

from __future__ import annotations

import pytest

from vcut_export.lora.keys import (
    AdapterKey,
    belongs_to_text_encoder,
    layer_aliases,
    looks_like_adapter,
    other_kind,
    parse_key,
)
from vcut_runtime import UsageError

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


@pytest.mark.parametrize(
    ("key", "layer", "part", "adapter"),
    [
        (f"unet.{ATTENTION}.to_q.lora_A.weight", f"{ATTENTION}.to_q", "down", None),
        (f"{ATTENTION}.to_q.lora_B.weight", f"{ATTENTION}.to_q", "up", None),
        (f"base_model.model.{ATTENTION}.to_out.0.lora_A.weight", f"{ATTENTION}.to_out.0", "down", None),
        (f"base_model.model.unet.{ATTENTION}.to_k.lora_B.weight", f"{ATTENTION}.to_k", "up", None),
        (f"{ATTENTION}.to_q.lora_A.default.weight", f"{ATTENTION}.to_q", "down", "default"),
        (f"unet.{ATTENTION}.to_v.lora.down.weight", f"{ATTENTION}.to_v", "down", None),
        (f"unet.{ATTENTION}.to_v.alpha", f"{ATTENTION}.to_v", "alpha", None),
        (f"{ATTENTION}.to_v.lora_layer.up.weight", f"{ATTENTION}.to_v", "up", None),
        (f"unet.{ATTENTION}.processor.to_out_lora.up.weight", f"{ATTENTION}.to_out.0", "up", None),
        (f"{ATTENTION}.to_q_lora.down.weight", f"{ATTENTION}.to_q", "down", None),
        ("diffusion_model.out.2.lora_up.weight", "out.2", "up", None),
        ("lora_unet_mid_block_resnets_0_conv1.lora_down.weight", "mid_block_resnets_0_conv1", "down", None),
        ("lora_unet_mid_block_resnets_0_conv1.lora_up.weight", "mid_block_resnets_0_conv1", "up", None),
        ("lora_unet_mid_block_resnets_0_conv1.alpha", "mid_block_resnets_0_conv1", "alpha", None),
    ],
)
def test_a_name_says_layer_and_part(key: str, layer: str, part: str, adapter: str | None) -> None:
    parsed = parse_key(key)
    assert parsed is not None
    assert (parsed.layer, parsed.part, parsed.adapter) == (layer, part, adapter)
    assert other_kind(key) is None


@pytest.mark.parametrize(
    "key", ["conv_in.weight", "time_mixer.mix_factor", "pose_net.conv.weight", "vision_model.embeddings.position_ids"]
)
def test_weights_of_models_are_no_adapters(key: str) -> None:
    assert parse_key(key) is None
    assert other_kind(key) is None
    assert not looks_like_adapter([key, "lora_unet_conv_in.alpha"])


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("unet.conv_in.lora_magnitude_vector.weight", "DoRA"),
        ("lora_unet_conv_in.dora_scale", "DoRA"),
        ("lora_unet_conv_in.hada_w1_a", "LoHa"),
        ("lora_unet_conv_in.lokr_w2", "LoKr"),
        ("lora_unet_conv_in.lora_mid.weight", "Tucker"),
        ("lora_unet_conv_in.oft_blocks", "OFT"),
        ("lora_unet_conv_in.diff", "whole differences"),
        ("base_model.model.conv_in.ia3_l", "(IA)³"),
        ("conv_in.lora_B.bias", "biases"),
    ],
)
def test_other_adapters_are_known_by_name(key: str, kind: str) -> None:
    assert kind in (other_kind(key) or "")
    assert looks_like_adapter([key, "lora_unet_conv_in.alpha"])


def test_text_encoders_are_told_apart() -> None:
    assert belongs_to_text_encoder("text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight")
    assert belongs_to_text_encoder("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight")
    assert not belongs_to_text_encoder("lora_unet_conv_in.alpha")


def test_layers_have_a_name_with_underscores_too() -> None:
    assert layer_aliases(["a.b", "c"]) == {"a.b": "a.b", "a_b": "a.b", "c": "c"}
    with pytest.raises(UsageError, match="one name with underscores"):
        layer_aliases(["a.b_c", "a_b.c"])


def test_keys_compare_by_value() -> None:
    assert parse_key("unet.conv_in.lora_A.weight") == AdapterKey("conv_in", "down")
