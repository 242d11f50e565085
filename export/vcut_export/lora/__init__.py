"""LoRA adapters: read, matched to a model's layers, and merged into its weights before anything is folded."""

from vcut_export.lora.adapters import AdapterFile, read_adapters
from vcut_export.lora.keys import looks_like_adapter
from vcut_export.lora.merging import MergedTensors, match_layers
from vcut_export.lora.unmerged import BASE_LAYER, merge_own_adapters

__all__ = [
    "BASE_LAYER",
    "AdapterFile",
    "MergedTensors",
    "looks_like_adapter",
    "match_layers",
    "merge_own_adapters",
    "read_adapters",
]
