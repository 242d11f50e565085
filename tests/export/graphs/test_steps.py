"""What the step graphs of a plan are made of."""

from __future__ import annotations

import pytest

import models
from models import planned
from vcut_export.checkpoint import Checkpoint
from vcut_export.graphs.steps import frame_positions, trace_sizes


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return models.tiny()


def test_the_frame_position_table_serves_the_longest_video_and_tracing(tiny: Checkpoint) -> None:
    assert frame_positions(planned(tiny, dynamic={"frames": (4, 20)})) == 20
    assert frame_positions(planned(tiny, frames=2)) == 2
    for most in (1, 2, 4):
        plan = planned(tiny, frames=1, dynamic={"frames": (1, most)})
        assert frame_positions(plan) >= trace_sizes(plan)["F"] > plan.geometry.largest.frames


def test_free_dimensions_are_traced_with_sizes_that_cannot_be_mistaken(tiny: Checkpoint) -> None:
    """torch makes a dimension of size 1 a constant, and takes dimensions of one size for the same one."""
    sizes = trace_sizes(planned(tiny))
    assert 1 not in sizes.values()
    assert len(set(sizes.values())) == len(sizes)
