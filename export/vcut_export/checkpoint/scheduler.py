"""The scheduler of a checkpoint, reduced to the constants of SVD's schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vcut_runtime.errors import UsageError
from vcut_runtime.schedule import Scheduler


def scheduler_constants(config: Mapping[str, Any]) -> Scheduler:
    """Reduce a scheduler configuration to the constants of the one schedule that the graphs implement.

    Raises:
        UsageError: it is another schedule than SVD's (Euler, v-prediction, Karras sigmas, continuous timesteps).
    """
    expected = {
        "_class_name": "EulerDiscreteScheduler",
        "prediction_type": "v_prediction",
        "timestep_type": "continuous",
        "use_karras_sigmas": True,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
        "rescale_betas_zero_snr": False,
    }
    for key, value in expected.items():
        if config.get(key, value if value is False else None) != value:
            raise UsageError(
                f"the scheduler has {key}={config.get(key)!r}, vcut compiles SVD's schedule ({key}={value!r}): "
                "use a checkpoint with that scheduler_config.json"
            )
    low, high = config.get("sigma_min"), config.get("sigma_max")
    if low is None or high is None or not 0 < low < high:
        raise UsageError("the scheduler needs 0 < sigma_min < sigma_max: set both in scheduler_config.json")
    if config.get("final_sigmas_type", "zero") != "zero":
        raise UsageError("the scheduler has final_sigmas_type other than 'zero': set it in scheduler_config.json")
    # diffusers' init_noise_sigma: sqrt(sigma_max^2 + 1), except that two spacings leave out the 1.
    spaced = config.get("timestep_spacing", "linspace") in ("linspace", "trailing")
    scale = float(high) if spaced else (high * high + 1.0) ** 0.5
    return Scheduler(sigma_min=float(low), sigma_max=float(high), rho=7.0, final_sigma=0.0, initial_noise_scale=scale)
