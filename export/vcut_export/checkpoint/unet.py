"""A UNet alone, which takes the place of a model's own: fine-tunes, AnimateLCM-SVD."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vcut_export.checkpoint.configs import check_classes, read_json
from vcut_export.checkpoint.folders import check_suffix, fingerprint, weight_files
from vcut_export.checkpoint.original import original_unet, unet_prefix
from vcut_export.checkpoint.record import Checkpoint
from vcut_export.checkpoint.tensors import read_header
from vcut_export.lora import BASE_LAYER, looks_like_adapter
from vcut_runtime.bundle.manifest import LocalFiles
from vcut_runtime.errors import UsageError


def replace_unet(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """Return ``checkpoint`` with the UNet at ``path``; reads headers and no tensor.

    Args:
        checkpoint: gives everything else. It gives the UNet's configuration too, unless ``path`` has a ``config.json``.
        path: a file, a folder with weights, or a diffusers pipeline's folder, whose ``unet`` is taken. The names of
            weights are diffusers' or the original's, with or without a prefix.

    Raises:
        UsageError: there is no SVD UNet.
        VcutError: a file is damaged.
    """
    if not path.exists():
        raise UsageError(f"there is no {path}: --unet takes a file or a folder")
    name = path.resolve().name
    config = checkpoint.configs["unet"]
    if path.is_dir():
        path = path / "unet" if (path / "unet").is_dir() else path
        files = weight_files(path, "fp32")  # every variant has the same names
        if (path / "config.json").is_file():
            config = read_json(path / "config.json")
            if not isinstance(config.get("block_out_channels"), list):
                raise UsageError(f"{path / 'config.json'} lacks the list 'block_out_channels': restore the file")
            check_classes(name, {**checkpoint.configs, "unet": config})
        contents = fingerprint(sorted(path.glob("*.safetensors")))
    else:
        check_suffix(path)
        files, contents = [path], fingerprint([path])
    headers = [read_header(file).shapes for file in files]
    shapes = {key.replace(BASE_LAYER, "."): shape for header in headers for key, shape in header.items()}
    first, expected = "input_blocks.0.0.weight", (config["block_out_channels"][0], config.get("in_channels", 8), 3, 3)
    if unet_prefix(shapes, first) is not None:
        config = original_unet(config)
    else:
        first = "conv_in.weight"
    prefix = unet_prefix(shapes, first)
    if prefix is None:
        what = "a LoRA, which goes to --lora" if any(map(looks_like_adapter, headers)) else "no UNet"
        raise UsageError(f"{path} holds {what}: --unet takes the whole UNet of an SVD model, in safetensors")
    if shapes[f"{prefix}{first}"] != expected:
        shape, wanted = ("x".join(map(str, sides)) for sides in (shapes[f"{prefix}{first}"], expected))
        raise UsageError(
            f"{name} does not fit --model {checkpoint.id}: its first layer is {shape}, not {wanted}; give the model it "
            "was made from as --model"
        )
    return replace(
        checkpoint,
        configs={**checkpoint.configs, "unet": config},
        sources={**checkpoint.sources, "unet": path},
        unet=LocalFiles(name, contents),
    )
