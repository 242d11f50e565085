"""The types of options: numbers of every library, and what is refused instead of failing later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from vcut_export import ExportOptions
from vcut_runtime import BackendOptions, RunOptions, Step, UsageError
from vcut_runtime.option_types import check_types, words_of


@dataclass(frozen=True)
class Boat:
    """Options of every kind of type."""

    seats: int = 2
    length: float = 3.5
    name: str = "Erna"
    sail: bool = True
    crew: int | Literal["none"] | None = None
    kind: Literal["row", "sail"] = "sail"
    route: str | Sequence[float] | None = None
    log: Path | None = None
    ports: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        check_types(self)


@pytest.mark.parametrize("value", [4, np.int64(4), np.uint8(4), np.array(4), torch.tensor(4)])
def test_whole_numbers_of_every_library_become_pythons(value: Any) -> None:
    for boat in (Boat(seats=value), Boat(crew=value)):
        number = boat.seats if boat.crew is None else boat.crew
        assert (number, type(number)) == (4, int)
    assert (Boat(length=value).length, type(Boat(length=value).length)) == (4.0, float)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2)])
def test_numbers_of_every_library_become_pythons(value: Any) -> None:
    assert (Boat(length=value).length, type(Boat(length=value).length)) == (0.5, float)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seats": 2.5}, "seats is 2.5: give a whole number"),
        ({"seats": 2.0}, "seats is 2.0: give a whole number"),
        ({"seats": np.float64(2)}, "seats is 2.0: give a whole number"),
        ({"seats": True}, "seats is True: give a whole number"),
        ({"seats": "2"}, "seats is '2': give a whole number"),
        ({"seats": None}, "seats is None: give a whole number"),
        ({"seats": [2]}, "seats is [2]: give a whole number"),
        ({"length": "long"}, "length is 'long': give a number"),
        ({"length": False}, "length is False: give a number"),
        ({"length": np.bool_(True)}, "length is True: give a number"),
        ({"length": 1j}, "length is 1j: give a number"),
        ({"length": 10**400}, "length is too large: give a finite number"),
        ({"name": 7}, "name is 7: give a text"),
        ({"name": b"Erna"}, "name is b'Erna': give a text"),
        ({"sail": 1}, "sail is 1: give True or False"),
        ({"sail": "no"}, "sail is 'no': give True or False"),
        ({"crew": 2.5}, "crew is 2.5: give a whole number or 'none'"),
        ({"crew": "all"}, "crew is 'all': give a whole number or 'none'"),
        ({"kind": "motor"}, "unknown kind 'motor': choose row, sail"),
        ({"kind": 3}, "kind is 3: give 'row', 'sail'"),
        ({"route": 5}, "route is 5: give a text or a list"),
        ({"route": {1.0}}, "route is {1.0}: give a text or a list"),
        ({"log": 5}, "log is 5: give a path"),
        ({"ports": "kiel"}, "ports is 'kiel': give a mapping"),
        ({"ports": "\n" * 100}, f"ports is '{chr(92)}n{chr(92)}n"),
    ],
)
def test_another_type_is_refused_on_one_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        Boat(**options)
    assert str(caught.value).startswith(says)
    assert len(str(caught.value)) < 150
    assert "\n" not in str(caught.value)


def test_what_fits() -> None:
    route: Any = np.arange(3.0)
    boat = Boat(name="", sail=False, crew="none", route=route, log=Path("log"), ports={"kiel": 1})
    assert boat.crew == "none"
    assert Boat(route=[1.0]).route == [1.0]
    assert Boat(log="log").log == "log"  # pyright: ignore[reportArgumentType]


def test_words() -> None:
    assert words_of(Literal["a", "b"]) == words_of(Literal["a", "b"] | None) == ("a", "b")
    assert words_of(int | Literal["a"]) == words_of(str) == ()


@pytest.mark.parametrize(
    ("record", "options", "says"),
    [
        (RunOptions, {"height": 7.5}, "height is 7.5: give a whole number"),
        (RunOptions, {"cut_step": 2.5}, "cut_step is 2.5: give a whole number or 'none'"),
        (RunOptions, {"cut_step": True}, "cut_step is True"),
        (RunOptions, {"seed": "0"}, "seed is '0'"),
        (RunOptions, {"schedule": 5}, "schedule is 5: give a text or a list"),
        (RunOptions, {"schedule": [5]}, "schedule is a list of other things than steps"),
        (RunOptions, {"guidance": 5}, "guidance is 5"),
        (RunOptions, {"sigmas": 5}, "sigmas is 5"),
        (RunOptions, {"height": 576.0}, "height is 576.0"),
        (RunOptions, {"motion_bucket_id": "127"}, "motion_bucket_id is '127': give a number"),
        (BackendOptions, {"threads": 1.5}, "threads is 1.5"),
        (BackendOptions, {"low_memory": "yes"}, "low_memory is 'yes'"),
        (ExportOptions, {"steps": 2.5}, "steps is 2.5"),
        (ExportOptions, {"cut_step": 2.5}, "cut_step is 2.5"),
    ],
)
def test_the_records_of_vcut_check_their_types(record: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        record(**options)
    assert str(caught.value).startswith(says)


def test_numbers_of_numpy_in_a_run() -> None:
    given: dict[str, Any] = {"fps": np.int32(12), "cut_step": np.int64(3), "motion_bucket_id": np.float32(30)}
    options = RunOptions(**given, seed=1)
    assert (options.fps, options.cut_step, options.motion_bucket_id, options.seed) == (12, 3, 30.0, 1)
    rows = [Step(700.0, "semantic_binding", "both", (0.0, 1.0, 0.0))]
    assert RunOptions(schedule=rows).schedule == tuple(rows)  # pyright: ignore[reportArgumentType]
