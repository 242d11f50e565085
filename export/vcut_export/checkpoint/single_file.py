"""Single files of a whole model in the original layout, such as ``svd_xt.safetensors``: what they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vcut_export.checkpoint.configs import WEIGHTED, Configs, architecture, preset_configs, preset_defaults, presets
from vcut_export.checkpoint.folders import check_suffix, fingerprint
from vcut_export.checkpoint.original import CONDITIONER, FIRST_STAGE, UNET, original_unet, unet_prefix, visual_prefix
from vcut_export.checkpoint.record import Checkpoint
from vcut_export.checkpoint.tensors import Shape, read_header
from vcut_export.lora import looks_like_adapter
from vcut_runtime.errors import UsageError

DEFAULT_PRESET = "svd-xt"
_TEMPORAL = f"{FIRST_STAGE}decoder.conv_out.time_mix_conv.weight"


def single_file(path: Path, preset: str | None, seed: int | None) -> Checkpoint:
    """Return the checkpoint that a single file holds; reads its header and no tensor.

    Its configurations are a preset's. svd, svd-xt and svd-xt-1.1 have the same shapes: the file's metadata or name tell
    them apart, else the default preset is assumed.

    Args:
        path: of the file.
        preset: whose configurations it has; None finds out.
        seed: of random weights, of which only the architecture is the file's.

    Raises:
        UsageError: there is no such file, or it does not hold a whole SVD model.
        VcutError: the file is damaged.
    """
    check_suffix(path)
    if not path.is_file():
        raise UsageError(f"there is no file {path}: check --model")
    header = read_header(path)
    _check_whole(path, header.shapes)
    known = presets()
    mismatches = {name: _mismatch(header.shapes, architecture(values)) for name, values in known.items()}
    fitting = [name for name, mismatch in mismatches.items() if mismatch is None]
    note = None
    if preset is None and fitting:
        choice = _choose(path, header.metadata, fitting)
        preset, note = choice.preset, f"{path.name} is compiled as {choice.preset}, {choice.why}; --preset changes that"
    elif preset is None:
        raise UsageError(
            f"{path.name} has no preset's architecture: {mismatches[DEFAULT_PRESET]} in {DEFAULT_PRESET}; give a "
            "diffusers folder, which has its own configuration"
        )
    elif preset not in fitting:
        raise UsageError(f"{path.name} does not fit --preset {preset}: {mismatches[preset]} there; choose another")
    configs = preset_configs(known[preset])
    return Checkpoint(
        id=path.name,
        configs={**configs, "unet": original_unet(configs["unet"])},
        hub=None,
        revision=fingerprint([path]) if seed is None else None,
        seed=seed,
        defaults=preset_defaults(known[preset]),
        sources=dict.fromkeys(WEIGHTED, path) if seed is None else {},
        note=note,
    )


def _check_whole(path: Path, shapes: Mapping[str, Shape]) -> None:
    """Refuse a file that is not a UNet, a VAE with a temporal decoder, and an image encoder."""
    if looks_like_adapter(shapes):
        raise UsageError(f"{path.name} is a LoRA: give it as --lora, and what it was trained on as --model")
    whole, visual = any(name.startswith(FIRST_STAGE) for name in shapes), visual_prefix(shapes)
    alone = any(unet_prefix(shapes, first) is not None for first in ("input_blocks.0.0.weight", "conv_in.weight"))
    if alone and not whole and visual is None:
        raise UsageError(f"{path.name} holds a UNet alone: give it as --unet, and the rest as --model {DEFAULT_PRESET}")
    if f"{UNET}input_blocks.0.0.weight" not in shapes:
        raise UsageError(
            f"{path.name} has no original SVD layout ({UNET}*, {FIRST_STAGE}*, {CONDITIONER}*): give such "
            "a file, or a diffusers folder"
        )
    if f"{UNET}middle_block.1.time_stack.0.norm1.weight" not in shapes:
        raise UsageError(f"{path.name} is an image model, its UNet has no temporal layers: choose an SVD checkpoint")
    if _TEMPORAL not in shapes:
        raise UsageError(
            f"{path.name} has no temporal decoder ({_TEMPORAL}): use the file without 'image_decoder' in its name"
        )
    if visual is None:
        raise UsageError(
            f"{path.name} has no image encoder ({CONDITIONER}0.open_clip.model.visual.*): use the whole model, or "
            f"give this one as --unet with --model {DEFAULT_PRESET}"
        )


def _mismatch(shapes: Mapping[str, Shape], configs: Configs) -> str | None:
    """Return the first of some telling weights whose shape is another with ``configs``, None if all fit."""
    unet, vae, encoder = configs["unet"], configs["vae"], configs["image_encoder"]
    first, width = unet["block_out_channels"][0], encoder["hidden_size"]
    patch = encoder["patch_size"]
    visual = visual_prefix(shapes)
    expected = {
        f"{UNET}input_blocks.0.0.weight": (first, unet["in_channels"], 3, 3),
        f"{UNET}label_emb.0.0.weight": (4 * first, unet["projection_class_embeddings_input_dim"]),
        f"{UNET}out.2.weight": (unet["out_channels"], first, 3, 3),
        f"{FIRST_STAGE}decoder.conv_in.weight": (vae["block_out_channels"][-1], vae["latent_channels"], 3, 3),
    }
    if f"{visual}conv1.weight" in shapes:
        expected[f"{visual}conv1.weight"] = (width, 3, patch, patch)
    for name, shape in expected.items():
        if shapes.get(name) != shape:
            return f"{name} is {_text(shapes.get(name))}, and {_text(shape)}"
    return None


def _text(shape: Shape | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape))


@dataclass(frozen=True)
class _Choice:
    preset: str
    why: str


def _choose(path: Path, metadata: Mapping[str, str], fitting: list[str]) -> _Choice:
    """Choose among presets of the same shapes."""
    if len(fitting) == 1:
        return _Choice(fitting[0], "which alone has its shapes")
    texts = {"metadata": metadata.get("modelspec.title", ""), "name": path.stem}
    for what, text in texts.items():
        if (preset := preset_in(text)) in fitting:
            return _Choice(preset, f"as its {what} says")
    return _Choice(DEFAULT_PRESET, "because nothing in it tells svd and svd-xt apart")


def preset_in(text: str) -> str | None:
    """Return the preset that a title or a file name names: an official name, with or without a suffix of precision."""
    words = re.sub(r"[^a-z0-9]+", " ", text.lower())
    words = words.replace("stable video diffusion", "svd").replace("img2vid", "").replace("image to video", "")
    words = re.sub(r"\b(fp16|bf16|fp32|fp8|pruned|safetensors)\b", "", words)
    words = " ".join(words.split())
    if re.search(r"\bsvd xt 1 1\b|\bsvd 1 1 xt\b", words):
        return "svd-xt-1.1"
    if re.search(r"\bsvd xt\b", words):
        return "svd-xt"
    return "svd" if words == "svd" else None
