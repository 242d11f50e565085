"""The paper's numbers are carried whole, and fit each other."""

from __future__ import annotations

import pytest

from vcut_bench.paper import paper, per_step, per_video, quality
from vcut_runtime.schedule import CutStep


def test_tables_are_there_for_every_preset_that_the_paper_measured() -> None:
    from vcut_export.checkpoint import presets

    for name, model in paper().models.items():
        preset = presets()[name]
        assert (preset["hub"], preset["unet"]["num_frames"]) == (model.hub, model.frames)
        assert per_step(name) is not None
        assert all(per_video(name, c) is not None for c in ("none", 17, 20))
        assert all(quality(name, c) is not None for c in ("none", 10, 17, 20))


def test_cells() -> None:
    step, video, row = per_step("svd-xt"), per_video("svd-xt", 17), quality("svd", 20)
    assert step is not None
    assert (step.macs_T, step.modified_macs_T) == (64.41, 62.86)
    assert video is not None
    assert (video.macs_T, video.latency_s) == (1288, 97.3)
    assert row is not None
    assert (row["subject_consistency"], row["latency_s"]) == (96.70, 58.2)


def test_what_the_paper_does_not_have_is_none() -> None:
    assert per_step("svd-tiny") is per_video("svd-tiny", 17) is quality("svd-tiny", 17) is None
    assert per_video("svd-xt", 10) is None


@pytest.mark.parametrize("c", ["none", 17, 20])
def test_tables_three_and_four_agree_on_latency(c: CutStep) -> None:
    for name in paper().models:
        video, row = per_video(name, c), quality(name, c)
        assert video is not None
        assert row is not None
        assert video.latency_s == row["latency_s"]


def test_table_three_follows_from_table_two_with_the_first_conditional_step_at_c() -> None:
    for name in ("svd-xt", "svd-xt-1.1"):
        step = per_step(name)
        assert step is not None
        for c in (17, 20):
            video = per_video(name, c)
            assert video is not None
            guided = c - 1 + (25 - c + 1) / 2
            assert video.macs_T == pytest.approx(guided * step.modified_macs_T, rel=1e-3)
