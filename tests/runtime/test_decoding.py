"""The chunks that a video is decoded in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcut_runtime import UsageError, VcutError
from vcut_runtime.decoding import Chunk, check_frames, decode_chunks


@given(frames=st.integers(1, 60), size=st.integers(1, 60), overlap=st.integers(0, 8), full=st.booleans())
def test_decode_chunks_keep_every_frame_once_with_its_context(frames: int, size: int, overlap: int, full: bool) -> None:
    if size < frames and size <= 2 * overlap:
        with pytest.raises(UsageError, match=f"at least {2 * overlap + 1} at a time"):
            decode_chunks(frames, size, overlap)
        return
    chunks = decode_chunks(frames, size, overlap, full=full)
    assert [i for c in chunks for i in range(c.keep_from, c.keep_to)] == list(range(frames))
    for chunk in chunks:
        assert 0 <= chunk.start <= chunk.keep_from < chunk.keep_to <= chunk.stop <= frames
        assert chunk.stop - chunk.start == min(size, frames) or (not full and chunk.stop == frames)
        assert chunk.keep_from - chunk.start >= overlap or chunk.start == 0
        assert chunk.stop - chunk.keep_to >= overlap or chunk.stop == frames


def test_decode_chunks_of_a_few_frames() -> None:
    assert decode_chunks(25, 25, 3) == [Chunk(0, 25, 0, 25)]
    assert decode_chunks(7, 4, 1) == [Chunk(0, 4, 0, 3), Chunk(2, 6, 3, 5), Chunk(3, 7, 5, 7)]
    assert decode_chunks(5, 2, 0, full=False) == [Chunk(0, 2, 0, 2), Chunk(2, 4, 2, 4), Chunk(4, 5, 4, 5)]
    assert decode_chunks(7, 4, 1, full=False) == [Chunk(0, 4, 0, 3), Chunk(2, 6, 3, 5), Chunk(4, 7, 5, 7)]
    assert decode_chunks(5, 2, 0) == [Chunk(0, 2, 0, 2), Chunk(2, 4, 2, 4), Chunk(3, 5, 4, 5)]


def test_a_black_video_of_a_photograph_is_a_failure() -> None:
    black, photo = np.zeros((2, 8, 8, 3), np.uint8), np.ones((1, 3, 8, 8), np.float32)
    with pytest.raises(VcutError, match=r"every frame is black, because .*: compare the bundle with a reference"):
        check_frames(black, photo)
    check_frames(black, 0 * photo)  # a black photograph stays black
    check_frames(np.pad(black[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0)), constant_values=1), photo)
