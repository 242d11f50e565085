"""What ``--lora`` accepts, and the one line that everything else gets."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vcut_export.lora import AdapterFile, read_adapters
from vcut_runtime import UsageError, VcutError


def pair(layer: str = "unet.conv_in", rank: int = 2) -> dict[str, torch.Tensor]:
    return {f"{layer}.lora_A.weight": torch.randn(rank, 8), f"{layer}.lora_B.weight": torch.randn(16, rank)}


def written(folder: Path, tensors: dict[str, torch.Tensor], name: str = "lora", **metadata: str) -> Path:
    file = folder / f"{name}.safetensors"
    save_file(tensors, file, metadata or None)
    return file


def refusal(file: Path, kind: type[VcutError] = UsageError) -> str:
    with pytest.raises(VcutError) as caught:
        read_adapters([AdapterFile.parse(str(file))])
    assert type(caught.value) is kind
    message = str(caught.value)
    assert str(file.parent) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("suffix", "scale"), [("", 1.0), (":0.8", 0.8), (":-2", -2.0), (":1e-1", 0.1)])
def test_a_scale_follows_the_name(suffix: str, scale: float, tmp_path: Path) -> None:
    file = written(tmp_path, pair())
    given = AdapterFile.parse(f"{file}{suffix}")
    assert (given.path, given.scale) == (file, scale)
    assert given.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_colon_may_be_part_of_the_name(tmp_path: Path) -> None:
    file = written(tmp_path, pair(), "a:0.5")
    assert AdapterFile.parse(str(file)).scale == 1.0
    assert AdapterFile.parse(f"{file}:2").scale == 2.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{0}/none.safetensors", "no such file"),
        ("{0}/lora.safetensors:strong", "'strong' is no scale: write FILE:0.8"),
        ("{0}/lora.safetensors:nan", "give a finite number"),
        ("{0}", "is a folder"),
        ("{0}/" + 300 * "x", "File name too long"),
        ("{0}/lora.pt", "vcut reads only safetensors"),
    ],
)
def test_an_impossible_file_or_scale_is_refused(text: str, says: str, tmp_path: Path) -> None:
    written(tmp_path, pair())
    (tmp_path / "lora.pt").touch()
    with pytest.raises(UsageError, match=says):
        AdapterFile.parse(text.format(tmp_path))


def without(part: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in pair().items() if part not in key}


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({**pair(), "unet.conv_in.lora_magnitude_vector.weight": torch.ones(16)}, "is DoRA (unet.conv_in.lora_magn"),
        ({"lora_unet_conv_in.hada_w1_a": torch.ones(2)}, "is LoHa (lora_unet_conv_in.hada_w1_a)"),
        ({**pair(), **pair("text_encoder.text_model.fc1")}, "changes a text encoder (text_encoder.text_model.fc1"),
        ({"conv_in.weight": torch.ones(2)}, "holds no LoRA but conv_in.weight: a whole model goes to --model"),
        ({**pair(), "conv_out.weight": torch.ones(2)}, "holds 1 tensors that no LoRA has, conv_out.weight"),
        ({}, "holds no tensors"),
        (
            {key.replace(".weight", f".{name}.weight"): value for name in "ab" for key, value in pair().items()},
            "holds the adapters a, b",
        ),
    ],
)
def test_what_is_no_plain_lora_is_refused(tensors: dict[str, torch.Tensor], says: str, tmp_path: Path) -> None:
    assert says in refusal(written(tmp_path, tensors))


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (without("lora_B"), "lacks the up matrix that belongs to unet.conv_in.lora_A.weight"),
        (without("lora_A"), "lacks the down matrix"),
        ({**pair(), "unet.conv_in.lora_A.weight": torch.ones(3, 8)}, "do not multiply"),
        ({**pair(), "unet.conv_in.lora_A.weight": torch.full((2, 8), float("nan"))}, "NaN or infinity in unet.conv_in"),
        ({**pair(), "unet.conv_in.lora_A.weight": torch.ones(2, 8, dtype=torch.int8)}, "as torch.int8"),
        ({**pair(), "unet.conv_in.alpha": torch.tensor(float("inf"))}, "alpha that is no finite number"),
        ({**pair(), "conv_in.lora_A.weight": torch.ones(2, 8)}, "has down of a layer twice"),
    ],
)
def test_a_damaged_lora_is_refused(tensors: dict[str, torch.Tensor], says: str, tmp_path: Path) -> None:
    assert says in refusal(written(tmp_path, tensors), VcutError)


@pytest.mark.parametrize("content", [b"", b"\xff" * 7, b"\xff" * 100, b"\x10\0\0\0\0\0\0\0not json not json"])
def test_a_file_that_is_no_safetensors_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    file.write_bytes(content)
    assert "cannot read" in refusal(file, VcutError)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"peft_type": "LOKR"}, "is LOKR"),
        ({"use_dora": True}, "is DoRA"),
        ({"init_lora_weights": "pissa"}, "changes the model's own weights too"),
        ({"lora_alpha": "strong"}, "impossible alpha"),
        ({"alpha_pattern": {"(": 1}}, "impossible alpha"),
        ([], "not a JSON object"),
        ("{", "cannot read"),
    ],
)
def test_a_configuration_of_something_else_is_refused(config: Any, says: str, tmp_path: Path) -> None:
    text = config if isinstance(config, str) else json.dumps(config)
    (tmp_path / "adapter_config.json").write_text(text)
    peft = {f"base_model.model.{key}": value for key, value in pair("conv_in").items()}
    assert says in refusal(written(tmp_path, peft))
    if isinstance(config, dict):
        prefixed = json.dumps({f"unet.{key}": value for key, value in config.items()})
        assert says in refusal(written(tmp_path, pair(), lora_adapter_metadata=prefixed))


def test_pefts_file_needs_its_configuration(tmp_path: Path) -> None:
    peft = {f"base_model.model.{key}": value for key, value in pair("conv_in").items()}
    assert "put it beside the file" in refusal(written(tmp_path, peft))


def test_a_configuration_beside_another_tools_file_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 100}')
    (adapter,) = read_adapters([AdapterFile.parse(str(written(tmp_path, pair())))])
    assert adapter.layers["conv_in"].factor == 1.0
