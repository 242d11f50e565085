"""The paper's Tables I to IV as data: ``paper.json``, in the paper's units."""

from __future__ import annotations

from functools import cache
from importlib import resources

import msgspec

from vcut_runtime.schedule import CutStep


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of a table."""


class PaperModel(_Record, frozen=True):
    """A model that the paper measured."""

    hub: str
    frames: int


class PerStep(_Record, frozen=True):
    """Table II: 10^12 MACs and 10^9 parameters of a guided step, of the original UNet and without TCA."""

    macs_T: float
    params_B: float
    modified_macs_T: float
    modified_params_B: float


class PerVideo(_Record, frozen=True):
    """Table III: 10^12 MACs and seconds on an NVIDIA A10 of one video of 25 steps at 576x1024."""

    macs_T: float
    latency_s: float


class Paper(_Record, frozen=True):
    """All tables. Models are presets' names, settings are ``base``, ``c10``, ``c17`` and ``c20``."""

    source: str
    models: dict[str, PaperModel]
    table2_per_step: dict[str, PerStep]
    table3_per_video: dict[str, dict[str, PerVideo]]  # by model and setting
    table4_columns: tuple[str, ...]
    table4: dict[str, dict[str, tuple[float, ...]]]  # percent, and seconds last
    table1_modified_quality: dict[str, tuple[float, ...]]  # the columns of Table IV but the last


@cache
def paper() -> Paper:
    """Return the paper's numbers."""
    return msgspec.json.decode(resources.files("vcut_bench").joinpath("paper.json").read_bytes(), type=Paper)


def setting(cut_step: CutStep) -> str:
    """Return the paper's key for a cut step; ``none``, the original model never cut, is ``base``."""
    return "base" if cut_step == "none" else f"c{cut_step}"


def per_step(model: str) -> PerStep | None:
    """Return Table II's row of a preset, None if the paper does not have the model."""
    return paper().table2_per_step.get(model)


def per_video(model: str, cut_step: CutStep) -> PerVideo | None:
    """Return Table III's cell of a preset, None if the paper has none."""
    return paper().table3_per_video.get(model, {}).get(setting(cut_step))


def quality(model: str, cut_step: CutStep) -> dict[str, float] | None:
    """Return Table IV's row of a preset by column, None if the paper has none."""
    row = paper().table4.get(model, {}).get(setting(cut_step))
    return None if row is None else dict(zip(paper().table4_columns, row, strict=True))
