"""The four graphs' inputs and outputs: what the compiler makes, the bundle holds and the step loop expects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from vcut_runtime.manifest import TensorSpec

Shape = tuple[int | str, ...]


class Tensors(NamedTuple):
    """What a graph takes and gives."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def graph_tensors(
    *,
    frames: int,
    height: int,
    width: int,
    latent: tuple[int, int, int],
    bias_channels: int,
    decode_frames: int | None = None,
) -> dict[str, Tensors]:
    """Return each graph's tensors for a video of ``frames`` x ``height`` x ``width`` pixels.

    ``latent`` is (C, h, w) of one frame. Everything is float32 but ``frames``. ``decode_frames`` are decoded at a time;
    None leaves that dimension free, as ``n``.
    """
    chunk: int | str = "n" if decode_frames is None else decode_frames
    image, video = (1, 3, height, width), (1, frames, *latent)

    def step(rows: int) -> dict[str, Shape]:
        return {
            "latents": video,
            "image_latents": (1, *latent),
            "sca_bias": (rows, bias_channels),
            "sigma": (1,),
            "sigma_next": (1,),
            "added_time_ids": (1, 3),
        }

    return {
        "condition": _tensors(
            {"image": image, "noise": image, "noise_aug_strength": (1,)},
            {"image_latents": (1, *latent), "sca_bias": (2, bias_channels)},
        ),
        "semantic_binding": _tensors({**step(2), "guidance_scale": (frames,)}, {"next_latents": video}),
        "quality_improvement": _tensors(step(1), {"next_latents": video}),
        "decode": _tensors({"latents": (chunk, *latent)}, {"frames": (chunk, height, width, 3)}),
    }


def _tensors(inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> Tensors:
    def specs(side: Mapping[str, Shape]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(k, "uint8" if k == "frames" else "float32", shape) for k, shape in side.items())

    return Tensors(specs(inputs), specs(outputs))
