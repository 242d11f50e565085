"""LoRA files: what ``--lora`` names, and what such a file holds."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vcut_export.finite import is_finite
from vcut_export.lora.keys import AdapterKey, belongs_to_text_encoder, other_kind, parse_key
from vcut_export.lora.scales import ADAPTER_CONFIG, Scaling, read_scaling
from vcut_runtime.errors import UsageError, VcutError, first_line

if TYPE_CHECKING:
    import torch

_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class AdapterFile:
    """A LoRA file and how strongly to apply it.

    Attributes:
        path: the safetensors file.
        sha256: of its content, in hex.
        scale: multiplies the strength that the file itself says.
    """

    path: Path
    sha256: str
    scale: float

    @classmethod
    def parse(cls, text: str) -> AdapterFile:
        """Return what ``FILE`` or ``FILE:SCALE`` names.

        Raises:
            UsageError: there is no such safetensors file, or the scale is impossible.
        """
        try:
            return cls._parse(text)
        except OSError as error:
            raise UsageError(f"cannot read --lora {text[:200]} ({error.strerror}): check the path") from None

    @classmethod
    def _parse(cls, text: str) -> AdapterFile:
        path, scale = Path(text).expanduser(), 1.0
        name, colon, number = text.rpartition(":")
        if colon and not path.exists():
            path = Path(name).expanduser()
            try:
                scale = float(number)
            except ValueError:
                raise UsageError(f"--lora {text}: no such file, and {number!r} is no scale: write FILE:0.8") from None
        if not math.isfinite(scale):
            raise UsageError(f"--lora {text}: the scale is {scale}: give a finite number")
        if path.is_dir():
            raise UsageError(f"--lora {path} is a folder: name the .safetensors file in it")
        if not path.is_file():
            raise UsageError(f"--lora {path}: no such file")
        if path.suffix != ".safetensors":
            raise UsageError(f"--lora {path}: vcut reads only safetensors, save the LoRA as one")
        with path.open("rb") as file:
            return cls(path, hashlib.file_digest(file, "sha256").hexdigest(), scale)


@dataclass(frozen=True)
class LowRank:
    """The change of one layer's weight: ``factor * up @ down``.

    Attributes:
        key: name of a tensor of it in the file, for messages.
        down: [rank, in] or [rank, in, *kernel].
        up: [out, rank] or [out, rank, 1, ...].
        factor: alpha / rank times the scale that was asked for.
    """

    key: str
    down: torch.Tensor
    up: torch.Tensor
    factor: float


@dataclass(frozen=True)
class Adapter:
    """A LoRA: what changes, by the layer's name in the style of its ``source``, which messages name."""

    source: str
    layers: Mapping[str, LowRank]


def read_adapters(files: Iterable[AdapterFile]) -> list[Adapter]:
    """Read LoRA files.

    Raises:
        UsageError: a file holds something else than a LoRA of a UNet.
        VcutError: a file is damaged.
    """
    return [_read(file) for file in files]


def _read(file: AdapterFile) -> Adapter:
    from safetensors import safe_open

    try:
        with safe_open(file.path, "pt") as content:
            metadata, tensors = content.metadata() or {}, {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises many kinds for a damaged file
        raise VcutError(f"cannot read --lora {file.path}: {first_line(error)}; restore the file") from None
    check_kind(tensors, f"--lora {file.path}")
    by_peft = any(key.startswith(_PEFT_PREFIX) for key in tensors)
    scaling = read_scaling(file.path, metadata, by_peft)
    if scaling is None and by_peft and not any(key.endswith(".alpha") for key in tensors):
        raise UsageError(
            f"--lora {file.path}: PEFT keeps the scale in {ADAPTER_CONFIG}, which is not there: put it beside the file"
        )
    return collect(tensors, f"--lora {file.path}", scaling or Scaling(), file.scale)


def check_kind(keys: Iterable[str], source: str) -> None:
    """Refuse tensors that are no plain LoRA of a UNet.

    Raises:
        UsageError: the message names a key and the kind.
    """
    names = list(keys)
    for key in names:
        if kind := other_kind(key):
            raise UsageError(f"{source} is {kind} ({key}), vcut merges plain LoRA: merge it with its own tool first")
    if key := next(filter(belongs_to_text_encoder, names), None):
        raise UsageError(f"{source} changes a text encoder ({key}), which SVD does not have: choose a LoRA for SVD")
    strange = [key for key in names if parse_key(key) is None]
    if names and len(strange) == len(names):
        raise UsageError(f"{source} holds no LoRA but {strange[0]}: a whole model goes to --model")
    if strange:
        raise UsageError(
            f"{source} holds {len(strange)} tensors that no LoRA has, {strange[0]} among them: save the LoRA alone"
        )
    if not names:
        raise UsageError(f"{source} holds no tensors: choose another file")


def collect(tensors: Mapping[str, torch.Tensor], source: str, scaling: Scaling, scale: float) -> Adapter:
    """Put the tensors of a LoRA together, layer by layer.

    Raises:
        UsageError: several adapters share the file.
        VcutError: a layer lacks a part, or its parts do not fit each other.
    """
    parts: dict[str, dict[str, tuple[str, torch.Tensor]]] = {}
    names: set[str] = set()
    for key, tensor in tensors.items():
        parsed = parse_key(key)
        assert isinstance(parsed, AdapterKey), "check_kind lets nothing else through"
        if parsed.adapter is not None:
            names.add(parsed.adapter)
        if len(names) > 1:
            raise UsageError(f"{source} holds the adapters {', '.join(sorted(names))}: save one of them alone")
        same = parts.setdefault(parsed.layer, {})
        if parsed.part in same:
            raise VcutError(f"{source} has {parsed.part} of a layer twice, as {same[parsed.part][0]} and {key}")
        same[parsed.part] = (key, tensor)
    return Adapter(source, {layer: _low_rank(layer, own, source, scaling, scale) for layer, own in parts.items()})


def _low_rank(
    layer: str, parts: Mapping[str, tuple[str, torch.Tensor]], source: str, scaling: Scaling, scale: float
) -> LowRank:
    key = next(iter(parts.values()))[0]
    for part in ("down", "up"):
        if part not in parts:
            raise VcutError(f"{source} lacks the {part} matrix that belongs to {key}: restore the file")
    (_, down), (_, up) = parts["down"], parts["up"]
    for name, tensor in (parts["down"], parts["up"]):
        if not tensor.is_floating_point():
            raise VcutError(f"{source} has {name} as {tensor.dtype}, not as floating-point numbers: restore the file")
        if not is_finite(tensor):
            raise VcutError(f"{source} has NaN or infinity in {name}: choose another state of its training")
    rank = down.shape[0] if down.ndim else 0
    if down.ndim < 2 or up.ndim < 2 or rank == 0 or up.shape[1] != rank or up.numel() != up.shape[0] * rank:
        raise VcutError(
            f"{source} has shapes {list(up.shape)} and {list(down.shape)} at {key}, which do not multiply: "
            "restore the file"
        )
    alpha = None
    if "alpha" in parts:
        name, tensor = parts["alpha"]
        if tensor.numel() != 1 or not math.isfinite(alpha := float(tensor)):
            raise VcutError(f"{source} has {name} that is no finite number: restore the file")
    return LowRank(key, down, up, scale * scaling.factor(layer, rank, alpha))
