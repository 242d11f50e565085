"""The record of an export's options checks itself."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from vcut_export import ExportOptions, export
from vcut_export.options import parse_ranges
from vcut_runtime import UsageError
from vcut_runtime.bundle.graph import GRAPHS


def test_every_option_says_which_graphs_it_rebuilds() -> None:
    for field in fields(ExportOptions):
        assert set(field.metadata["rebuilds"]) <= set(GRAPHS), field.name
        assert field.metadata["about"].endswith((".", "]")), field.name


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lora": "a.safetensors"}, "lora is 'a.safetensors': give a list of FILE or FILE:SCALE"),
        ({"small_gpu": True, "dynamic": {"frames": (2, 4)}}, "--small-gpu excludes --dynamic"),
        ({"width": 0}, "width is 0: give at least 1"),
        ({"decode_chunk": -1}, "decode_chunk is -1: give at least 1"),
        ({"cut_step": "late"}, "cut_step is 'late': give a whole number or 'none'"),
        ({"precision": "fp8"}, "unknown precision 'fp8': choose fp16"),
    ],
)
def test_impossible_values_are_refused_at_once(options: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        ExportOptions(**options)
    assert "\n" not in str(caught.value)


def test_export_takes_a_record_or_its_fields() -> None:
    with pytest.raises(UsageError, match="--height 65 is not a multiple of 8"):
        export("svd-tiny", options=ExportOptions(height=65))
    with pytest.raises(UsageError, match="--height 65 is not a multiple of 8"):
        export("svd-tiny", height=65)
    with pytest.raises(UsageError, match="--width 97"):  # keywords change fields of the record
        export("svd-tiny", options=ExportOptions(width=96), width=97)
    with pytest.raises(UsageError, match="unknown option 'hight': did you mean height"):
        export("svd-tiny", hight=64)


def test_ranges_are_parsed() -> None:
    assert parse_ranges("frames=8:25") == {"frames": (8, 25)}
    assert parse_ranges("height=64:128, width=64:192,frames=2:2") == {
        "height": (64, 128),
        "width": (64, 192),
        "frames": (2, 2),
    }


NO_RANGES = ["", "frames", "frames=", "frames=8", "frames=8-25", "frames=8:", "frames=-1:2", "frames=1:2,", "8:25"]
NO_RANGES += ["frames=1:2,frames=1:3", "frames=1:2 height=8:16", "frames=1.0:2", "frames=1:2:3"]


@pytest.mark.parametrize("text", NO_RANGES)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write it as frames=8:25") as caught:
        parse_ranges(text)
    assert "\n" not in str(caught.value)
