"""What a denoising step of a folded UNet costs: its parameters and multiplications, from its configuration alone.

The layers are those of diffusers' ``UNetSpatioTemporalConditionModel`` without cross-attention and frame position MLPs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

_CHANNELS = (320, 640, 1280, 1280)  # diffusers' defaults
_DOWN = ("CrossAttnDownBlockSpatioTemporal",) * 3 + ("DownBlockSpatioTemporal",)
_UP = ("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 3


_Count = Annotated[int, msgspec.Meta(ge=1, le=64)]  # of layers
_Width = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]  # channels, heads
_Levels = msgspec.Meta(min_length=1, max_length=8)


class _Config(msgspec.Struct):
    """The part of a UNet's configuration that decides its cost; an absent field has diffusers' default."""

    block_out_channels: Annotated[tuple[_Width, ...], _Levels] = _CHANNELS
    down_block_types: tuple[str, ...] = _DOWN
    up_block_types: tuple[str, ...] = _UP
    layers_per_block: _Count | tuple[_Count, ...] = 2
    transformer_layers_per_block: _Count | tuple[_Count, ...] = 1
    num_attention_heads: _Width | tuple[_Width, ...] = 5
    projection_class_embeddings_input_dim: _Width = 768
    in_channels: _Width = 8
    out_channels: _Width = 4


def check_unet(config: Mapping[str, Any]) -> None:
    """Check that the functions here can read a UNet's configuration.

    Raises:
        ValueError: they cannot; the message says why, on one line.
    """
    unet = msgspec.convert(config, _Config)  # its error is a ValueError
    for name in msgspec.structs.asdict(unet):
        value = getattr(unet, name)
        if isinstance(value, tuple) and len(value) != len(unet.block_out_channels):
            raise ValueError(f"{name} has {len(value)} entries for {len(unet.block_out_channels)} levels")


@dataclass(frozen=True)
class Layer:
    """Layers that look at one position at a time, or at its neighbours.

    Attributes:
        level: of the UNet; each has a quarter of the positions of the level before.
        weights: their number.
        attention: channels of a self-attention in space and of one in time among them; 0: there is none.
        constants: number of weights that are used once and not at every position.
    """

    level: int
    weights: int
    attention: int = 0
    constants: int = 0


def unet_layers(config: Mapping[str, Any]) -> Iterator[Layer]:
    """Yield the layers of a UNet with this configuration; biases and normalisations are left out."""
    channels = [int(c) for c in config.get("block_out_channels", _CHANNELS)]
    depth = _per_level(config.get("layers_per_block", 2), len(channels))
    blocks = _per_level(config.get("transformer_layers_per_block", 1), len(channels))
    down, up = config.get("down_block_types", _DOWN), config.get("up_block_types", _UP)
    last, time = len(channels) - 1, 4 * channels[0]

    def unit(level: int, entering: int, width: int, transformers: int) -> Iterator[Layer]:
        """Yield a residual block in space and time, and the transformer behind it."""
        shortcut = entering * width if entering != width else 0
        convolutions = 9 * (entering + width) * width + shortcut + 2 * 3 * width * width
        yield Layer(level, convolutions, constants=2 * time * width)
        if transformers:
            yield Layer(level, 2 * width * width)
            attention, feed_forward = 4 * width * width, 12 * width * width
            for _ in range(transformers):
                yield Layer(level, 2 * attention + 3 * feed_forward, attention=width)

    embedding = int(config.get("projection_class_embeddings_input_dim", 768))
    yield Layer(0, 0, constants=(channels[0] + embedding + 2 * time) * time)
    yield Layer(0, 9 * int(config.get("in_channels", 8)) * channels[0])
    skips, current = [channels[0]], channels[0]
    for level, (width, kind) in enumerate(zip(channels, down, strict=True)):
        for _ in range(depth[level]):
            yield from unit(level, current, width, blocks[level] if "CrossAttn" in kind else 0)
            skips.append(width)
            current = width
        if level < last:
            yield Layer(level + 1, 9 * width * width)
            skips.append(width)
    yield from unit(last, current, current, blocks[last])
    yield from unit(last, current, current, 0)
    for level, kind in zip(reversed(range(len(channels))), up, strict=True):
        for _ in range(depth[level] + 1):
            yield from unit(level, current + skips.pop(), channels[level], blocks[level] if "CrossAttn" in kind else 0)
            current = channels[level]
        if level > 0:
            yield Layer(level - 1, 9 * current * current)
    yield Layer(0, 9 * current * int(config.get("out_channels", 4)))


def step_macs(config: Mapping[str, Any], rows: int, frames: int, height: int, width: int) -> int:
    """Return the multiply-accumulates of a step on ``rows`` videos of latents [frames, ., height, width]."""
    total = 0
    for layer in unet_layers(config):
        tokens = -(-height // 2**layer.level) * -(-width // 2**layer.level)
        spatial = 2 * layer.attention * tokens * tokens
        temporal = 2 * layer.attention * tokens * frames
        total += rows * frames * (layer.weights * tokens + spatial + temporal)
    return total


def unet_parameters(config: Mapping[str, Any]) -> int:
    """Return the number of a folded UNet's weights, biases and normalisations left out."""
    return sum(layer.weights + layer.constants for layer in unet_layers(config))


def _per_level(value: Any, levels: int) -> list[int]:
    return [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)] * levels
