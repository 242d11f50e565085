"""The schedules that every bundle carries."""

from __future__ import annotations

from example_manifest import SCHEDULER as SVD
from vcut_runtime.schedule import cut_step_of, karras_sigmas, make_schedule, named_schedules

SIGMAS = karras_sigmas(SVD, 25)


def test_every_bundle_has_the_papers_schedule_and_the_one_without_a_cut() -> None:
    schedules = named_schedules(SVD, 25, 17)
    assert list(schedules) == ["vcut", "exact", "balanced", "fast"]
    assert schedules["vcut"] == make_schedule(SIGMAS, 17)
    assert schedules["exact"] == make_schedule(SIGMAS, 26)
    assert [(row.graph, row.bias) for row in schedules["exact"]] == [("semantic_binding", "both")] * 25
    work = {name: sum(1 + (row.bias == "both") for row in rows) for name, rows in schedules.items()}
    assert work == {"vcut": 41, "exact": 50, "balanced": 14, "fast": 11}
    levels = {name: schedules[name][1].sigma for name in ("balanced", "fast")}
    assert levels == {"balanced": 20.0, "fast": 30.0}
    assert [row.bias for row in schedules["fast"]] == ["cond", *["both"] * 4, "mean", "mean"]
    assert (cut_step_of(schedules["vcut"]), cut_step_of(schedules["exact"])) == (17, 26)
