"""The C++ runtime plans the same videos as the Python runtime: the same steps, and the same refusals."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from vcut_c import Bundle, Library, refusal
from vcut_runtime import RunOptions, UsageError, open_bundle
from vcut_runtime.bundle.manifest import Manifest
from vcut_runtime.run_plan import RunPlan, plan_run

CASES: list[dict[str, Any]] = [
    {},
    *({"schedule": name} for name in ("vcut", "exact", "balanced", "fast", "none of these")),
    *({"num_inference_steps": steps} for steps in (1, 2, 25, 1000, 1001, -1)),
    *({"sigmas": "ays", "num_inference_steps": steps} for steps in (1, 2, 8, 10, 30)),
    *({"solver": solver, "num_inference_steps": 9} for solver in ("euler", "dpmpp-2m", "lcm", "heun")),
    *({"solver": "lcm", "num_inference_steps": steps} for steps in (1, 3, 40, 41)),
    {"solver": "lcm", "max_guidance_scale": 2.0},
    {"solver": "lcm", "max_guidance_scale": 1.0, "guide_from": 2},
    {"solver": "lcm", "cut_step": 2},
    *({"cut_step": cut_step} for cut_step in ("none", 1, 2, 5, 6, -2)),
    *({"guide_from": guide_from, "cut_step": 3} for guide_from in (-1, 2, 3)),
    {"quality_bias": "cond"},
    {"quality_bias": "both"},
    {"max_guidance_scale": 1.0},
    {"min_guidance_scale": 2.5, "max_guidance_scale": 0.5},
    {"max_guidance_scale": float("inf")},
    {"guidance": "triangle", "max_guidance_scale": 6.5},
    {"guidance": "cubic"},
    {"guidance": [1.0, 2.0]},
    {"guidance": [1.0, 1.5, 3.0]},
    {"guidance": [1.0, 1.5, 3.0], "max_guidance_scale": 2.0},
    {"guidance": [1.0, 1e39, 3.0]},
    *({"sigmas": sigmas} for sigmas in ([700.0, 9.5, 1.0, 0.0], [3.0, 0.0], "exponential", [0.0, 0.0], [5.0, 1.0])),
    *({"sigmas": sigmas} for sigmas in ([5.0, 6.0, 0.0], [float("nan"), 0.0], [1e39, 0.0], [0.0])),
    {"sigmas": [700.0, 9.5, 1.0, 0.0], "num_inference_steps": 4},
    {"cache_interval": 2},
    {"cache_interval": 3, "guide_from": 2, "cut_step": 4},
    {"cache_interval": -1},
    *({"num_frames": frames} for frames in (1, 2, 3, 5, 6)),
    *({"height": size} for size in (24, 32, 48, 50)),
    *({"width": size} for size in (16, 44, -8)),
    *({"decode_chunk_size": chunk} for chunk in (1, 2, 3, 5, 100, -1)),
    {"decode_chunk_size": 3, "decode_overlap": 1},
    {"decode_chunk_size": 2, "decode_overlap": 1},
    {"decode_overlap": -2},
    *({"fps": fps} for fps in (0, 0.5, 1, 23.976, 1000, 1000.5, 1e300)),
    *({"output_fps": fps} for fps in (0.25, 60, 1001, float("inf"))),
    *({"seed": seed} for seed in (0, 2**63 - 1, 2**63)),
    {"size": "auto"},
    {"size": "auto", "width": 32},
    {"num_frames": 1025},
    {"height": 16385, "width": -1},
    {"guide_from": 1001},
    {"decode_overlap": 1025},
    {"motion_bucket_id": -1e39},
    {"min_guidance_scale": 123456789.5e30},
    {"noise_aug_strength": -0.5},
    {"motion_bucket_id": float("nan")},
    {"fit": "pad"},
    {"fit": "contain"},
    {"schedule": "fast", "num_inference_steps": 3},
    {"schedule": "fast", "sigmas": "ays"},
    {"schedule": "fast", "solver": "lcm"},
    {"schedule": "fast", "quality_bias": "cond"},
]


def random_case(draw: random.Random) -> dict[str, Any]:
    """Return options that may or may not fit together."""
    choices: dict[str, list[Any]] = {
        "num_inference_steps": [1, 3, 6, 12, 25],
        "sigmas": ["karras", "ays", "lcm", [80.0, 7.0, 1.5, 0.2, 0.0]],
        "solver": ["euler", "dpmpp-2m", "lcm"],
        "guide_from": [1, 2, 4],
        "cut_step": ["none", 1, 3, 5, 9],
        "cache_interval": [1, 2, 3],
        "quality_bias": ["mean", "cond"],
        "max_guidance_scale": [0.5, 1.0, 4.0],
        "guidance": ["linear", "triangle"],
    }
    names = draw.sample(list(choices), draw.randrange(1, 6))
    return {name: draw.choice(choices[name]) for name in names}


def expected(manifest: Manifest, options: dict[str, Any]) -> RunPlan | str:
    """Return Python's plan or refusal."""
    try:
        return plan_run(manifest, RunOptions(**options))
    except UsageError as error:
        return str(error)


def compare(library: Library, folder: Path, cases: list[dict[str, Any]]) -> tuple[int, int]:
    """Check each case, and return how many were planned and how many refused."""
    manifest, bundle = open_bundle(folder).manifest, Bundle(library, folder)
    planned = refused = 0
    try:
        for options in cases:
            want = expected(manifest, options)
            if isinstance(want, str):
                assert refusal(lambda options=options: bundle.plan(**options)) == want, options
                refused += 1
                continue
            got = bundle.plan(**options)
            assert got.sizes == tuple(want.sizes), options
            assert len(got.steps) == len(want.schedule), options
            for step, right in zip(got.steps, want.schedule, strict=True):
                assert (step.graph, step.bias) == (right.graph, right.bias), options
                close = pytest.approx([right.sigma, right.noise, *right.coefficients], rel=3e-7, abs=1e-7)
                assert [step.sigma, step.noise, *step.coefficients] == close, options
            planned += 1
    finally:
        bundle.close()
    return planned, refused


def test_plans_and_refusals_are_pythons(library: Library, small_bundle: Path) -> None:
    planned, refused = compare(library, small_bundle, CASES)
    assert planned > 25
    assert refused > 25


def test_plans_of_a_bundle_with_free_sizes_and_shallow_steps(library: Library, dynamic_bundle: Path) -> None:
    planned, refused = compare(library, dynamic_bundle, CASES)
    assert planned > 35
    assert refused > 20


def test_random_options_are_planned_or_refused_as_in_python(library: Library, dynamic_bundle: Path) -> None:
    draw = random.Random(0)
    planned, refused = compare(library, dynamic_bundle, [random_case(draw) for _ in range(200)])
    assert planned > 50
    assert refused > 25


def test_given_steps_are_checked_against_the_bundle(library: Library, small_bundle: Path) -> None:
    manifest, bundle = open_bundle(small_bundle).manifest, Bundle(library, small_bundle)
    rows = manifest.schedule
    assert bundle.plan(schedule=rows).steps == list(rows)
    wrong = (rows[0], rows[2], rows[1])
    with pytest.raises(UsageError) as caught:
        plan_run(manifest, RunOptions(schedule=wrong))
    assert refusal(lambda: bundle.plan(schedule=wrong)) == str(caught.value)
    names = [library.bundle_schedule_name(bundle.handle, i) for i in range(5)]
    assert names == [*(name.encode() for name in manifest.schedules), None]
    assert library.bundle_model(bundle.handle).decode() == manifest.model.id
    bundle.close()
