"""What is known of a checkpoint before its weights are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vcut_export.checkpoint.configs import Configs, scale_factor
from vcut_export.lora import AdapterFile
from vcut_runtime.bundle.manifest import LocalFiles


@dataclass(frozen=True)
class Checkpoint:
    """A model whose configuration is known; its weights may still have to be downloaded or made.

    Attributes:
        id: preset name, hub id or the folder's name, as the manifest records it.
        configs: diffusers' own configurations by component.
        hub: hub id to download from, or None.
        revision: hub commit, or the fingerprint of local files.
        seed: seed of random weights, or None for real ones.
        defaults: height, width, precision and operators that the model is normally compiled with, and what its named
            schedules were measured as with them.
        sources: by component, the folder or the file with its weights. The weights of other components are random, or
            still to be downloaded.
        unet: where the UNet comes from that took the place of the model's own, or None.
        adapters: LoRA to merge into the UNet.
        ignore_unexpected: leave out weights that no part of an SVD model has, which are refused otherwise.
        note: what was assumed of the model, for its user, or None.
    """

    id: str
    configs: Configs
    hub: str | None
    revision: str | None
    seed: int | None
    defaults: Mapping[str, Any]
    sources: Mapping[str, Path] = field(default_factory=dict)
    unet: LocalFiles | None = None
    note: str | None = None
    adapters: tuple[AdapterFile, ...] = ()
    ignore_unexpected: bool = False

    @property
    def identity(self) -> str:
        """A fingerprint of the weights, before adapters, and of the configurations."""
        source = [self.id if self.seed is None else f"seed {self.seed}", self.revision, self.configs]
        source += [] if self.unet is None else [self.unet.fingerprint]
        return hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent pixel."""
        return scale_factor(self.configs)
