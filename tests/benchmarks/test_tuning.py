"""The search, on errors that are a formula: it finds the fastest schedule, and runs little."""

from __future__ import annotations

import math

import pytest

from example_manifest import example
from vcut_bench.tuning import MOST_STEPS, Search
from vcut_runtime.schedule import Schedule, ays_sigmas

SECONDS = {
    "semantic_binding": 2.0,
    "quality_improvement": 1.0,
    "semantic_binding_shallow": 0.4,
    "quality_improvement_shallow": 0.2,
}


def formula(schedule: Schedule, number: int = 0) -> float:
    """More steps are better, a second-order solver doubles that, guidance matters at middle noise levels alone."""
    second = any(step.coefficients[2] for step in schedule)
    error = 50.0 / len(schedule) ** (2 if second else 1)
    error += sum(0.5 for step in schedule if 0.5 < step.sigma < 30 and step.bias != "both")
    error += sum(2.0 for step in schedule if step.graph.endswith("_shallow"))
    return 45 - 10 * math.log10(error) + 0.3 * (number % 2)


def search(bound: float, *, deep: bool = False, runs: list[Schedule] | None = None) -> Search:
    def error(schedule: Schedule, number: int) -> float:
        if runs is not None:
            runs.append(schedule)
        return formula(schedule, number)

    return Search(example(deep=deep), SECONDS, error, videos=4, seeds=2, min_psnr=bound)


def work(schedule: Schedule) -> float:
    return sum(SECONDS[step.graph] for step in schedule)


@pytest.mark.parametrize("bound", [38.0, 42.0, 46.0])
def test_it_finds_a_schedule_that_leaves_out_the_guidance_that_does_nothing(bound: float) -> None:
    runs: list[Schedule] = []
    fastest = search(bound, runs=runs).run()
    assert fastest is not None
    assert formula(fastest.schedule) + 0.15 >= bound  # the mean over seeds
    assert fastest.seconds == work(fastest.schedule)
    assert any(step.coefficients[2] for step in fastest.schedule)
    assert any(step.bias != "both" for step in fastest.schedule)
    whole = min(2.0 * steps for steps in range(2, MOST_STEPS + 1) if 45 - 10 * math.log10(50.0 / steps**2) >= bound)
    assert fastest.seconds < whole
    assert len(set(runs)) < 150
    assert len(runs) <= 3 * len(set(runs))  # two videos of each, and all of a few


def test_the_front_rises() -> None:
    tuned = search(42.0)
    chosen = tuned.run()
    assert chosen is not None
    front = tuned.front()
    errors = [tuned.screened[candidate.schedule] for candidate in front]
    assert errors == sorted(errors)
    assert [candidate.seconds for candidate in front] == sorted(candidate.seconds for candidate in front)
    assert tuned.screened[chosen.schedule] >= tuned.target - 0.3


def test_photographs_that_are_harder_than_the_screened_ones_raise_the_target() -> None:
    """The third photograph is 2 dB worse with every schedule, so the interval's lower end is lower by its share."""
    easy, hard = search(42.0), search(42.0)
    hard.videos, hard.error = 6, lambda schedule, number: formula(schedule, number) - (2.0 if number >= 4 else 0.0)
    chosen = hard.run()
    easy.run()
    assert chosen is not None
    assert hard.target > easy.target + 0.5
    assert hard.summary(chosen.schedule)["low"] >= 42.0


def test_a_title_says_what_the_options_make() -> None:
    tuned = search(42.0)
    tuned.run()
    for candidate in tuned.tried.values():
        assert f"{len(candidate.schedule)} steps" in candidate.title
        if "from" in candidate.title.split(",")[0]:
            second = float(candidate.title.split(",")[0].split("from ")[1])
            levels = ays_sigmas(example().scheduler, len(candidate.schedule), second)
            assert [step.sigma for step in candidate.schedule] == pytest.approx(levels[:-1].tolist(), rel=1e-6)


def test_shallow_steps_are_tried_where_the_bundle_has_them() -> None:
    runs: list[Schedule] = []
    search(38.0, deep=True, runs=runs).run()
    assert any(step.graph.endswith("_shallow") for schedule in runs for step in schedule)


def test_a_bound_that_nothing_keeps_finds_nothing() -> None:
    assert search(90.0).run() is None
