"""RESULTS.md shows the measured results, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from vcut_bench.peers import PEERS
from vcut_bench.results_page import PAGE, README, RESULTS, TEMPLATE, fill, fill_readme, newest
from vcut_bench.turns import ratios
from vcut_runtime.errors import UsageError

PLACES = re.findall(r"^\{\{ (\S+) \}\}$", TEMPLATE.read_text("utf-8"), re.MULTILINE)


def test_the_page_shows_the_kept_results() -> None:
    assert fill(TEMPLATE.read_text("utf-8")) == PAGE.read_text("utf-8"), "run 'make tables'"


def test_the_readme_shows_the_newest_latency() -> None:
    assert fill_readme(README.read_text("utf-8")) == README.read_text("utf-8"), "run 'make tables'"


def test_every_kept_result_is_on_the_page() -> None:
    assert {newest(name) for name in PLACES} == set(RESULTS.glob("*.json"))


def test_the_newest_result_of_a_name_is_shown(tmp_path: Path) -> None:
    for name in ("a-2026-01-09", "a-2026-02-01", "a-b-2027-01-01", "a-2027"):
        (tmp_path / f"{name}.json").write_text("{}")
    assert newest("a", tmp_path).name == "a-2026-02-01.json"
    assert newest("a-b", tmp_path).name == "a-b-2027-01-01.json"
    with pytest.raises(UsageError, match="no c-DATE"):
        newest("c", tmp_path)


def test_every_kept_result_says_where_it_comes_from() -> None:
    for path in RESULTS.glob("*.json"):
        result = json.loads(path.read_text())
        assert {"command", "date", "device", "versions"} <= set(result), path.name
        assert result["date"] in path.name


def test_a_changed_result_changes_the_page(tmp_path: Path) -> None:
    path = newest("latency-cpu")
    result = json.loads(path.read_text())
    ours = result["configurations"][f"vcut c={result['cut_step']}"]
    ours["speedup_over_diffusers"]["median"] = 123.0
    (tmp_path / path.name).write_text(json.dumps(result))
    text = fill("before\n\n{{ latency-cpu }}\n\nafter", tmp_path)
    assert "123.00 x" in text
    assert f"`{result['command']}`" in text
    for fact in (result["date"], result["device"], *result["versions"].values(), "12 frames of 72x96"):
        assert fact in text


def kept_latency() -> dict[str, dict]:
    """The configurations of the recorded measurement on a CPU."""
    (path,) = RESULTS.glob("latency-cpu-*.json")
    configurations = json.loads(path.read_text())["configurations"]
    return {name: row for name, row in configurations.items() if "skipped" not in row}


def test_the_kept_latency_reaches_its_bars() -> None:
    """Ratios to diffusers eager in the same run, at an error to the converged video."""
    rows = kept_latency()
    assert min(rows, key=lambda name: rows[name]["step_loop"]["median"]).startswith("vcut")
    ours = {name: row for name, row in rows.items() if name.startswith("vcut")}

    def best(error: float) -> float:
        near = [row for row in ours.values() if row["converged_psnr"] >= error]
        return max(row["speedup_over_diffusers"]["median"] for row in near)

    assert best(rows["diffusers"]["converged_psnr"]) >= 4.3
    assert best(36.0) >= 5.5
    assert best(33.0) >= 7.0
    assert ours["vcut balanced"]["converged_psnr"] >= 36
    assert ours["vcut fast"]["converged_psnr"] >= 33


def test_each_peer_is_slower_than_a_schedule_that_is_as_near_to_the_converged_video() -> None:
    rows = kept_latency()
    peers = {name: row for name, row in rows.items() if not name.startswith("vcut")}
    assert set(peers) == set(PEERS) - {"tensorrt-unfolded"}  # which needs a GPU
    for name in peers:
        assert fastest_as_near(rows, name) > 1, name


def fastest_as_near(rows: dict[str, dict], peer: str) -> float:
    """Return how much longer a peer takes than the fastest of ours with no larger error; 0 without one."""
    theirs = rows[peer]
    as_near = [
        ratios(theirs["step_loop"]["values"], ours["step_loop"]["values"])["median"]
        for name, ours in rows.items()
        if name.startswith("vcut") and ours["converged_psnr"] >= theirs["converged_psnr"]
    ]
    return max(as_near, default=0.0)
