"""The original layout: a component's tensors under diffusers' names, whatever layout the file has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from vcut_export.checkpoint.original_names import decoder_name, encoder_name, image_encoder_name, unet_name
from vcut_export.checkpoint.tensors import LazyTensors, Read
from vcut_export.lora import BASE_LAYER

if TYPE_CHECKING:
    import torch

RESNET_EPS = "resnet_eps"  # vcut's own key in a UNet's configuration
UNET = "model.diffusion_model."
FIRST_STAGE = "first_stage_model."
CONDITIONER = "conditioner.embedders."
Rename = Callable[[str], "str | None"]
# What a UNet's names begin with in files of a UNet alone.
_UNET_PREFIXES = (UNET, "diffusion_model.", "unet.", "module.", "base_model.model.", "")
# What inference does not use: averaged weights, constants and losses of training.
_TRAINING = ("model_ema.", "denoiser.", f"{FIRST_STAGE}loss.")
_VISUAL = re.compile(r"(conditioner\.embedders\.\d+\.open_clip\.model\.visual\.)(.+)")
_CONDITION_VAE = re.compile(r"(conditioner\.embedders\.\d+\.encoder\.)encoder\.conv_in\.weight")


def original_unet(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return diffusers' configuration of a UNet as the original computes it.

    The original normalises in every resnet with an epsilon of 1e-5. diffusers takes 1e-6 in the resnets of its down
    levels with attention and of all its up levels, and has no option for it.
    """
    return {**config, RESNET_EPS: 1e-5}


def unet_prefix(names: Iterable[str], first: str) -> str | None:
    """Return what stands before the UNet's first weight, called ``first`` in its layout; None if there is none."""
    known = {name.replace(BASE_LAYER, ".") for name in names}
    return next((prefix for prefix in _UNET_PREFIXES if f"{prefix}{first}" in known), None)


def visual_prefix(names: Iterable[str]) -> str | None:
    """Return what stands before the weights of the image encoder in a whole model, None if it has none."""
    return next((match[1] for name in names if (match := _VISUAL.fullmatch(name))), None)


def diffusers_tensors(component: str, tensors: LazyTensors, config: Mapping[str, Any]) -> LazyTensors:
    """Return the tensors of ``component`` under the names of diffusers' or transformers' class.

    Tensors that the component has no use for keep their names, so that they can be reported. Those that belong to other
    components of the model are left out.

    Args:
        component: one of ``WEIGHTED``.
        tensors: of a file or folder in diffusers' layout or in the original one.
        config: diffusers' configuration of the component.
    """
    return {"unet": _unet, "vae": _vae, "image_encoder": _image_encoder}[component](tensors, config)


def _unet(tensors: LazyTensors, config: Mapping[str, Any]) -> LazyTensors:
    prefix = unet_prefix(tensors, "input_blocks.0.0.weight")
    original = prefix is not None
    if prefix is None:
        prefix = unet_prefix(tensors, "conv_in.weight")
    if prefix is None:
        return tensors
    layers = config.get("layers_per_block", 2)
    rename = partial(unet_name, layers=layers) if original else lambda name: name
    return _renamed(tensors, {prefix: rename}, (FIRST_STAGE, CONDITIONER, *_TRAINING))


def _vae(tensors: LazyTensors, config: Mapping[str, Any]) -> LazyTensors:
    if f"{FIRST_STAGE}decoder.conv_in.weight" not in tensors:
        return tensors
    # The original pipeline encodes the photograph with the conditioner's own VAE; files made for inference may lack it.
    conditioner = next((match[1] for name in tensors if (match := _CONDITION_VAE.fullmatch(name))), None)
    source = conditioner or FIRST_STAGE
    decode = partial(decoder_name, levels=len(config["block_out_channels"]))
    rules: dict[str, Rename] = {
        f"{source}encoder.": encoder_name,
        f"{source}quant_conv.": "quant_conv.{}".format,
        f"{FIRST_STAGE}decoder.": decode,
    }
    unused = [UNET, CONDITIONER, *_TRAINING]
    if conditioner:
        unused += [f"{FIRST_STAGE}encoder.", f"{FIRST_STAGE}quant_conv."]
    renamed = _renamed(tensors, rules, unused)
    readers = dict(renamed.readers)
    for name, read in renamed.readers.items():
        if re.search(r"mid_block\.attentions\.0\.to_.+\.weight", name):
            readers[name] = partial(_linear, read)
    if source == FIRST_STAGE and not any(name.startswith("quant_conv.") for name in readers):  # the original has none
        channels = 2 * config["latent_channels"]
        readers |= {"quant_conv.weight": partial(_identity, channels), "quant_conv.bias": partial(_zeros, channels)}
    return LazyTensors(readers)


def _image_encoder(tensors: LazyTensors, config: Mapping[str, Any]) -> LazyTensors:
    prefix = visual_prefix(tensors)
    if prefix is None:
        return tensors
    unused = (UNET, FIRST_STAGE, CONDITIONER, *_TRAINING)  # of the conditioner, its VAE and half a text encoder
    if f"{prefix}vision_model.embeddings.class_embedding" in tensors:  # ComfyUI saves transformers' names
        return _renamed(tensors, {prefix: lambda name: name}, unused)
    renamed = _renamed(tensors, {prefix: image_encoder_name}, unused)
    readers: dict[str, Read] = {}
    for name, read in renamed.readers.items():
        if "{}" in name:
            readers |= {name.format(part): partial(_third, read, index) for index, part in enumerate("qkv")}
        else:
            readers[name] = partial(_transposed, read) if name == "visual_projection.weight" else read
    return LazyTensors(readers)


def _renamed(tensors: LazyTensors, rules: Mapping[str, Rename], unused: Iterable[str]) -> LazyTensors:
    """Rename by the rule of each name's prefix, and leave out what begins with one of ``unused``."""
    readers: dict[str, Read] = {}
    for name, read in tensors.readers.items():
        prefix = next((prefix for prefix in rules if name.startswith(prefix)), None)
        if prefix is not None:
            readers[rules[prefix](name.removeprefix(prefix)) or name] = read
        elif not name.startswith(tuple(unused)):
            readers[name] = read
    return LazyTensors(readers)


def _linear(read: Read) -> torch.Tensor:
    """A 1x1 convolution as a linear layer: [out, in, 1, 1] to [out, in]."""
    return read().flatten(1)


def _third(read: Read, index: int) -> torch.Tensor:
    """Queries, keys or values: [3 C, ...] to [C, ...]."""
    return read().chunk(3)[index]


def _transposed(read: Read) -> torch.Tensor:
    return read().T.contiguous()


def _identity(channels: int) -> torch.Tensor:
    """The weight of a 1x1 convolution that changes nothing, [C, C, 1, 1]."""
    import torch

    return torch.eye(channels)[:, :, None, None]


def _zeros(channels: int) -> torch.Tensor:
    import torch

    return torch.zeros(channels)
