"""Sizes, and the values of the graphs' symbols."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from vcut_runtime.bundle.geometry import Geometry, SizeRange, Sizes

FIXED = Geometry(
    sizes=Sizes(14, 64, 96),
    dynamic={},
    latent_channels=4,
    vae_scale_factor=8,
    encoder_size=224,
    decode_chunk=14,
    deep_features=32,
)
FREE = replace(FIXED, dynamic={"frames": SizeRange(2, 25, 1), "width": SizeRange(64, 128, 32)})


def test_a_range_contains_its_multiples() -> None:
    sizes = SizeRange(64, 128, 32)
    assert [size for size in range(200) if size in sizes] == [64, 96, 128]
    assert (str(sizes), str(SizeRange(2, 25, 1))) == ("64..128 in steps of 32", "2..25")


def test_without_ranges_there_is_one_size() -> None:
    assert FIXED.smallest == FIXED.sizes == FIXED.largest == (14, 64, 96)
    assert FIXED.latent_shape() == (4, 8, 12)
    assert not FIXED.has_free_size
    assert FIXED.describe() == {"frames": "14", "height": "64", "width": "96"}


def test_ranges_give_the_smallest_and_the_largest_video() -> None:
    assert (FREE.smallest, FREE.largest) == ((2, 64, 64), (25, 64, 128))
    assert FREE.latent_shape() == (4, 8, 12)
    assert FREE.latent_shape(FREE.largest) == (4, 8, 16)
    assert FREE.has_free_size
    assert FREE.describe() == {"frames": "2..25", "height": "64", "width": "64..128 in steps of 32"}


def test_free_frames_alone_are_no_free_image_size() -> None:
    assert not replace(FREE, dynamic={"frames": SizeRange(2, 25, 1)}).has_free_size


@pytest.mark.parametrize(
    ("geometry", "chunk", "frames"), [(FIXED, 14, None), (FIXED, 13, 13), (FREE, 25, None), (FREE, 24, 24)]
)
def test_decode_takes_any_number_of_frames_if_the_longest_video_is_decoded_whole(
    geometry: Geometry, chunk: int, frames: int | None
) -> None:
    geometry = replace(geometry, decode_chunk=chunk)
    assert geometry.decode_frames == frames
    assert geometry.bound().get("n") == frames


def test_symbols_take_the_values_of_a_video() -> None:
    values = FREE.values(Sizes(5, 64, 128), chunk=3)
    assert values == {"F": 5, "H": 64, "W": 128, "h": 8, "w": 16, "C": 4, "D": 32, "S": 224, "n": 3}


def test_symbols_of_free_sizes_are_not_bound() -> None:
    assert FIXED.bound() == {"F": 14, "H": 64, "W": 96, "h": 8, "w": 12, "C": 4, "D": 32, "S": 224}
    assert replace(FREE, decode_chunk=2).bound() == {"H": 64, "h": 8, "C": 4, "D": 32, "S": 224, "n": 2}


@pytest.mark.parametrize("aspect", [0.02, 9 / 16, 2 / 3, 1.0, 4 / 3, 1.5, 16 / 9, 2.4, 60.0])
@pytest.mark.parametrize("multiple", [8, 64])
def test_the_size_of_a_shape_is_the_best_of_all_sizes(aspect: float, multiple: int) -> None:
    ranges = {"height": SizeRange(320, 1024, multiple), "width": SizeRange(448, 1024, multiple)}
    geometry = replace(FIXED, sizes=Sizes(14, 576, 1024), dynamic=ranges)

    def cost(height: int, width: int) -> float:
        return abs(math.log(width / height / aspect)) + abs(math.log(height * width / (576 * 1024))) / 4

    best = min(cost(h, w) for h in range(320, 1025, multiple) for w in range(448, 1025, multiple))
    height, width = geometry.size_of_shape(aspect)
    assert height in ranges["height"]
    assert width in ranges["width"]
    assert cost(height, width) == pytest.approx(best)
    if 0.6 < aspect < 2 and multiple == 8:
        assert width / height == pytest.approx(aspect, rel=0.01)


def test_without_free_sizes_every_shape_has_the_bundles_size() -> None:
    assert FIXED.size_of_shape(0.3) == (64, 96)
    assert FREE.size_of_shape(9.0) == (64, 128)
    assert FREE.size_of_shape(1.1) == (64, 64)
