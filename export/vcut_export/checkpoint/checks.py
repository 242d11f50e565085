"""Checks of a checkpoint's tensors: none is missing, none is unexpected, and every number is finite."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from vcut_export.finite import is_finite
from vcut_runtime.errors import VcutError

if TYPE_CHECKING:
    import torch

# Files of the whole CLIP model carry its text half; older transformers saved the numbers 0, 1, 2 ... as a tensor.
_HARMLESS = {
    "image_encoder": ("text_model.", "text_projection.", "logit_scale", "vision_model.embeddings.position_ids"),
}
# What unexpected tensors are called, and what that says about the file.
_MEANINGS = (
    (("absmax", "quant_map", "quant_state", ".SCB", "scale_weight", "weight_scale", "scaled_fp8"), "it is quantized"),
    (("model_ema.", "ema."), "it holds a second, averaged copy of the weights"),
    (("module.", "_orig_mod."), "it was saved from a wrapped model, and its names have a prefix"),
)
_OTHER_MODEL = "it may be another model that is built on SVD and needs them"


def check_names(component: str, names: Collection[str], expected: Collection[str], where: str, *, ignore: bool) -> None:
    """Refuse a checkpoint that lacks weights, or has weights that nothing would use.

    Args:
        component: which network it is.
        names: of the tensors that the checkpoint has.
        expected: names of the network's parameters.
        where: names the checkpoint in messages.
        ignore: whether weights that nothing uses are left out silently.

    Raises:
        VcutError: the message names a tensor and counts them.
    """
    if missing := sorted(set(expected) - set(names)):
        raise VcutError(
            f"{where} lacks {len(missing)} weights, {missing[0]} among them: restore the file, or save the model again"
        )
    harmless = _HARMLESS.get(component, ())
    unexpected = sorted(name for name in set(names) - set(expected) if not name.startswith(harmless))
    if unexpected and not ignore:
        meaning = next((text for marks, text in _MEANINGS if any(m in unexpected[0] for m in marks)), _OTHER_MODEL)
        raise VcutError(
            f"{where} has {len(unexpected)} weights that SVD does not have, {unexpected[0]} among them: {meaning}; "
            "choose an SVD checkpoint, or leave them out with --ignore-unexpected"
        )


def check_type(name: str, stored: torch.Tensor, where: str) -> None:
    """Refuse a weight of whole numbers: what it stands for is in a scale elsewhere.

    Raises:
        VcutError: the message names the tensor.
    """
    if not stored.is_floating_point():
        kind = str(stored.dtype).removeprefix("torch.")
        raise VcutError(f"{name} of {where} is {kind}, so it is quantized: give the checkpoint that was not")


def check_finite(name: str, stored: torch.Tensor, value: torch.Tensor, where: str) -> None:
    """Refuse a weight with NaN or infinity.

    Args:
        name: of the weight.
        stored: as the checkpoint has it, adapters merged.
        value: the same in the precision of the network.
        where: names the checkpoint in messages.

    Raises:
        VcutError: the message names the tensor, and says whether the file or the precision is the cause.
    """
    import torch

    if is_finite(value):
        return
    if not is_finite(stored):
        kind = "NaN" if torch.isnan(stored.double()).any() else "infinity"
        raise VcutError(f"{name} of {where} holds {kind}: restore the file, or take another state of its training")
    kind, remedy = "bf16", "fp32"
    if value.dtype == torch.float16:
        kind, remedy = "fp16", "bf16 or fp32"
    largest, limit = float(stored.abs().max()), torch.finfo(value.dtype).max
    raise VcutError(
        f"{name} of {where} holds {largest:.3g}, and {kind} ends at {limit:.3g}: export with --precision {remedy}"
    )
