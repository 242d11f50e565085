"""The cut step: its default at other noise levels, and what may be given as one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from example_manifest import SCHEDULER as SVD
from vcut_runtime import UsageError
from vcut_runtime.schedule import (
    ays_sigmas,
    check_cut_step,
    cut_step_of,
    default_cut_step,
    karras_sigmas,
    make_schedule,
    paper_cut_step,
    parse_cut_step,
    parse_cut_steps,
)

SIGMAS = karras_sigmas(SVD, 25)
STEPS = st.integers(1, 1000)


@pytest.mark.parametrize(("steps", "cut_step"), [(25, 17), (10, 7), (5, 4), (50, 34)])
def test_another_number_of_steps_cuts_at_the_noise_level_of_step_17_of_25(steps: int, cut_step: int) -> None:
    level = SIGMAS[16]
    sigmas = karras_sigmas(SVD, steps)
    assert sigmas[cut_step - 1] <= level < sigmas[cut_step - 2]
    assert default_cut_step(make_schedule(SIGMAS, 17), sigmas) == cut_step
    assert paper_cut_step(SVD, steps) == cut_step


@settings(deadline=None)
@given(STEPS, STEPS, st.data())
def test_the_default_cut_is_the_first_step_at_or_below_the_level(steps: int, others: int, data: st.DataObject) -> None:
    schedule = make_schedule(karras_sigmas(SVD, steps), data.draw(st.integers(1, steps)))
    level = schedule[cut_step_of(schedule) - 1].sigma
    sigmas = karras_sigmas(SVD, others)
    cut_step = default_cut_step(schedule, sigmas)
    assert 1 <= cut_step <= others + 1
    assert sigmas[cut_step - 1] <= level * (1 + 1e-5)
    assert cut_step == 1 or sigmas[cut_step - 2] > level


@settings(deadline=None)
@given(STEPS, st.data())
def test_the_same_number_of_steps_keeps_the_cut_step(steps: int, data: st.DataObject) -> None:
    cut_step = data.draw(st.integers(1, steps + 1))
    sigmas = karras_sigmas(SVD, steps)
    assert default_cut_step(make_schedule(sigmas, cut_step), sigmas) == cut_step


@settings(deadline=None)
@given(STEPS, STEPS)
def test_cutting_always_and_never_stay_so_with_other_steps(steps: int, others: int) -> None:
    sigmas, others_sigmas = karras_sigmas(SVD, steps), karras_sigmas(SVD, others)
    assert default_cut_step(make_schedule(sigmas, 1), others_sigmas) == 1
    assert default_cut_step(make_schedule(sigmas, steps + 1), others_sigmas) == others + 1


def test_a_cut_below_every_noise_level_is_never() -> None:
    assert default_cut_step(make_schedule(SIGMAS, 17), np.array([700.0, 5.0, 3.0, 0.0])) == 4
    assert default_cut_step(make_schedule(SIGMAS, 17), ays_sigmas(SVD, 10)) == 6


@pytest.mark.parametrize(("cut_step", "checked"), [(1, 1), (17, 17), (26, 26), ("none", 26)])
def test_cut_step_within_the_steps_passes(cut_step: Any, checked: int) -> None:
    assert check_cut_step(cut_step, 25) == checked


@pytest.mark.parametrize("cut_step", [-1, 0, 27, 1000])
def test_cut_step_outside_the_steps_is_refused(cut_step: int) -> None:
    with pytest.raises(UsageError, match=rf"^cut step {cut_step} is outside 1\.\.26: .*choose") as caught:
        check_cut_step(cut_step, 25)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "cut_steps"),
    [
        ("17", [17]),
        ("none", ["none"]),
        (" NONE , 3 ", ["none", 3]),
        ("none,10,12..15", ["none", 10, 12, 13, 14, 15]),
        ("3..3", [3]),
        ("12..14,13..16,none,none", [12, 13, 14, 15, 16, "none"]),
    ],
)
def test_cut_steps_are_numbers_ranges_and_none(text: str, cut_steps: list[int | str]) -> None:
    assert parse_cut_steps(text) == cut_steps


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'' is not a number"),
        ("soon", "'soon' is not a number"),
        ("3,,4", "'' is not a number"),
        ("3..", "'3..' is not a number"),
        ("..3", "'..3' is not a number"),
        ("3...5", "'3...5' is not a number"),
        ("none..3", "'none..3' is not a number"),
        ("1.5", "'1.5' is not a number"),
        ("5..3", "'5..3' is not a range of cut steps"),
        ("1..100000000000", "is not a range of cut steps"),
        ("1..100000000000000000000000000", "is not a range of cut steps"),
    ],
)
def test_other_cut_steps_are_refused_on_one_line(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says.replace(".", r"\.")) as caught:
        parse_cut_steps(text)
    assert len(str(caught.value).splitlines()) == 1


@given(st.text(max_size=20))
def test_any_text_is_a_list_of_cut_steps_or_refused(text: str) -> None:
    try:
        cut_steps = parse_cut_steps(text)
    except UsageError:
        return
    assert cut_steps
    assert all(cut_step == "none" or isinstance(cut_step, int) for cut_step in cut_steps)


def test_one_cut_step_is_a_number_or_none() -> None:
    assert (parse_cut_step("17"), parse_cut_step(" None ")) == (17, "none")


@pytest.mark.parametrize("text", ["1,2", "3..4", "none,1"])
def test_several_cut_steps_are_refused_where_one_is_needed(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not one step: give a number, or none"):
        parse_cut_step(text)
