"""The four graphs' inputs and outputs: what the compiler makes, the bundle holds and the step loop expects."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from vcut_runtime.manifest import Dimension, Manifest, Sizes, TensorSpec

Shape = tuple[int | str, ...]


class Tensors(NamedTuple):
    """What a graph takes and gives."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def graph_tensors(
    sizes: Sizes,
    *,
    latent: tuple[int, int, int],
    bias_channels: int,
    decode_frames: int | None = None,
    dynamic: Collection[Dimension] = (),
    encoder_size: int = 224,
) -> dict[str, Tensors]:
    """Return each graph's tensors for videos of ``sizes``.

    ``latent`` is (C, h, w) of one frame. Everything is float32 but ``frames``. ``decode_frames`` are decoded at a time;
    None leaves that dimension free, as ``n``. Of the ``dynamic`` sizes F, H, W the dimensions that follow from them are
    free; where an image's size is, ``condition`` also takes the two matrices that resize it to ``encoder_size``.
    """
    chunk: int | str = "n" if decode_frames is None else decode_frames
    free = set(dynamic)
    frames: int | str = "F" if "frames" in free else sizes.frames
    height, h = ("H", "h") if "height" in free else (sizes.height, latent[1])
    width, w = ("W", "w") if "width" in free else (sizes.width, latent[2])
    frame: Shape = (latent[0], h, w)
    image, video = (1, 3, height, width), (1, frames, *frame)
    resize: dict[str, Shape] = {}
    if free & {"height", "width"}:
        resize = {"resize_rows": (encoder_size, height), "resize_columns": (width, encoder_size)}

    def step(rows: int) -> dict[str, Shape]:
        return {
            "latents": video,
            "image_latents": (1, *frame),
            "sca_bias": (rows, bias_channels),
            "sigma": (1,),
            "sigma_next": (1,),
            "added_time_ids": (1, 3),
        }

    return {
        "condition": _tensors(
            {"image": image, "noise": image, "noise_aug_strength": (1,), **resize},
            {"image_latents": (1, *frame), "sca_bias": (2, bias_channels)},
        ),
        "semantic_binding": _tensors({**step(2), "guidance_scale": (frames,)}, {"next_latents": video}),
        "quality_improvement": _tensors(step(1), {"next_latents": video}),
        "decode": _tensors({"latents": (chunk, *frame)}, {"frames": (chunk, height, width, 3)}),
    }


def bundle_tensors(manifest: Manifest) -> dict[str, Tensors]:
    """Return each graph's tensors for the videos that a bundle makes."""
    return graph_tensors(
        manifest.sizes,
        latent=manifest.latent_shape,
        bias_channels=manifest.bias_channels,
        decode_frames=manifest.decode_frames,
        dynamic=manifest.dynamic,
        encoder_size=manifest.encoder_size,
    )


def dimensions(manifest: Manifest, sizes: Sizes, chunk: int) -> dict[str, int]:
    """Return the free dimensions' values for a video of ``sizes``, decoded ``chunk`` frames at a time."""
    _, h, w = manifest.latent_shape_of(sizes)
    return {"F": sizes.frames, "H": sizes.height, "W": sizes.width, "h": h, "w": w, "n": chunk}


def sized(shape: Shape, dimensions: Mapping[str, int]) -> tuple[int, ...]:
    """Return ``shape`` with its free dimensions' values."""
    return tuple(dimensions[d] if isinstance(d, str) else d for d in shape)


def _tensors(inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> Tensors:
    def specs(side: Mapping[str, Shape]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(k, "uint8" if k == "frames" else "float32", shape) for k, shape in side.items())

    return Tensors(specs(inputs), specs(outputs))
