"""How strongly an adapter is applied: alpha and its rule, from a file's metadata or the configuration beside it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcut_runtime.errors import UsageError

ADAPTER_CONFIG = "adapter_config.json"  # PEFT writes it beside adapter_model.safetensors
_DIFFUSERS_METADATA = "lora_adapter_metadata"  # diffusers.loaders.lora_base.LORA_ADAPTER_METADATA_KEY
_KOHYA_ALPHA = "ss_network_alpha"

# Options of PEFT's LoraConfig with which an adapter is not W + scale * B @ A.
_VARIANTS = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "lora_bias": "LoRA with biases",
    "layer_replication": "LoRA with replicated layers",
    "target_parameters": "LoRA of bare parameters",
    "trainable_token_indices": "LoRA with trained tokens",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "velora_config": "VeLoRA",
}
_PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")  # the others also change the model's own weights


@dataclass(frozen=True)
class Scaling:
    """The rule by which an adapter's layers get their alpha. Without any, alpha is the rank and the factor is 1.

    Attributes:
        alpha: of all layers that have none of their own.
        patterns: of layers whose whole name matches (PEFT's ``alpha_pattern``); the first match counts.
        rank_stabilized: divide by the square root of the rank (rsLoRA).
    """

    alpha: float | None = None
    patterns: tuple[tuple[re.Pattern[str], float], ...] = ()
    rank_stabilized: bool = False

    def factor(self, layer: str, rank: int, own_alpha: float | None) -> float:
        """Return what ``up @ down`` of ``layer`` is multiplied with; the layer's own alpha counts most."""
        alpha = own_alpha
        if alpha is None:
            alpha = next((value for pattern, value in self.patterns if pattern.fullmatch(layer)), self.alpha)
        divisor = math.sqrt(rank) if self.rank_stabilized else rank
        return (rank if alpha is None else alpha) / divisor


def read_scaling(file: Path, metadata: Mapping[str, str], peft_folder: bool) -> Scaling | None:
    """Return the scaling that an adapter was trained with, None if nothing tells.

    Args:
        file: the safetensors file.
        metadata: of that file.
        peft_folder: whether PEFT's ``adapter_config.json`` beside the file speaks of it.

    Raises:
        UsageError: it is another kind of adapter than LoRA, or the configuration is unreadable.
    """
    if _DIFFUSERS_METADATA in metadata:
        config = _parse(metadata[_DIFFUSERS_METADATA], f"{_DIFFUSERS_METADATA} of {file}")
        return _from_config({key.removeprefix("unet."): value for key, value in config.items()}, file)
    beside = file.parent / ADAPTER_CONFIG
    if peft_folder and beside.is_file():
        return _from_config(_parse(beside.read_text("utf-8", errors="replace"), str(beside)), file)
    if _KOHYA_ALPHA in metadata:
        try:
            return Scaling(float(metadata[_KOHYA_ALPHA]))
        except ValueError:
            return None  # kohya writes the text "None" for alpha = rank
    return None


def read_metadata(file: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file that was read before."""
    from safetensors import safe_open

    with safe_open(file, "pt") as content:
        return content.metadata() or {}


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise UsageError(f"cannot read {where} ({error}): restore the file") from None
    if not isinstance(config, dict):
        raise UsageError(f"{where} is not a JSON object: restore the file")
    return config


def _from_config(config: Mapping[str, Any], file: Path) -> Scaling:
    kind = config.get("peft_type", "LORA")
    if str(kind).rpartition(".")[2] != "LORA":
        raise _refusal(file, str(kind))
    for option, name in _VARIANTS.items():
        if config.get(option):
            raise _refusal(file, name)
    if (init := config.get("init_lora_weights")) not in _PLAIN_INITS:
        raise UsageError(
            f"{file} was trained with init_lora_weights={init!r}, which changes the model's own weights too: merge it "
            "with PEFT and give the merged folder as --model"
        )
    alpha, patterns = config.get("lora_alpha"), config.get("alpha_pattern") or {}
    try:
        by_pattern = tuple((re.compile(rf"(.*\.)?({pattern})"), float(value)) for pattern, value in patterns.items())
        return Scaling(None if alpha is None else float(alpha), by_pattern, bool(config.get("use_rslora")))
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise UsageError(f"the adapter configuration of {file} has an impossible alpha ({error}): restore it") from None


def _refusal(file: Path, kind: str) -> UsageError:
    return UsageError(f"{file} is {kind}, vcut merges plain LoRA: merge it with PEFT and give the folder as --model")
