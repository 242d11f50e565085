"""Decoding in chunks: a video that is too large to be decoded whole is decoded in parts that overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vcut_runtime.errors import UsageError, VcutError


@dataclass(frozen=True)
class Chunk:
    """Frames ``start`` .. ``stop`` are decoded together. Of them ``keep_from`` .. ``keep_to`` are kept."""

    start: int
    stop: int
    keep_from: int
    keep_to: int


def check_frames(frames: np.ndarray, image: np.ndarray) -> None:
    """Check that the frames of an ``image`` are not all black: a decoder whose numbers are not finite gives 0.

    Raises:
        VcutError: they are, and the image is not.
    """
    if image.any() and not frames.any():
        raise VcutError(
            "every frame is black, because the decoder's numbers are not finite or its weights are damaged: "
            "compare the bundle with a reference, 'vcut verify --graphs decode', or export it again"
        )


def decode_chunks(frames: int, size: int, overlap: int, *, full: bool = True) -> list[Chunk]:
    """Return the chunks that decode ``frames`` frames, ``size`` at a time.

    The VAE decoder mixes neighbouring frames, so a frame at the edge of a chunk lacks its neighbours. At every seam
    ``overlap`` frames on each side are therefore decoded for context and not kept.

    Args:
        frames: of the video.
        size: frames of a chunk, more than twice the overlap.
        overlap: frames of context on each side of a seam.
        full: all chunks have ``size`` frames; otherwise the last one may be shorter.

    Raises:
        UsageError: chunks are too small for the overlap.
    """
    if size >= frames:
        return [Chunk(0, frames, 0, frames)]
    if size <= 2 * overlap:
        raise UsageError(
            f"chunks of {size} frames are too small for {overlap} frames of overlap on both sides: decode at least "
            f"{2 * overlap + 1} at a time, or lower the overlap"
        )
    chunks, done = [], 0
    while done < frames:
        start = max(0, done - overlap)
        if full:
            start = min(start, frames - size)  # the last chunk has all the context that it can have
        stop = min(frames, start + size)
        keep_to = frames if stop == frames else stop - overlap
        chunks.append(Chunk(start, stop, done, keep_to))
        done = keep_to
    return chunks
