"""The model that most tests compile. It is smaller than svd-tiny, and its latents have SVD's own four channels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vcut_export.checkpoint import Checkpoint
    from vcut_export.plan import Plan

TINY: dict[str, dict[str, Any]] = {
    "unet": {
        "block_out_channels": [32, 64, 64, 64],
        "in_channels": 8,
        "num_attention_heads": [1, 2, 2, 2],
        "num_frames": 14,
        "out_channels": 4,
        "sample_size": [8, 12],
    },
    "vae": {
        "block_out_channels": [32, 32, 64, 64],
        "latent_channels": 4,
        "layers_per_block": 2,
        "sample_size": 64,
    },
}


def tiny(seed: int = 0) -> Checkpoint:
    """Return a model of SVD's depth for 14 frames of 64x96, with random weights."""
    from vcut_export import resolve

    preset = resolve("svd-tiny", random_weights=True, seed=seed)
    configs = {name: {**config, **TINY.get(name, {})} for name, config in preset.configs.items()}
    return replace(preset, id="tiny", configs=configs, defaults={**preset.defaults, "height": 64, "width": 96})


def planned(checkpoint: Checkpoint, **options: Any) -> Plan:
    """Return the plan of ``checkpoint`` with these options."""
    from vcut_export.options import ExportOptions
    from vcut_export.plan import make_plan

    return make_plan(checkpoint, ExportOptions(**options))
