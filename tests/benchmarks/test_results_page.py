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
    rows = kept_latency()
    fastest = min(rows, key=lambda name: rows[name]["step_loop"]["median"])
    assert fastest.startswith("vcut")
    near = {name: row for name, row in rows.items() if row["psnr"] >= rows["deepcache"]["psnr"]}
    ours = {name: row["speedup_over_diffusers"]["median"] for name, row in near.items() if name.startswith("vcut")}
    assert max(ours.values()) >= 1.8
    assert max(ours, key=lambda name: ours[name]) == "vcut c=none k=3"
    assert rows["vcut c=17"]["speedup_over_diffusers"]["median"] >= 1.8


@pytest.mark.xfail(strict=True, reason="DeepCache at interval 3 is faster than c=17 without reuse: 2.76 s to 3.06 s")
def test_the_kept_latency_is_ahead_of_every_peer_by_cutting_guidance_alone() -> None:
    """Strict, so that the mark goes when the bar is reached."""
    for name, row in kept_latency().items():
        if not name.startswith("vcut"):
            assert row["vcut_is_faster_by"]["median"] > 1, name


def test_each_peer_is_slower_than_what_does_the_same_or_less_to_the_video() -> None:
    rows = kept_latency()
    peers = {name: row for name, row in rows.items() if not name.startswith("vcut")}
    assert set(peers) == set(PEERS) - {"tensorrt-unfolded"}  # which needs a GPU
    for name, row in peers.items():
        like = rows[f"vcut c={PEERS[name].counterpart or 17}"]
        assert ratios(*(side["step_loop"]["values"] for side in (row, like)))["median"] > 1, name
        assert row["exact"] or like["psnr"] >= row["psnr"], name
