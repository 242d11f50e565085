"""Which files of a folder are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vcut_export.checkpoint.folders import weight_files
from vcut_runtime import UsageError

STEM = "diffusion_pytorch_model"
SHARDS = [f"{STEM}-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
BF16_SHARDS = [f"{STEM}.bf16-{number:05}-of-00002.safetensors" for number in (1, 2)]


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("names", "fp32", "fp16", "bf16"),
    [
        (["", ".fp16", ".bf16"], "", ".fp16", ".bf16"),
        (["", ".fp16"], "", ".fp16", ".fp16"),
        ([".fp16"], ".fp16", ".fp16", ".fp16"),
        ([".bf16"], ".bf16", ".bf16", ".bf16"),
        (["", ".non_ema"], "", "", ""),
        ([".non_ema"], ".non_ema", ".non_ema", ".non_ema"),
        ([".ema.v2"], ".ema.v2", ".ema.v2", ".ema.v2"),
    ],
)
def test_each_precision_reads_its_variant(names: list[str], fp32: str, fp16: str, bf16: str, tmp_path: Path) -> None:
    fill(tmp_path, *(f"{STEM}{name}.safetensors" for name in names))
    choices: dict[Any, str] = {"fp32": fp32, "fp16": fp16, "bf16": bf16}
    for precision, name in choices.items():
        assert weight_files(tmp_path, precision) == [tmp_path / f"{STEM}{name}.safetensors"]


@pytest.mark.parametrize(
    "shards",
    [SHARDS, BF16_SHARDS, [name.replace(".bf16", "").replace(".safe", ".bf16.safe") for name in BF16_SHARDS]],
)
def test_shards_need_no_index(shards: list[str], tmp_path: Path) -> None:
    fill(tmp_path, *shards)
    assert weight_files(tmp_path, "fp16") == [tmp_path / name for name in shards]
    (tmp_path / shards[0]).unlink()
    with pytest.raises(UsageError, match="lacks shard 1 of"):
        weight_files(tmp_path, "fp16")


@pytest.mark.parametrize(("variant", "shards"), [("", SHARDS), (".bf16", BF16_SHARDS)])
def test_the_index_tells_shards_from_leftovers(variant: str, shards: list[str], tmp_path: Path) -> None:
    fill(tmp_path, *shards, shards[0].replace("00001-of", "00004-of"))
    index = tmp_path / f"{STEM}.safetensors.index{variant}.json"
    index.write_text(json.dumps({"weight_map": {f"key{i}": name for i, name in enumerate(shards)}}))
    assert weight_files(tmp_path, "fp32") == [tmp_path / name for name in shards]
    (tmp_path / shards[1]).unlink()
    with pytest.raises(UsageError, match=f"lacks {shards[1]}, which {index.name} names"):
        weight_files(tmp_path, "fp32")
    for content in ({}, {"weight_map": {"key": "../elsewhere.safetensors"}}):
        index.write_text(json.dumps(content))
        with pytest.raises(UsageError, match="has no weight_map of files beside it"):
            weight_files(tmp_path, "fp32")


@pytest.mark.parametrize("stem", ["model", "unet", "AnimateLCM-SVD-xt"])
def test_any_name_is_read_if_it_is_the_only_one(stem: str, tmp_path: Path) -> None:
    fill(tmp_path, f"{stem}.safetensors")
    assert weight_files(tmp_path, "fp16") == [tmp_path / f"{stem}.safetensors"]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], r"has no \.safetensors file: restore it"),
        ([f"{STEM}.bin"], f"but {STEM}.bin: vcut reads only safetensors, because a pickle can run code"),
        ([f"{STEM}.ema.safetensors", f"{STEM}.non_ema.safetensors"], "holds the variants ema, non_ema"),
        (["first.safetensors", "second.safetensors"], "holds first, second"),
        ([SHARDS[0], BF16_SHARDS[0].replace(".bf16", "")], "shards of several saves"),
    ],
)
def test_what_cannot_be_read_is_told_why(names: list[str], says: str, tmp_path: Path) -> None:
    fill(tmp_path, *names)
    with pytest.raises(UsageError, match=says):
        weight_files(tmp_path, "fp16")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unet is missing"):
        weight_files(tmp_path / "unet", "fp16")
