"""Checkpoints that were saved with their adapters unmerged: the layers' own weights, and LoRA tensors beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vcut_export.lora.adapters import check_kind, collect
from vcut_export.lora.keys import other_kind, parse_key
from vcut_export.lora.merging import MergedTensors, match_layers
from vcut_export.lora.scales import ADAPTER_CONFIG, Scaling, read_metadata, read_scaling
from vcut_runtime.errors import UsageError

if TYPE_CHECKING:
    import torch

BASE_LAYER = ".base_layer."  # where PEFT puts the layer that an adapter wraps


class _Renamed(Mapping[str, "torch.Tensor"]):
    """Tensors under other names."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], names: Mapping[str, str]) -> None:
        """Give ``tensors`` the keys of ``names``, whose values are their own names."""
        self.tensors, self.names = tensors, names

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[self.names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def merge_own_adapters(
    tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], file: Path
) -> Mapping[str, torch.Tensor]:
    """Return the tensors of a model with its own unmerged adapters merged; those of a plain model as they are.

    Args:
        tensors: of a model as it was saved.
        shapes: of the architecture's tensors by name.
        file: that the tensors were read from, or the first of several. Its metadata or an ``adapter_config.json``
            beside it tells the scale.

    Raises:
        UsageError: the model has another kind of adapter, several adapters, or the scale is nowhere written.
        VcutError: an adapter is damaged.
    """
    own = [key for key in tensors if parse_key(key) or other_kind(key)]
    wrapped = [key for key in tensors if BASE_LAYER in key]
    if not own and not wrapped:
        return tensors
    source = str(file.parent)
    if not own:
        raise UsageError(
            f"{source} was saved from a model with adapters, but without them ({wrapped[0]}): save the model again "
            "after PEFT's merge_and_unload"
        )
    if len(own) == len(tensors):
        raise UsageError(
            f"{source} holds a LoRA and no model ({own[0]}): give it as --lora, and what it was trained on as --model"
        )
    check_kind(own, source)
    scaling = read_scaling(file, read_metadata(file), peft_folder=True)
    if scaling is None and not any(key.endswith(".alpha") for key in own):
        raise UsageError(
            f"{source} was saved with a LoRA that is not merged ({own[0]}), and nothing tells its scale: "
            f"merge it before saving (PEFT's merge_and_unload), or put its {ADAPTER_CONFIG} beside the weights"
        )
    names = {key.replace(BASE_LAYER, "."): key for key in tensors if key not in set(own)}
    adapter = collect({key: tensors[key] for key in own}, source, scaling or Scaling(), 1.0)
    return MergedTensors(_Renamed(tensors, names), match_layers(shapes, [adapter]))
