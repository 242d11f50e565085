"""Sizes: what a bundle's videos measure, and the values that the graphs' symbols take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

Dimension = Literal["frames", "height", "width"]
DIMENSIONS: tuple[Dimension, ...] = ("frames", "height", "width")


class SizeRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes that a bundle's videos can have: ``min`` .. ``max`` in steps of ``multiple``, frames or pixels."""

    min: int
    max: int
    multiple: int

    def __contains__(self, size: int) -> bool:
        return self.min <= size <= self.max and size % self.multiple == 0

    def around(self, size: float) -> set[int]:
        """Return the sizes next to ``size``, at most two."""
        low = min(max(math.floor(size / self.multiple) * self.multiple, self.min), self.max)
        return {low, min(low + self.multiple, self.max)}

    def __str__(self) -> str:
        steps = "" if self.multiple == 1 else f" in steps of {self.multiple}"
        return f"{self.min}..{self.max}{steps}"


class Sizes(NamedTuple):
    """Frames, and pixels of each frame."""

    frames: int
    height: int
    width: int


MOST = Sizes(1024, 16384, 16384)


@dataclass(frozen=True)
class Geometry:
    """All that decides the shapes of a bundle's tensors, except the width of the packed bias.

    Attributes:
        sizes: of a video, if a run does not choose others.
        dynamic: the sizes that a run may choose.
        latent_channels: C.
        vae_scale_factor: pixels per latent pixel.
        encoder_size: S, pixels of each side of what the image encoder sees.
        decode_chunk: frames decoded at a time.
        deep_features: D; 0 without shallow steps.
    """

    sizes: Sizes
    dynamic: Mapping[Dimension, SizeRange]
    latent_channels: int
    vae_scale_factor: int
    encoder_size: int
    decode_chunk: int
    deep_features: int

    @property
    def smallest(self) -> Sizes:
        """The smallest frames, height and width of a video."""
        return self.sizes._replace(**{name: sizes.min for name, sizes in self.dynamic.items()})

    @property
    def largest(self) -> Sizes:
        """The largest frames, height and width of a video."""
        return self.sizes._replace(**{name: sizes.max for name, sizes in self.dynamic.items()})

    @property
    def decode_frames(self) -> int | None:
        """Frames that ``decode`` takes; None for any number, which is so if the longest video is decoded whole."""
        return self.decode_chunk if self.decode_chunk < self.largest.frames else None

    @property
    def has_free_size(self) -> bool:
        """Whether a run may choose height or width."""
        return "height" in self.dynamic or "width" in self.dynamic

    def size_of_shape(self, aspect: float) -> tuple[int, int]:
        """Return the possible height and width whose shape and area are nearest to ``aspect`` and the bundle's area.

        The shape counts most: a stretch by 1 % costs as much as a change of the area by 4 %.

        Args:
            aspect: width over height of the photograph.
        """
        own = self.sizes
        heights = self.dynamic.get("height", SizeRange(own.height, own.height, 1))
        widths = self.dynamic.get("width", SizeRange(own.width, own.width, 1))

        def cost(size: tuple[int, int]) -> float:
            height, width = size
            area = height * width / (own.height * own.width)
            return abs(math.log(width / height / aspect)) + 0.25 * abs(math.log(area))

        # For one height the cost falls with the width up to the photograph's shape, and rises from there on.
        steps = range(heights.min, heights.max + 1, heights.multiple)
        return min(((height, width) for height in steps for width in widths.around(height * aspect)), key=cost)

    def latent_shape(self, sizes: Sizes | None = None) -> tuple[int, int, int]:
        """Return channels, height and width of one frame's latents in a video of ``sizes``, by default the bundle's."""
        _, height, width = sizes or self.sizes
        return (self.latent_channels, height // self.vae_scale_factor, width // self.vae_scale_factor)

    def bound(self) -> dict[str, int]:
        """Return the symbols that have one value in all of the bundle's videos; N is not among them."""
        free = {"frames": {"F"}, "height": {"H", "h"}, "width": {"W", "w"}}
        names = {symbol for name in self.dynamic for symbol in free[name]}
        if self.decode_frames is None:
            names.add("n")
        values = self.values(self.sizes, self.decode_chunk)
        return {symbol: value for symbol, value in values.items() if symbol not in names}

    def values(self, sizes: Sizes, chunk: int) -> dict[str, int]:
        """Return each symbol's value, except N's, in a video of ``sizes`` decoded ``chunk`` frames at a time."""
        channels, h, w = self.latent_shape(sizes)
        video = {"F": sizes.frames, "H": sizes.height, "W": sizes.width, "h": h, "w": w, "n": chunk}
        return {**video, "C": channels, "D": self.deep_features, "S": self.encoder_size}

    def describe(self) -> dict[Dimension, str]:
        """Return each size in words: a number, or the range that a run may choose from."""
        return {name: str(self.dynamic.get(name, size)) for name, size in zip(DIMENSIONS, self.sizes, strict=True)}
