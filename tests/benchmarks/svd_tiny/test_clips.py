from __future__ import annotations

import numpy as np
import pytest

from svd_tiny import clips
from svd_tiny.model import FRAMES, HEIGHT, WIDTH


def change(frames: np.ndarray) -> float:
    return float(np.abs(np.diff(frames.astype(float), axis=0)).mean())


def test_a_clip_is_decided_by_its_seed_and_split() -> None:
    first, again, other = clips.clip(3), clips.clip(3), clips.clip(4)
    assert first.frames.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert first.frames.dtype == np.uint8
    assert np.array_equal(first.frames, again.frames)
    assert not np.array_equal(first.frames, other.frames)
    assert clips.clip(3, "held-out").photo in {"chelsea", "coffee"}
    assert first.photo not in {"chelsea", "coffee"}


def test_some_frames_are_those_of_the_whole_clip() -> None:
    assert np.array_equal(clips.clip(5, frames=range(2, 4)).frames, clips.clip(5).frames[2:4])


@pytest.mark.parametrize("seed", range(3))
def test_more_displacement_moves_more(seed: int) -> None:
    made = [clips.clip(seed, displacement=d) for d in (0.0, 0.5, 1.5)]
    assert change(made[0].frames) == 0
    assert change(made[0].frames) < change(made[1].frames) < change(made[2].frames)
    assert made[0].motion_bucket_id == 0
    assert made[1].motion_bucket_id < made[2].motion_bucket_id


def test_motion_bucket_ids_span_their_range() -> None:
    assert [clips.motion_bucket_id(d) for d in (0.0, clips.FASTEST / 2, clips.FASTEST, 99.0)] == [0, 128, 255, 255]
