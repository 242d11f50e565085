"""Names of tensors in LoRA files: which layer a tensor belongs to, and which part of its adapter it is.

| style | a layer's tensors |
|---|---|
| PEFT | `base_model.model.LAYER.lora_A.weight`, `LAYER.lora_A.default.weight` |
| diffusers | `unet.LAYER.lora_A.weight`, `unet.LAYER.lora.down.weight`, `unet.LAYER.alpha` |
| diffusers before PEFT | `ATTENTION.processor.to_q_lora.down.weight`, `LAYER.lora_layer.down.weight` |
| ComfyUI | `diffusion_model.LAYER.lora_down.weight`, `.lora_up.weight`, `.alpha`, of the original layout's layers |
| kohya | `lora_unet_LAYER_WITH_UNDERSCORES.lora_down.weight`, `.lora_up.weight`, `.alpha` |

A style is never asked for or guessed: every name is read alone, because real files mix styles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from vcut_runtime.errors import UsageError

Part = Literal["down", "up", "alpha"]

_PREFIX = re.compile(r"^(base_model\.model\.|unet\.|diffusion_model\.|lora_unet_)+")
_PARTS = (
    re.compile(r"(?P<layer>.+)\.lora_(?P<part>A|B|down|up)(\.(?P<adapter>[^.]+))?\.weight"),
    re.compile(r"(?P<layer>.+)\.(lora|lora_layer|lora_linear_layer)\.(?P<part>down|up)\.weight"),
    re.compile(r"(?P<attention>.+?)(\.processor)?\.(?P<projection>to_[qkv]|to_out)_lora\.(?P<part>down|up)\.weight"),
    re.compile(r"(?P<layer>.+)\.(?P<part>alpha)"),
)
_PART_NAMES: Mapping[str, Part] = {"A": "down", "B": "up", "down": "down", "up": "up", "alpha": "alpha"}

# What other kinds of adapters call their tensors.
_OTHER_KINDS = {
    ".lora_magnitude_vector": "DoRA",
    ".dora_scale": "DoRA",
    ".lora_mid": "LoRA with a third matrix (LoCon with Tucker decomposition)",
    ".lora_embedding_": "LoRA of embeddings",
    ".hada_": "LoHa",
    ".lokr_": "LoKr",
    ".oft_": "OFT",
    ".boft_": "BOFT",
    ".ia3_": "(IA)³",
    ".vera_lambda": "VeRA",
    "lora_controlnet": "Control-LoRA",
}
_OTHER_ENDINGS = {
    ".lora_B.bias": "LoRA with biases",
    ".diff": "whole differences of weights",
    ".diff_b": "whole differences of weights",
    ".on_input": "(IA)³",
}
_TEXT_ENCODER = re.compile(r"^(text_encoder(_2)?\.|lora_te\d?_)")


@dataclass(frozen=True)
class AdapterKey:
    """The parts of a tensor's name in a LoRA file.

    Attributes:
        layer: the layer's name, still in the file's style, with prefixes removed.
        part: which of the adapter's tensors it is.
        adapter: the adapter's name where PEFT writes one, else None.
    """

    layer: str
    part: Part
    adapter: str | None = None


def parse_key(key: str) -> AdapterKey | None:
    """Return what ``key`` says, None if it is no name of a LoRA's tensor."""
    bare = _PREFIX.sub("", key)
    for pattern in _PARTS:
        if match := pattern.fullmatch(bare):
            groups = match.groupdict()
            layer = groups.get("layer")
            if layer is None:  # of diffusers before PEFT
                projection = groups["projection"]
                layer = f"{groups['attention']}.{'to_out.0' if projection == 'to_out' else projection}"
            return AdapterKey(layer, _PART_NAMES[groups["part"]], groups.get("adapter"))
    return None


def other_kind(key: str) -> str | None:
    """Return the kind of adapter that ``key`` belongs to if it is not a plain LoRA's."""
    for ending, kind in _OTHER_ENDINGS.items():
        if key.endswith(ending):
            return kind
    return next((kind for marker, kind in _OTHER_KINDS.items() if marker in key), None)


def belongs_to_text_encoder(key: str) -> bool:
    """Tell whether ``key`` adapts a text encoder, which SVD does not have."""
    return _TEXT_ENCODER.match(key) is not None


def looks_like_adapter(keys: Iterable[str]) -> bool:
    """Tell whether tensors of these names are adapters alone, and no model."""
    names = list(keys)
    return bool(names) and all(parse_key(name) or other_kind(name) for name in names)


def layer_aliases(layers: Iterable[str]) -> dict[str, str]:
    """Return the layers of a model by each name that files use: with dots, and kohya's with underscores.

    Raises:
        UsageError: two layers share a name with underscores, so that kohya's names would be ambiguous.
    """
    aliases: dict[str, str] = {}
    for layer in layers:
        for alias in {layer, layer.replace(".", "_")}:
            if aliases.setdefault(alias, layer) != layer:
                raise UsageError(f"layers {aliases[alias]} and {layer} have one name with underscores: rename one")
    return aliases
