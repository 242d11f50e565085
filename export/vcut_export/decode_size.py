"""How many frames are decoded at a time: as many as take no more memory than a guided step."""

from __future__ import annotations

import math

from vcut_runtime.bundle.manifest import Precision

# Activation memory, as TensorRT-RTX's builder reports it. At 576x1024 in fp16, decoding 11 of 25 frames takes 5.28 GB
# and a guided step 5.32 GB. With --small-gpu, 7 of 25 frames take 3.32 GB and a step 3.48 GB. Both grow alike with size
# and frames. With free sizes up to that size a step takes 6.82 GB, and decoding 10 of 25 frames with free height and
# width 6.64 GB.
_DECODED, _DECODED_SMALL_GPU, _DECODED_FREE, _OF = 11, 7, 10, 25
_DECODE_FRAME_BYTES = 775e6 / (576 * 1024 * 2)  # per pixel and byte of precision, of a decoder without frame groups
_DECODE_WHOLE_BYTES = 1.5e9  # a video that takes no more is decoded whole


def default_decode_chunk(
    pixels: int, frames: int, precision: Precision, small_gpu: bool, free_pixels: bool = False
) -> int:
    """Return how many of ``frames`` frames to decode at a time: as memory allows, or fewer for the same chunks.

    Args:
        pixels: of a frame, the largest that a run may choose.
        frames: of the video, likewise.
        precision: of the decoder.
        small_gpu: steps take less memory too.
        free_pixels: height or width is free.
    """
    width = 4 if precision == "fp32" else 2
    if frames * pixels * width * _DECODE_FRAME_BYTES <= _DECODE_WHOLE_BYTES:
        return frames
    share = _DECODED_SMALL_GPU if small_gpu else _DECODED_FREE if free_pixels else _DECODED
    fitting = max(1, share * frames // _OF)
    context = decode_context(fitting)
    count = 1 + math.ceil((frames - fitting) / (fitting - 2 * context))
    return math.ceil((frames + 2 * context * (count - 1)) / count)


def decode_context(chunk: int) -> int:
    """Return how many frames of context each side of a seam gets in chunks of ``chunk`` frames.

    Each lowers the error that a seam adds to the change from frame to frame by a factor of 2.4 to 4: with random
    weights and a smooth video from 31 levels of 255 to 8, then 3.
    """
    return min(2, (chunk + 1) // 4)
