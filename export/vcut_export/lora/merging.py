"""Merging adapters into weights: ``W + sum of factor * up @ down``, in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from vcut_export.lora.adapters import Adapter, LowRank
from vcut_export.lora.keys import layer_aliases
from vcut_runtime.errors import UsageError

if TYPE_CHECKING:
    import torch

Changes = Mapping[str, Sequence[LowRank]]
_WEIGHT = ".weight"


class MergedTensors(Mapping[str, "torch.Tensor"]):
    """A model's tensors with adapters merged; each is read and merged when it is asked for.

    A tensor that changes is float32, whatever it was: whoever casts it rounds the sum once.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], changes: Changes) -> None:
        """Merge ``changes``, as :func:`match_layers` returns them, into ``tensors``."""
        self.tensors, self.changes = tensors, changes

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self.tensors[name]
        for change in self.changes.get(name, ()):
            tensor = tensor.float() + change.factor * _product(change, tensor.shape)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def match_layers(
    shapes: Mapping[str, tuple[int, ...]],
    adapters: Sequence[Adapter],
    original: Callable[[str], str | None] = lambda name: None,
) -> dict[str, list[LowRank]]:
    """Return what changes, by the names of the model's tensors.

    Args:
        shapes: of the model's tensors by name.
        adapters: those to apply.
        original: returns the model's name of a tensor for its name in the original layout, None if that is none.

    Raises:
        UsageError: an adapter has a layer that the model lacks, or one of another shape.
    """
    layers = {name.removesuffix(_WEIGHT): shape for name, shape in shapes.items() if name.endswith(_WEIGHT)}
    aliases = layer_aliases(layer for layer, shape in layers.items() if len(shape) > 1)
    changes: dict[str, list[LowRank]] = {}
    for adapter in adapters:
        named = {
            alias: aliases.get(alias) or (original(alias + _WEIGHT) or "").removesuffix(_WEIGHT)
            for alias in adapter.layers
        }
        missing = [change.key for alias, change in adapter.layers.items() if named[alias] not in layers]
        if missing:
            raise UsageError(
                f"{adapter.source} changes {len(missing)} of {len(adapter.layers)} layers that the model lacks, "
                f"such as {missing[0]}: choose a LoRA that was trained for this model"
            )
        for alias, change in adapter.layers.items():
            layer = named[alias]
            if not _fits(change, layers[layer]):
                raise UsageError(
                    f"{adapter.source} changes a layer of shape {[change.up.shape[0], *change.down.shape[1:]]} with "
                    f"{change.key}, the model's is {list(layers[layer])}: choose a LoRA that was trained for this model"
                )
            changes.setdefault(layer + _WEIGHT, []).append(change)
    return changes


def _fits(change: LowRank, shape: tuple[int, ...]) -> bool:
    """Tell whether a change has the shape of a weight; a linear layer and a convolution of kernel 1 are the same."""
    return (change.up.shape[0], *_without_ones(change.down.shape[1:])) == (shape[0], *_without_ones(shape[1:]))


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """Return ``[in, *kernel]`` without a kernel of 1."""
    return tuple(shape) if any(size != 1 for size in shape[1:]) else tuple(shape[:1])


def _product(change: LowRank, shape: torch.Size) -> torch.Tensor:
    """Return ``up @ down``, float32, in the ``shape`` of the weight.

    A convolution's ``up`` has a kernel of 1, so that the composition of both is one product of matrices.
    """
    return (change.up.float().flatten(1) @ change.down.float().flatten(1)).reshape(shape)
