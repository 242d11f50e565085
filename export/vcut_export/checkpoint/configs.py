"""Configurations: diffusers' JSON files of a pipeline, from a preset or from a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from vcut_runtime.errors import UsageError

Configs = Mapping[str, dict[str, Any]]

# Component of the pipeline -> its configuration file in a diffusers folder.
CONFIG_FILES = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "image_encoder": "image_encoder/config.json",
    "feature_extractor": "feature_extractor/preprocessor_config.json",
    "scheduler": "scheduler/scheduler_config.json",
}
WEIGHTED = ("unet", "vae", "image_encoder")


def presets() -> dict[str, dict[str, Any]]:
    """Return the built-in models by name, each complete."""
    raw = json.loads(resources.files("vcut_export").joinpath("presets.json").read_text("utf-8"))

    def complete(name: str) -> dict[str, Any]:
        preset = dict(raw[name])
        if "like" in preset:
            base = raw[preset.pop("like")]
            for component in CONFIG_FILES:
                preset[component] = {**base[component], **preset.get(component, {})}
        return preset

    return {name: complete(name) for name in raw}


def preset_folder(preset: Mapping[str, Any]) -> Path | None:
    """Return the folder of a model that comes with the package, None for other presets."""
    if "folder" not in preset:
        return None
    return Path(str(resources.files("vcut_export").joinpath(preset["folder"])))


def preset_configs(preset: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a preset's configurations by component, those that its weights need."""
    if folder := preset_folder(preset):
        return read_configs(folder)
    return architecture(preset)


def architecture(preset: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a preset's configurations by component, for random weights."""
    return {component: preset[component] for component in CONFIG_FILES}


def preset_defaults(preset: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a preset is normally compiled with."""
    return {key: preset[key] for key in ("height", "width", "precision", "operators")}


def scale_factor(configs: Configs) -> int:
    """Pixels per latent pixel: one halving per VAE level but the last, as diffusers computes it."""
    return 2 ** (len(configs["vae"]["block_out_channels"]) - 1)


def default_sizes(configs: Configs) -> dict[str, Any]:
    """Return what a model that is no preset is compiled with.

    Every SVD checkpoint says ``sample_size: 96`` and is run at 576x1024, diffusers' default; any other value is taken
    at its word, in latent pixels.
    """
    size = configs["unet"].get("sample_size")
    if size is None or size == 96:
        height, width = 576, 1024
    else:
        height, width = (side * scale_factor(configs) for side in (size if isinstance(size, list) else (size, size)))
    return {"height": height, "width": width, "precision": "fp16", "operators": "gpu"}


def check_classes(name: str, configs: Configs) -> None:
    """Refuse models of other classes than SVD's.

    Raises:
        UsageError: the UNet or the VAE is of another class.
    """
    unet = configs["unet"].get("_class_name")
    if unet != "UNetSpatioTemporalConditionModel":
        raise UsageError(f"{name} has a UNet of class {unet}, not an SVD model's: choose an SVD checkpoint")
    vae = configs["vae"].get("_class_name")
    if vae != "AutoencoderKLTemporalDecoder":
        raise UsageError(f"{name} has a VAE of class {vae}, not an SVD model's: choose an SVD checkpoint")


def read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the configurations of a diffusers folder.

    Raises:
        UsageError: a file is missing or damaged.
    """
    configs = {component: read_json(folder / file) for component, file in CONFIG_FILES.items()}
    needed = {
        "vae": ("block_out_channels",),
        "unet": ("block_out_channels",),
        "feature_extractor": ("image_mean", "image_std"),
    }
    for component, keys in needed.items():
        for key in keys:
            if not isinstance(configs[component].get(key), list):
                raise UsageError(f"{folder / CONFIG_FILES[component]} lacks the list {key!r}: restore the file")
    return configs


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UsageError: the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{path} is missing: --model needs a diffusers folder with {', '.join(CONFIG_FILES)}"
        ) from None
    except (ValueError, OSError) as error:
        raise UsageError(f"cannot read {path} ({error}): restore the file") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} does not hold a JSON object: restore the file")
    return content
