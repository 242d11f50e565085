"""The scheduler's constants."""

from __future__ import annotations

from typing import Any

import pytest

from vcut_export import resolve
from vcut_export.checkpoint import scheduler_constants


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_the_initial_noise_scale_is_diffusers(spacing: str) -> None:
    from diffusers import EulerDiscreteScheduler

    config = {**resolve("svd-tiny").configs["scheduler"], "timestep_spacing": spacing}
    scheduler: Any = EulerDiscreteScheduler.from_config(config)
    scheduler.set_timesteps(25)
    scale = scheduler_constants(config).initial_noise_scale
    assert scale == pytest.approx(float(scheduler.init_noise_sigma), rel=1e-6)
