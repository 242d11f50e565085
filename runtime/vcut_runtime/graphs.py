"""The graphs' inputs and outputs: what the compiler makes, the bundle holds and the step loop expects."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

from vcut_runtime.manifest import SHALLOW, Dimension, Manifest, Precision, Sizes, TensorSpec

FEATURES = "deep_features"  # the tensor that a step hands on to the shallow ones after it

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
    deep_features: int = 0,
    precision: Precision = "fp32",
) -> dict[str, Tensors]:
    """Return each graph's tensors for videos of ``sizes``.

    ``latent`` is (C, h, w) of one frame. Everything is float32 but ``frames``. ``decode_frames`` are decoded at a time;
    None leaves that dimension free, as ``n``. Of the ``dynamic`` sizes F, H, W the dimensions that follow from them are
    free; where an image's size is, ``condition`` also takes the two matrices that resize it to ``encoder_size``.
    With ``deep_features`` channels both steps give these too, and there are the shallow steps that take them; they are
    halves where the bundle's ``precision`` is fp16.
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

    def features(rows: int) -> dict[str, Shape]:
        return {FEATURES: (rows, frames, deep_features, h, w)} if deep_features else {}

    def step(rows: int) -> dict[str, Shape]:
        return {
            "latents": video,
            "image_latents": (1, *frame),
            "sca_bias": (rows, bias_channels),
            "sigma": (1,),
            "sigma_next": (1,),
            "added_time_ids": (1, 3),
        }

    guided, conditional = {**step(2), "guidance_scale": (frames,)}, step(1)
    result = {
        "condition": _tensors(
            {"image": image, "noise": image, "noise_aug_strength": (1,), **resize},
            {"image_latents": (1, *frame), "sca_bias": (2, bias_channels)},
        ),
        "semantic_binding": _tensors(guided, {"next_latents": video, **features(2)}, precision),
        "quality_improvement": _tensors(conditional, {"next_latents": video, **features(1)}, precision),
        "decode": _tensors({"latents": (chunk, *frame)}, {"frames": (chunk, height, width, 3)}),
    }
    if deep_features:
        for name, inputs, rows in (("semantic_binding", guided, 2), ("quality_improvement", conditional, 1)):
            result[SHALLOW[name]] = _tensors({**inputs, **features(rows)}, {"next_latents": video}, precision)
    return result


def bundle_tensors(manifest: Manifest) -> dict[str, Tensors]:
    """Return each graph's tensors for the videos that a bundle makes."""
    return graph_tensors(
        manifest.sizes,
        latent=manifest.latent_shape,
        bias_channels=manifest.bias_channels,
        decode_frames=manifest.decode_frames,
        dynamic=manifest.dynamic,
        encoder_size=manifest.encoder_size,
        deep_features=manifest.deep_features,
        precision=manifest.precision,
    )


def dimensions(manifest: Manifest, sizes: Sizes, chunk: int) -> dict[str, int]:
    """Return the free dimensions' values for a video of ``sizes``, decoded ``chunk`` frames at a time."""
    _, h, w = manifest.latent_shape_of(sizes)
    return {"F": sizes.frames, "H": sizes.height, "W": sizes.width, "h": h, "w": w, "n": chunk}


def take_turns(graph: str, other: str) -> bool:
    """Whether one is the other's shallow step: they alternate, and the shallow one has few weights of its own."""
    return SHALLOW.get(graph) == other or SHALLOW.get(other) == graph


def sized(shape: Shape, dimensions: Mapping[str, int]) -> tuple[int, ...]:
    """Return ``shape`` with its free dimensions' values."""
    return tuple(dimensions[d] if isinstance(d, str) else d for d in shape)


def _tensors(inputs: Mapping[str, Shape], outputs: Mapping[str, Shape], precision: Precision = "fp32") -> Tensors:
    def dtype(name: str) -> Literal["float32", "float16", "uint8"]:
        if name == "frames":
            return "uint8"
        return "float16" if name == FEATURES and precision == "fp16" else "float32"

    def specs(side: Mapping[str, Shape]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name, dtype(name), shape) for name, shape in side.items())

    return Tensors(specs(inputs), specs(outputs))
