"""The weights of a checkpoint in diffusers' and transformers' own classes: loaded tensor by tensor, or random."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcut_export.checkpoint.checks import check_finite, check_names, check_type
from vcut_export.checkpoint.configs import WEIGHTED
from vcut_export.checkpoint.folders import source_files
from vcut_export.checkpoint.original import RESNET_EPS, diffusers_tensors
from vcut_export.checkpoint.original_names import unet_name
from vcut_export.checkpoint.record import Checkpoint
from vcut_export.checkpoint.tensors import LazyTensors, open_tensors
from vcut_export.lora import MergedTensors, match_layers, merge_own_adapters, read_adapters
from vcut_runtime.bundle.manifest import Precision
from vcut_runtime.errors import VcutError, first_line

if TYPE_CHECKING:
    import torch
    from torch import nn


def torch_dtype(precision: Precision) -> torch.dtype:
    """Return torch's type of a precision."""
    import torch

    return {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[precision]


def check_weights(checkpoint: Checkpoint, precision: Precision) -> None:
    """Refuse sources whose files cannot be what is asked for; reads no tensor.

    Raises:
        UsageError: a component has no ``.safetensors`` file, or it is unclear which to read.
    """
    for source in checkpoint.sources.values():
        source_files(source, precision)


def load_unet(checkpoint: Checkpoint, precision: Precision, dtype: torch.dtype) -> Any:
    """Load the unmodified ``UNetSpatioTemporalConditionModel`` in evaluation mode."""
    return load_component(checkpoint, "unet", precision, dtype)


def load_vae(checkpoint: Checkpoint, precision: Precision, dtype: torch.dtype) -> Any:
    """Load the unmodified ``AutoencoderKLTemporalDecoder`` in evaluation mode."""
    return load_component(checkpoint, "vae", precision, dtype)


def load_image_encoder(checkpoint: Checkpoint, precision: Precision, dtype: torch.dtype) -> Any:
    """Load the unmodified ``CLIPVisionModelWithProjection`` in evaluation mode."""
    return load_component(checkpoint, "image_encoder", precision, dtype)


def load_component(checkpoint: Checkpoint, component: str, precision: Precision, dtype: torch.dtype) -> Any:
    """Load one of ``WEIGHTED`` with its class of diffusers or transformers, in evaluation mode.

    Args:
        checkpoint: its weights are downloaded.
        component: which of its networks.
        precision: says which variant of the files to read.
        dtype: of the loaded parameters.

    Raises:
        UsageError: the files cannot be found.
        VcutError: a file is damaged, or does not hold the weights of this architecture.
    """
    model = empty(checkpoint, component)
    tensors, where = _tensors(checkpoint, component, model, precision)
    return _fill(model, tensors, dtype, where)


def check_names_and_adapters(checkpoint: Checkpoint, precision: Precision) -> None:
    """Refuse weights and adapters that do not fit the architecture. Reads names alone, so that it comes first.

    Raises:
        UsageError: an adapter changes layers that the UNet lacks; or the files cannot be found.
        VcutError: a file is damaged, or does not hold the weights of this architecture.
    """
    for component in WEIGHTED:
        _tensors(checkpoint, component, empty(checkpoint, component), precision)


def _tensors(
    checkpoint: Checkpoint, component: str, model: nn.Module, precision: Precision
) -> tuple[Mapping[str, torch.Tensor], str]:
    """Return the tensors that ``model``, of this component, is made of, adapters merged, and their name in messages."""
    parameters = dict(model.named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    if component in checkpoint.sources:
        source = checkpoint.sources[component]
        where = f"{component} in {source}"
        stored = component_tensors(checkpoint, component, precision)
        tensors = merge_own_adapters(stored, shapes, source_files(source, precision)[0])
        check_names(component, tensors, shapes, where, ignore=checkpoint.ignore_unexpected)
    else:
        assert checkpoint.seed is not None, "weights are resolved before they are loaded"
        tensors, where = _random_tensors(shapes, f"{checkpoint.seed}/{component}"), f"{component} of random weights"
    if component == "unet" and checkpoint.adapters:
        original = partial(unet_name, layers=checkpoint.configs["unet"].get("layers_per_block", 2))
        tensors = MergedTensors(tensors, match_layers(shapes, read_adapters(checkpoint.adapters), original))
    return tensors, where


def component_tensors(checkpoint: Checkpoint, component: str, precision: Precision) -> LazyTensors:
    """Return the tensors of a component by their names in diffusers or transformers, before any is read.

    Raises:
        UsageError: the files cannot be found.
        VcutError: a file is damaged.
    """
    files = source_files(checkpoint.sources[component], precision)
    return diffusers_tensors(component, open_tensors(files), checkpoint.configs[component])


def _fill(model: nn.Module, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype, where: str) -> nn.Module:
    """Put ``tensors`` into ``model``, which is on the meta device, one after the other. ``where`` is for errors."""
    import torch

    for name in [name for name, _ in model.named_parameters()]:
        parent, _, key = name.rpartition(".")
        module = model.get_submodule(parent)
        try:
            stored = tensors[name]
        except Exception as error:  # safetensors raises several kinds for a damaged file
            raise VcutError(f"cannot read {name} of {where}: {first_line(error)}; restore the file") from error
        expected = getattr(module, key).shape
        if stored.shape != expected:
            raise VcutError(
                f"{name} of {where} has the shape {list(stored.shape)}, the configuration asks for {list(expected)}: "
                "give the weights and the configuration of one model"
            )
        check_type(name, stored, where)
        value = stored.to(dtype)
        check_finite(name, stored, value, where)
        setattr(module, key, torch.nn.Parameter(value, requires_grad=False))
    return model.eval()


def empty(checkpoint: Checkpoint, component: str) -> Any:
    """Build a component from its configuration without memory for its parameters, which stay on the meta device."""
    from accelerate import init_empty_weights

    config = dict(checkpoint.configs[component])
    eps = config.pop(RESNET_EPS, None)
    with init_empty_weights():
        if component == "image_encoder":
            from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

            return CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
        from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel

        kind: Any = {"unet": UNetSpatioTemporalConditionModel, "vae": AutoencoderKLTemporalDecoder}[component]
        model = kind.from_config(config)  # like from_pretrained, it ignores what it does not know
    for name, module in model.named_modules() if eps else ():
        if re.search(r"\.resnets\..*\.norm[12]$", name):
            module.eps = eps
    return model


def weight_bytes(checkpoint: Checkpoint, precision: Precision) -> int:
    """Return an upper bound of a bundle's size, from the architectures alone."""
    unet, vae, encoder = (empty(checkpoint, component) for component in WEIGHTED)
    body = sum(p.numel() for module in (unet, encoder, vae.decoder) for p in module.parameters())
    vae_encoder = sum(p.numel() for p in vae.encoder.parameters())
    return body * torch_dtype(precision).itemsize + vae_encoder * 4


def _random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: str) -> LazyTensors:
    """Return seeded weights of a sensible scale, each drawn from its own name when it is asked for."""
    return LazyTensors({name: partial(_draw, name, shape, seed) for name, shape in shapes.items()})


def _draw(name: str, shape: tuple[int, ...], seed: str) -> torch.Tensor:
    """Draw a parameter in float32, whatever it becomes: torch draws other numbers for halves."""
    import torch

    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}.{name}".encode()))
    value = torch.randn(shape, generator=generator)
    if value.ndim > 1:
        return value.mul_(value[0].numel() ** -0.5)
    value *= 0.05
    return value.add_(1.0) if name.endswith(".weight") else value  # a normalisation's scale


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
