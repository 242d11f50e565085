"""The weights of a checkpoint: finding them, loading them with diffusers' own classes, making random ones."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcut_export.checkpoint import CONFIG_FILES, WEIGHTED, Checkpoint, hub_errors
from vcut_runtime.bundle.manifest import Precision
from vcut_runtime.errors import UsageError, VcutError, first_line

if TYPE_CHECKING:
    import torch
    from torch import nn

_WEIGHT_FILES = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "image_encoder": "model",
}


def torch_dtype(precision: Precision) -> torch.dtype:
    """Return torch's type of a precision."""
    import torch

    return {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[precision]


def download(checkpoint: Checkpoint, precision: Precision) -> Checkpoint:
    """Fetch the weights of a hub checkpoint into the hub's cache; anything else is returned as it is.

    Raises:
        VcutError: the hub is out of reach, or has no safetensors for a component.
    """
    if checkpoint.hub is None or checkpoint.seed is not None:
        return checkpoint
    with hub_errors(checkpoint.hub):
        from huggingface_hub import snapshot_download

        def fetch(components: list[str], variant: str) -> Path:
            if variant == "fp16":
                kinds, ignored = ("*fp16*.safetensors", "*.index.fp16.json"), None
            else:
                kinds, ignored = ("*.safetensors", "*.safetensors.index.json"), ["*fp16*"]
            patterns = [f"{component}/{kind}" for component in components for kind in kinds]
            return Path(
                snapshot_download(
                    checkpoint.hub or "",
                    revision=checkpoint.revision,
                    allow_patterns=[*CONFIG_FILES.values(), *patterns],
                    ignore_patterns=ignored,
                )
            )

        first, second = ("", "fp16") if precision == "fp32" else ("fp16", "")
        folder = fetch(list(WEIGHTED), first)
        if lacking := [component for component in WEIGHTED if weight_variant(folder, component, precision) is None]:
            folder = fetch(lacking, second)
    if any(weight_variant(folder, component, precision) is None for component in WEIGHTED):
        raise VcutError(
            f"{checkpoint.hub} offers no safetensors, or the hub could not be reached: check the network, or save the "
            "model locally with safe_serialization=True"
        )
    return replace(checkpoint, folder=folder)


def weight_variant(folder: Path, component: str, precision: Precision) -> str | None:
    """Return which weights to load from ``folder``: ``"fp16"``, ``""`` for the plain ones, None if there are none."""
    stem = _WEIGHT_FILES[component]
    variants = ("", "fp16") if precision == "fp32" else ("fp16", "")
    for variant in variants:
        # diffusers' and transformers' names for one file, and for the index of several
        dotted = f".{variant}" if variant else ""
        names = (f"{stem}{dotted}.safetensors", f"{stem}.safetensors.index{dotted}.json")
        if any((folder / component / name).is_file() for name in names):
            return variant
    return None


def check_weights(checkpoint: Checkpoint, precision: Precision) -> None:
    """Refuse a folder without safetensors.

    Raises:
        UsageError: a component has no ``.safetensors`` file.
    """
    if checkpoint.folder is None or checkpoint.seed is not None:
        return
    for component in WEIGHTED:
        if weight_variant(checkpoint.folder, component, precision) is None:
            raise UsageError(
                f"{checkpoint.folder / component} has no {_WEIGHT_FILES[component]}.safetensors: vcut reads only "
                "safetensors, save the model again with safe_serialization=True"
            )


def load_unet(checkpoint: Checkpoint, precision: Precision, dtype: torch.dtype) -> Any:
    """Load the unmodified ``UNetSpatioTemporalConditionModel`` in evaluation mode."""
    from diffusers import UNetSpatioTemporalConditionModel

    return _load(checkpoint, "unet", UNetSpatioTemporalConditionModel, precision, dtype)


def load_vae(checkpoint: Checkpoint, precision: Precision, dtype: torch.dtype) -> Any:
    """Load the unmodified ``AutoencoderKLTemporalDecoder`` in evaluation mode."""
    from diffusers import AutoencoderKLTemporalDecoder

    return _load(checkpoint, "vae", AutoencoderKLTemporalDecoder, precision, dtype)


def load_image_encoder(checkpoint: Checkpoint, precision: Precision, dtype: torch.dtype) -> Any:
    """Load the unmodified ``CLIPVisionModelWithProjection`` in evaluation mode."""
    from transformers import CLIPVisionModelWithProjection

    return _load(checkpoint, "image_encoder", CLIPVisionModelWithProjection, precision, dtype)


def _load(checkpoint: Checkpoint, component: str, kind: Any, precision: Precision, dtype: torch.dtype) -> Any:
    if checkpoint.seed is not None:
        return _random(checkpoint, component, kind, dtype)
    assert checkpoint.folder is not None, "weights are resolved before they are loaded"
    variant = weight_variant(checkpoint.folder, component, precision) or None
    dtype_name = "dtype" if component == "image_encoder" else "torch_dtype"
    try:
        model, report = kind.from_pretrained(
            str(checkpoint.folder),
            subfolder=component,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **{dtype_name: dtype},
        )
    except Exception as error:  # diffusers and safetensors raise many kinds for a damaged file
        raise VcutError(f"cannot load {component} from {checkpoint.folder}: {first_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise VcutError(
            f"{component} in {checkpoint.folder} lacks {len(missing)} weights, {missing[0]} among them: "
            "restore the file, or save the model again"
        )
    return model.eval().requires_grad_(False)


def empty(checkpoint: Checkpoint, component: str, kind: Any) -> Any:
    """Build ``kind`` from its configuration without memory for its parameters, which stay on the meta device."""
    from accelerate import init_empty_weights

    config = dict(checkpoint.configs[component])
    with init_empty_weights():
        if component == "image_encoder":
            from transformers import CLIPVisionConfig

            return kind(CLIPVisionConfig(**config))
        return kind.from_config(config)  # like from_pretrained, it ignores what it does not know


def weight_bytes(checkpoint: Checkpoint, precision: Precision) -> int:
    """Return an upper bound of a bundle's size, from the architectures alone."""
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionModelWithProjection

    unet = empty(checkpoint, "unet", UNetSpatioTemporalConditionModel)
    vae = empty(checkpoint, "vae", AutoencoderKLTemporalDecoder)
    encoder = empty(checkpoint, "image_encoder", CLIPVisionModelWithProjection)
    body = sum(p.numel() for module in (unet, encoder, vae.decoder) for p in module.parameters())
    vae_encoder = sum(p.numel() for p in vae.encoder.parameters())
    return body * torch_dtype(precision).itemsize + vae_encoder * 4


def _random(checkpoint: Checkpoint, component: str, kind: Any, dtype: torch.dtype) -> Any:
    """Build ``kind`` with seeded weights of a sensible scale, each parameter drawn from its own name."""
    import torch

    model: nn.Module = empty(checkpoint, component, kind)
    for name, module in model.named_modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            seed = zlib.crc32(f"{checkpoint.seed}/{component}.{name}.{key}".encode())
            generator = torch.Generator().manual_seed(seed)
            # Drawn in float32 whatever the dtype: torch draws other numbers for halves.
            value = torch.randn(parameter.shape, generator=generator)
            if value.ndim > 1:
                value *= value[0].numel() ** -0.5
            else:
                value *= 0.05
                if key == "weight":
                    value += 1.0  # a normalisation's scale
            setattr(module, key, torch.nn.Parameter(value.to(dtype), requires_grad=False))
    return model.eval()


def load_pipeline(checkpoint: Checkpoint, precision: Precision, dtype: torch.dtype) -> Any:
    """Load the unmodified ``StableVideoDiffusionPipeline``; ``precision`` says which files of a checkpoint to read."""
    from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
    from transformers import CLIPImageProcessor

    scheduler: Any = EulerDiscreteScheduler.from_config(dict(checkpoint.configs["scheduler"]))
    extractor = {k: v for k, v in checkpoint.configs["feature_extractor"].items() if not k.endswith("_type")}
    return StableVideoDiffusionPipeline(
        vae=load_vae(checkpoint, precision, dtype),
        image_encoder=load_image_encoder(checkpoint, precision, dtype),
        unet=load_unet(checkpoint, precision, dtype),
        scheduler=scheduler,
        feature_extractor=CLIPImageProcessor(**extractor),
    )


def save_checkpoint(checkpoint: Checkpoint, folder: Path, precision: Precision = "fp32") -> None:
    """Write ``checkpoint`` as a diffusers folder that ``StableVideoDiffusionPipeline.from_pretrained`` loads."""
    load_pipeline(checkpoint, precision, torch_dtype(precision)).save_pretrained(folder, safe_serialization=True)
