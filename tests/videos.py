"""MP4 files that should show the same video.

The frames that a pipeline makes are equal to the bit. x264 may write them in two ways: between processes, a file of the
same frames can differ in a few bits.
"""

from __future__ import annotations

from io import BytesIO

import av
import numpy as np


def frames_of(content: bytes) -> np.ndarray:
    """Return the frames [frames, height, width, 3] of an MP4 file."""
    with av.open(BytesIO(content), "r") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def is_same_video(content: bytes, expected: bytes) -> bool:
    """Tell whether two MP4 files show the same frames; those of another seed differ by tens of levels."""
    if content == expected:
        return True
    frames, others = frames_of(content).astype(float), frames_of(expected).astype(float)
    return frames.shape == others.shape and float(np.abs(frames - others).mean()) < 2
