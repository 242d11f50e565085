"""From a manifest and options to what a run does."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest

from example_manifest import SCHEDULER, example
from vcut_runtime import RunOptions, Step, UsageError
from vcut_runtime.bundle.geometry import SizeRange
from vcut_runtime.bundle.manifest import Manifest
from vcut_runtime.decoding import Chunk
from vcut_runtime.run_plan import choose_schedule, choose_sizes, plan_run, resize_matrices
from vcut_runtime.schedule import ays_sigmas, cut_step_of, karras_sigmas, make_schedule

FREE = msgspec.structs.replace(example(), dynamic={"frames": SizeRange(2, 25, 1), "width": SizeRange(64, 128, 32)})
CHUNKED = msgspec.structs.replace(example(), decode_chunk=8)


def schedule(manifest: Manifest | None = None, **options: Any) -> tuple[Step, ...]:
    return plan_run(manifest or example(), RunOptions(**options)).schedule


def refusal(manifest: Manifest, most_decoded: int | None = None, **options: Any) -> str:
    """Return the one line that the plan is refused with."""
    with pytest.raises(UsageError) as caught:
        plan_run(manifest, RunOptions(**options), most_decoded)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_by_default_the_bundles_schedule_is_played() -> None:
    plan = plan_run(example(), RunOptions())
    assert plan.schedule == example().schedule
    assert plan.sizes == (14, 64, 96)
    assert plan.chunks == [Chunk(0, 14, 0, 14)]


def test_constants_are_the_inputs_that_stay() -> None:
    constants = plan_run(example(), RunOptions(fps=9, motion_bucket_id=20, noise_aug_strength=0.5)).constants
    assert constants.keys() == {"noise_aug_strength", "added_time_ids", "guidance_scale"}
    np.testing.assert_allclose(constants["added_time_ids"], [[8, 20, 0.5]])
    np.testing.assert_allclose(constants["noise_aug_strength"], [0.5])
    np.testing.assert_allclose(constants["guidance_scale"], np.linspace(1, 3, 14), rtol=1e-6)
    chosen = plan_run(FREE, RunOptions(num_frames=3, min_guidance_scale=2.0, max_guidance_scale=4.0, width=128))
    np.testing.assert_allclose(chosen.constants["guidance_scale"], [2, 3, 4])
    assert chosen.constants["resize_rows"].shape == (224, 64)
    assert chosen.constants["resize_columns"].shape == (128, 224)
    assert resize_matrices(example(), example().sizes) == {}


def test_named_schedules_and_rows_are_taken_as_they_are() -> None:
    manifest = example()
    assert schedule(schedule="vcut") == manifest.schedule
    assert schedule(schedule="exact") == manifest.schedules["exact"] == schedule(cut_step="none")
    rows = make_schedule([3.0, 2.0, 0.0], 2)
    assert schedule(schedule=rows) == rows
    assert schedule(schedule=list(rows)) == rows


def test_rows_made_from_options() -> None:
    sigmas = karras_sigmas(SCHEDULER, 10)
    assert schedule(num_inference_steps=10) == make_schedule(sigmas, 7)
    assert schedule(num_inference_steps=10, cut_step=9, quality_bias="cond") == make_schedule(
        sigmas, 9, quality_bias="cond"
    )
    assert schedule(num_inference_steps=10, cut_step="none") == make_schedule(sigmas, 11)
    deep = example(deep=True)
    assert schedule(deep, num_inference_steps=10, cache_interval=3) == make_schedule(sigmas, 7, cache_interval=3)


def test_rows_of_other_grids_solvers_and_windows() -> None:
    """The default cut is at the noise level of step 17 of 25: 2.27, and step 6 of Align Your Steps has 1.79."""
    ays = ays_sigmas(SCHEDULER, 10)
    assert schedule(sigmas="ays") == make_schedule(ays, 6)
    assert schedule(sigmas="ays", solver="dpmpp-2m", guide_from=2, cut_step=9) == make_schedule(
        ays, 9, guide_from=2, solver="dpmpp-2m"
    )
    assert schedule(sigmas=[5.0, 2.0, 1.0, 0.0]) == make_schedule([5.0, 2.0, 1.0, 0.0], 2)
    assert schedule(sigmas=np.array([5.0, 4.0, 0.0])) == make_schedule([5.0, 4.0, 0.0], 3)
    assert schedule(guide_from=8) == make_schedule(karras_sigmas(SCHEDULER, 25), 17, guide_from=8)
    lcm = schedule(solver="lcm")
    assert (len(lcm), {row.graph for row in lcm}) == (4, {"quality_improvement"})
    assert schedule(solver="lcm", max_guidance_scale=1.0) == lcm
    assert len(schedule(solver="lcm", num_inference_steps=8)) == 8


def test_guidance_over_the_frames() -> None:
    def scales(**options: Any) -> Any:
        return plan_run(FREE, RunOptions(num_frames=3, **options)).constants["guidance_scale"]

    np.testing.assert_allclose(scales(guidance="triangle"), [1, 3, 1])
    np.testing.assert_allclose(scales(guidance=[2, 1, 0.5]), [2, 1, 0.5])
    np.testing.assert_allclose(scales(min_guidance_scale=3.0, max_guidance_scale=1.0), [3, 2, 1])


@pytest.mark.parametrize(
    ("options", "guided"),
    [
        ({"min_guidance_scale": 3.0, "max_guidance_scale": 1.0}, 16),
        ({"min_guidance_scale": 3.0, "max_guidance_scale": 0.5}, 16),
        ({"guidance": [1.0] * 13 + [1.5]}, 16),
        ({"guidance": [1.0] * 14}, 0),
    ],
)
def test_a_video_is_guided_if_one_of_its_frames_is(options: dict[str, Any], guided: int) -> None:
    biases = Counter(row.bias for row in plan_run(example(), RunOptions(**options)).schedule)
    assert biases["both"] == guided


@pytest.mark.parametrize(("maximum", "guided"), [(0.5, 0), (1.0, 0), (1.01, 16), (3.0, 16)])
def test_guidance_of_one_or_less_guides_nothing(maximum: float, guided: int) -> None:
    rows = schedule(min_guidance_scale=0.5, max_guidance_scale=maximum)
    biases = Counter(row.bias for row in rows)
    assert (biases["both"], biases["mean"]) == (guided, 9)
    assert cut_step_of(rows) == guided + 1
    assert choose_schedule(example(), RunOptions(), guided=guided > 0) == rows


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cut_step": 27}, "cut step 27 is outside 1..26"),
        ({"cut_step": 7, "num_inference_steps": 5}, "cut step 7 is outside 1..6: with 5 steps"),
        ({"cache_interval": 2}, "cache_interval is 2, this bundle has no shallow steps: export it with --deep-cache"),
        ({"guide_from": 17}, "guide_from is 17, and guidance ends before step 17: give 1..16, or a later cut_step"),
        ({"guide_from": 26, "cut_step": "none"}, "guide_from is 26, and guidance ends before step 26: give 1..25"),
        ({"sigmas": [2.0, 1.0, 0.0], "num_inference_steps": 3}, "these sigmas make 2 steps, not 3"),
        ({"sigmas": [2.0, 1.0, 0.0], "cut_step": 4}, "cut step 4 is outside 1..3"),
        ({"solver": "lcm", "max_guidance_scale": 1.2}, "the solver lcm has no guidance: leave the guidance scales out"),
        ({"solver": "lcm", "guidance": [2.0] * 14}, "the solver lcm has no guidance"),
        ({"solver": "lcm", "cut_step": 2}, "the solver lcm has no guidance, so no cut_step: leave it out"),
        ({"solver": "lcm", "guide_from": 2}, "the solver lcm has no guidance, so no guide_from: leave it out"),
        ({"solver": "lcm", "num_inference_steps": 41}, "the grid lcm has 40 levels, 41 steps are too many"),
        ({"guidance": [1.0, 2.0]}, "guidance has 2 numbers, the video 14 frames: give one for each"),
        ({"schedule": "quick"}, "unknown schedule 'quick': choose vcut, exact, balanced, fast"),
        ({"schedule": ()}, "this bundle cannot play the schedule: it has no step"),
        ({"schedule": "exact", "cut_step": 17}, "schedule and cut_step exclude each other"),
        ({"schedule": "exact", "num_inference_steps": 25}, "schedule and num_inference_steps exclude each other"),
        ({"schedule": "exact", "cache_interval": 2}, "schedule and cache_interval exclude each other"),
        ({"schedule": "exact", "quality_bias": "cond"}, "schedule and quality_bias exclude each other"),
        ({"schedule": "exact", "sigmas": "ays"}, "schedule and sigmas exclude each other"),
        ({"schedule": "exact", "solver": "dpmpp-2m"}, "schedule and solver exclude each other"),
        ({"schedule": "exact", "guide_from": 2}, "schedule and guide_from exclude each other"),
        ({"num_frames": 15}, "num_frames is 15, this bundle makes 14 only: export it with --dynamic frames=MIN:MAX"),
        ({"height": 128}, "height is 128, this bundle makes 64 only"),
        ({"decode_chunk_size": 4, "decode_overlap": 2}, "chunks of 4 frames are too small for 2 frames of overlap"),
    ],
)
def test_options_that_do_not_fit_the_bundle_are_refused(options: dict[str, Any], says: str) -> None:
    assert says in refusal(example(), **options)


def test_a_schedule_may_stand_with_options_that_are_not_about_steps() -> None:
    assert schedule(schedule="exact", seed=1, fps=3, fit="crop", decode_chunk_size=7) == example().schedules["exact"]


def test_sizes_are_those_of_the_options_or_the_bundle() -> None:
    assert choose_sizes(FREE, RunOptions()) == (14, 64, 96)
    assert choose_sizes(FREE, RunOptions(num_frames=25, width=64)) == (25, 64, 64)
    assert "num_frames is 26, this bundle makes 2..25" in refusal(FREE, num_frames=26)
    assert "width is 80, this bundle makes 64..128 in steps of 32" in refusal(FREE, width=80)
    assert "height is 96, this bundle makes 64 only" in refusal(FREE, height=96)


def test_a_chunk_that_is_fixed_cannot_be_chosen() -> None:
    assert {chunk.stop - chunk.start for chunk in plan_run(CHUNKED, RunOptions()).chunks} == {8}
    assert plan_run(CHUNKED, RunOptions(decode_chunk_size=8)).chunks == plan_run(CHUNKED, RunOptions()).chunks
    message = refusal(CHUNKED, decode_chunk_size=7)
    assert message == (
        "decode_chunk_size is 7, this bundle decodes 8 frames at a time: export it with --decode-chunk 7"
    )


def test_the_backends_limit_shortens_chunks() -> None:
    plan = plan_run(example(), RunOptions(), most_decoded=5)
    assert max(chunk.stop - chunk.start for chunk in plan.chunks) == 5
    assert plan.chunks[0].keep_to == 3  # the overlap is 2: a chunk of 5 frames allows no more
    message = refusal(example(), 5, decode_chunk_size=6)
    assert "the decode engine takes up to 5 frames: give at most 5, or run 'vcut build --decode-chunk 6'" in message
