"""What is fetched from the hub, and what its errors become; without a network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from vcut_export import resolve
from vcut_export.checkpoint import WEIGHTED
from vcut_export.checkpoint.hub import download
from vcut_runtime import VcutError


def test_an_unreachable_hub_names_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(VcutError, match=r"cannot reach the hub.*local diffusers folder.*--random-weights") as caught:
        resolve("svd-xt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("GatedRepoError", "accept its licence"),
        ("RepositoryNotFoundError", "no model"),
        ("RevisionNotFoundError", "revision"),
    ],
)
def test_what_the_hub_refuses_is_explained(kind: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import errors

    error = getattr(errors, kind).__new__(getattr(errors, kind))  # its arguments differ between versions

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(VcutError, match=says):
        resolve("acme/model")


@pytest.mark.parametrize(("precision", "variant"), [("fp16", ".fp16"), ("fp32", "")])
def test_only_the_variant_that_is_needed_is_downloaded(
    precision: str, variant: str, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A hub where the UNet and the VAE have both variants and the image encoder only the plain one."""
    from huggingface_hub.utils import filter_repo_objects

    stem = "diffusion_pytorch_model"
    offered = ["image_encoder/model.safetensors", f"vae/{stem}.safetensors", f"vae/{stem}.fp16.safetensors"]
    offered += [f"unet/{stem}.safetensors.index.json", f"unet/{stem}-00001-of-00001.safetensors"]
    offered += [f"unet/{stem}.safetensors.index.fp16.json", f"unet/{stem}.fp16-00001-of-00001.safetensors"]
    fetched: set[str] = set()

    def snapshot_download(repo: str, *, revision: str, allow_patterns: Any, ignore_patterns: Any) -> str:
        for name in filter_repo_objects(offered, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            fetched.add(name)
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    checkpoint = replace(resolve(str(small_checkpoint)), hub="acme/svd", sources={})
    chosen: Any = precision
    assert download(checkpoint, chosen).sources == {name: tmp_path / name for name in WEIGHTED}
    assert fetched == {name for name in offered if ("fp16" in name) == bool(variant) or name.startswith("image")}
