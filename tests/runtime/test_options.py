"""The records of options check themselves."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from vcut_runtime import BackendOptions, RunOptions, UsageError


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps is 0: give at least 1"),
        ({"cache_interval": 0}, "cache_interval is 0: give at least 1"),
        ({"fps": 0}, "fps is 0: give at least 1"),
        ({"fps": 1001}, "fps is 1001: give at most 1000"),
        ({"noise_aug_strength": -0.1}, "noise_aug_strength is -0.1: give at least 0"),
        ({"noise_aug_strength": float("nan")}, "noise_aug_strength is nan: give a finite number"),
        ({"motion_bucket_id": float("inf")}, "motion_bucket_id is inf: give a finite number"),
        ({"min_guidance_scale": float("-inf")}, "min_guidance_scale is -inf: give a finite number"),
        ({"seed": -1}, "seed is -1: give at least 0"),
        ({"decode_chunk_size": 0}, "decode_chunk_size is 0: give at least 1"),
        ({"decode_overlap": -1}, "decode_overlap is -1: give at least 0"),
        ({"guide_from": 0}, "guide_from is 0: give at least 1"),
        ({"num_inference_steps": 1001}, "num_inference_steps is 1001: give at most 1000"),
        ({"sigmas": "cos"}, "unknown sigmas 'cos': choose karras, ays, lcm, or give numbers that fall to 0"),
        (
            {"sigmas": [1.0, 2.0, 0.0]},
            "sigmas must be positive and fall from step to step: sort them, and give 0 only as the last",
        ),
        ({"solver": "heun"}, "unknown solver 'heun': choose euler, dpmpp-2m, lcm"),
        ({"guidance": "cos"}, "unknown guidance 'cos': choose linear, triangle, or give a number for each frame"),
        (
            {"guidance": [1.0], "max_guidance_scale": 2.0},
            "a guidance of each frame excludes min_guidance_scale and max_guidance_scale: leave them out",
        ),
        ({"quality_bias": "both"}, "unknown quality_bias 'both': choose mean, cond"),
        ({"fit": "zoom"}, "unknown fit 'zoom': choose stretch, crop, pad, blur"),
        ({"size": "large"}, "unknown size 'large': choose auto"),
        ({"size": "auto", "width": 96}, "size excludes height and width: leave one of them out"),
        ({"output_fps": 0.5}, "output_fps is 0.5: give at least 1"),
        ({"output_fps": 1001}, "output_fps is 1001: give at most 1000"),
        ({"cut_step": "never"}, "cut_step is 'never': give a whole number or 'none'"),
        ({"cut_step": 2.5}, "cut_step is 2.5: give a whole number or 'none'"),
    ],
)
def test_what_is_impossible_in_every_bundle_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        RunOptions(**options)
    assert str(caught.value) == says


@pytest.mark.parametrize("threads", [0, -2])
def test_threads_are_at_least_one(threads: int) -> None:
    with pytest.raises(UsageError, match=f"threads is {threads}: give at least 1"):
        BackendOptions(threads=threads)


@pytest.mark.parametrize("record", [RunOptions, BackendOptions])
def test_records_are_frozen_and_every_field_is_documented(record: Any) -> None:
    options = record()
    for field in fields(record):
        about = field.metadata["about"]
        assert about[0].isupper()
        assert about.rstrip("]").endswith(".") or "[default: " in about
        with pytest.raises(FrozenInstanceError):
            setattr(options, field.name, None)
