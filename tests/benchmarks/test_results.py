"""Result files are read, or refused in one line."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from vcut_bench.results import KINDS, load, origin, reading, tables, title
from vcut_bench.results_page import RESULTS
from vcut_runtime.errors import UsageError

KEPT = sorted(RESULTS.glob("*.json"))


def test_every_kind_says_what_its_tables_are() -> None:
    for _, module in KINDS.values():
        assert callable(import_module(module).numbers)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_kept_result_has_tables_and_an_origin(path: Path) -> None:
    result = load(path)
    for table in tables(result):
        assert table.title
        assert table.rows
        assert all(len(row) == len(table.head) for row in table.rows), table.title
        assert all(isinstance(cell, str) for row in table.rows for cell in row), table.title
    facts = origin(result)
    assert {"device", "versions", "date", "command"} <= set(facts)
    assert facts["date"] in path.name
    assert title(result).startswith(KINDS[result["benchmark"]][0])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "no result of vcut bench"),
        ('{"benchmark": "horoscope"}', "a result of 'horoscope'"),
        ('{"benchmark": ["macs"]}', "no result of vcut bench"),
    ],
)
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=reason) as raised:
        load(path)
    assert "\n" not in str(raised.value)


def test_a_damaged_result_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"benchmark": "macs", "steps": 25}))
    with pytest.raises(UsageError, match="not whole") as raised, reading(path):
        tables(load(path))
    assert "\n" not in str(raised.value)
