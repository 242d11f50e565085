"""Serving's kept measurement reaches its bars, and its tables show it."""

from __future__ import annotations

import json

from vcut_bench.results_page import newest
from vcut_bench.serving import numbers

RESULT = json.loads(newest("serving-cpu").read_text())


def test_the_kept_measurement_reaches_its_bars() -> None:
    assert RESULT["overhead"]["ratio"]["median"] <= 1.1
    assert RESULT["scaling"]["ratio"]["median"] >= 1.8
    crowd = RESULT["crowd"]
    assert crowd["seconds"] >= 120
    assert crowd["clients"] >= 4 * RESULT["workers"]
    assert crowd["longest_queue"] <= crowd["queue"]
    assert set(crowd["answers"]) == {"200", "429", "completed"}
    assert crowd["answers"]["200"] == crowd["answers"]["completed"]
    assert crowd["memory"]["last"] <= 1.03 * crowd["memory"]["early"]


def test_the_tables_show_it() -> None:
    speed, crowd = numbers(RESULT)
    assert [len(row) for row in speed.rows] == [3] * 4
    assert ["failed", "0"] in crowd.rows
    longest, queue = RESULT["crowd"]["longest_queue"], RESULT["crowd"]["queue"]
    assert ["longest queue", f"{longest} of {queue}"] in crowd.rows
