"""The options of a build check themselves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from vcut_engines import EngineOptions, build
from vcut_runtime import UsageError


def test_the_defaults() -> None:
    assert dataclasses.astuple(EngineOptions()) == ("auto", None, None, False)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"engines": "openvino"}, "unknown engines 'openvino': choose auto, tensorrt-rtx, tensorrt, none"),
        ({"engines": "none", "gpu": "a10"}, "--gpu a10 is given but --engines none builds nothing: leave one"),
        ({"workspace": 0.0}, "workspace is 0: give at least 0.001"),
        ({"workspace": float("nan")}, "workspace is nan: give a finite number"),
    ],
)
def test_what_no_machine_can_do_is_refused_at_once(values: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        EngineOptions(**values)
    with pytest.raises(UsageError, match=says):
        build(tmp_path / "none", **values)


def test_a_misspelt_option_is_told_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown option 'engine': did you mean engines\?"):
        build(tmp_path / "none", engine="auto")
