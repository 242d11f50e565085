"""The latency benchmark: turns, statistics, ratios and reasons with stand-ins for processes, and once for real."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from vcut_bench import compiled, latency, latency_numbers, roofline, turns
from vcut_bench.numbers import terminal
from vcut_bench.peers import PEERS, PeerJob
from vcut_runtime import UsageError, VcutError

SECONDS = {"vcut": 1.0, "diffusers": 3.0, "deepcache": 2.0}
MACS = {
    "semantic_binding": 200,
    "quality_improvement": 100,
    "semantic_binding_shallow": 20,
    "quality_improvement_shallow": 10,
}


class FakeProcess:
    """Answers at once with times that grow from turn to turn, the same for all: a machine that slows down."""

    log: list[tuple[str, Any]]

    def __init__(self, job: PeerJob, log: list[Any]) -> None:
        self.side, self.log, self.runs = job.side, log, 0
        self.facts = {"backend": f"fake {job.side}", "precision": "fp32"}

    def run(self, options: dict[str, Any], frames: bool = False) -> tuple[dict[str, Any], Any]:
        options = {name: value for name, value in options.items() if name != "number"}
        what = options.get("schedule")
        self.log.append(
            (self.side, what if isinstance(what, str) else "converged" if what else options.get("cut_step"))
        )
        self.runs += 1
        if self.side == "roofline":
            return {"macs_per_second": {"matmul": 1000.0 * self.runs, "convolution": 500.0}}, None
        slow = 1.0 + 0.5 * sum(1 for side, _ in self.log if side == "diffusers")
        cut_step = options.get("cut_step", 5)
        guided = (5 if cut_step == "none" else cut_step) - 1
        loop = SECONDS[self.side] * slow
        stages = {"condition": 0.5, "semantic_binding": loop, "decode": 0.25}
        steps = {"semantic_binding": guided}
        if guided < 4:
            stages = {**stages, "semantic_binding": loop * 0.75, "quality_improvement": loop * 0.25}
            steps["quality_improvement"] = 4 - guided
        video = {
            "stages": stages,
            "steps": steps,
            "video": loop + 0.75,
            "peak_device_memory_bytes": None,
            "peak_host_memory_bytes": 1000 + self.runs,
        }
        level = {"vcut": 1, "diffusers": 0, "deepcache": 16}[self.side]
        return video, np.full((2, 4, 4, 3), level, np.uint8) if frames else None

    def close(self) -> None:
        self.log.append((self.side, "closed"))


def measure(bundle: Path, log: list[Any], start: Callable[[PeerJob], Any] | None = None, **options: Any) -> Any:
    usual = {"peers": "diffusers,deepcache", "repeats": 3, "backend": "onnxruntime-cpu", "schedules": []}
    options = {**usual, **options}
    start = start or (lambda job: FakeProcess(job, log))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roofline, "macs_per_step", lambda manifest: {"vcut": MACS, "original": MACS})
        return latency.measure(bundle, start=start, **options)


def printed(result: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    for table in latency_numbers.numbers(result):
        console.print(terminal(table))
    return [line.strip() for line in console.file.getvalue().splitlines()]  # pyright: ignore


def test_the_tables_fit_a_terminal_of_80_columns() -> None:
    """With the longest times and names that there are."""
    numbers = {"median": 1234.5678, "p95": 1234.5678, "spread": 0.123, "values": [1234.5678]}
    row = {
        "step_loop": numbers,
        "video": numbers,
        "psnr": 31.25,
        "converged_psnr": 31.25,
        "speedup_over_diffusers": {"median": 12.345, "range": [10.0, 15.0]},
        "roofline_share": 0.4321,
        "stages": dict.fromkeys(turns.STAGES, numbers),
        "steps": dict.fromkeys(turns.STAGES[1:3], numbers),
        "peak_device_memory_bytes": None,
        "peak_host_memory_bytes": 12_345_678_901,
    }
    titles = {
        "vcut c=none k=3": "vcut, never cut, cache interval 3: 9 full steps + 16 shallow",
        "vcut c=17": "vcut, c=17",
    }
    titles["vcut balanced"] = "vcut, balanced: 8 steps, 15 evaluations"
    titles |= {name: peer.title for name, peer in PEERS.items()}
    result = {"cut_step": 17, "configurations": {name: {**row, "title": title} for name, title in titles.items()}}
    lines = printed(result)
    assert not any("…" in line for line in lines)
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line.startswith("T-GATE")][1].split()[1:] == ["1235"] * 7 + ["12.3"]
    full = next(line for line in lines if line.startswith("T-GATE")).split()
    assert full[1:] == [
        *("1234.57", "s", "12", "%", "12.35", "x"),
        *("10.00", "to", "15.00", "31.2", "dB", "31.2", "dB", "43", "%"),
    ]
    pair = [line for line in lines if line.startswith("T-GATE")][2].split()
    assert pair[1:7] == ["31.2", "dB", "1.00", "x", "1.00", "to"]


def test_statistics_of_known_values() -> None:
    facts = turns.statistics_of([1.0, 2.0, 3.0, 4.0, 100.0])
    assert facts["median"] == 3.0
    assert facts["p95"] == pytest.approx(80.8)  # linear between the 4th and the 5th
    assert facts["spread"] == pytest.approx((4.0 - 2.0) / 3.0)
    assert turns.statistics_of([2.0])["p95"] == 2.0


def test_each_turn_has_everybody_once_and_begins_differently() -> None:
    orders = [turns.turn_order(4, turn) for turn in range(4)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert [order[0] for order in orders] == [0, 1, 2, 3]
    followers = {(a, b) for order in orders for a, b in pairwise(order)}
    assert {(0, 1), (1, 0)} <= followers  # nobody always comes after the same one


def test_configurations_take_turns_and_ratios_are_of_neighbours(small_bundle: Path) -> None:
    log: list[Any] = []
    result = measure(small_bundle, log)
    runs = [entry for entry in log if entry[1] not in ("closed", "converged")]
    count = 4  # vcut cut and uncut, diffusers, deepcache
    assert runs[:count] == [("vcut", 3), ("vcut", "none"), ("diffusers", None), ("deepcache", None)]  # the warm-up
    for turn in range(3):
        assert sorted(map(str, runs[count * (turn + 1) : count * (turn + 2)])) == sorted(map(str, runs[:count]))
    assert [side for side, what in log if what == "closed"] == ["vcut", "diffusers", "deepcache", "roofline"]

    rows = result["configurations"]
    assert list(rows) == ["vcut c=3", "vcut c=none", "diffusers", "deepcache"]
    ours, theirs = rows["vcut c=3"], rows["diffusers"]
    assert theirs["speedup_over_diffusers"] == {"median": 1.0, "range": [1.0, 1.0]}
    assert 2.0 < ours["speedup_over_diffusers"]["median"] < 4.5
    assert theirs["vcut_is_faster_by"]["median"] == pytest.approx(ours["speedup_over_diffusers"]["median"])
    assert len(ours["step_loop"]["values"]) == 3
    guided, conditional = ours["steps"]["semantic_binding"], ours["steps"]["quality_improvement"]
    assert guided["count"] == conditional["count"] == 2
    assert guided["median"] == pytest.approx(3 * conditional["median"])
    assert ours["video"]["median"] == pytest.approx(ours["step_loop"]["median"] + 0.75)
    assert theirs["peak_host_memory_bytes"] == 1004  # of its last video
    assert theirs["psnr"] == 100.0
    assert ours["psnr"] is None  # whose weights are not at hand
    assert rows["deepcache"]["psnr"] == pytest.approx(20 * np.log10(255 / 16))
    limit = result["roofline"]["macs_per_second"]
    assert limit == {"matmul": 3000.0, "convolution": 500.0}
    assert theirs["roofline_share"] == pytest.approx(4 * 200 / theirs["step_loop"]["median"] / 3000)
    assert "roofline_share" not in rows["deepcache"]


def test_cut_steps_are_swept_and_the_bundle_s_comes_first(small_bundle: Path, small_checkpoint: Path) -> None:
    log: list[Any] = []
    result = measure(small_bundle, log, cut_steps=["none", 2, 3], peers="diffusers", reference=str(small_checkpoint))
    assert list(result["configurations"]) == ["vcut c=3", "vcut c=none", "vcut c=2", "diffusers"]
    assert result["configurations"]["vcut c=2"]["psnr"] == pytest.approx(20 * np.log10(255))
    assert result["reference_weights"] == "the bundle's"
    with pytest.raises(UsageError, match="cut step 9"):
        measure(small_bundle, log, cut_steps=[9])


def test_cache_intervals_are_rows_of_their_own(deep_bundle: Path, small_bundle: Path) -> None:
    seen: list[tuple[int | str, int]] = []

    class Notes(FakeProcess):
        def run(self, options: dict[str, Any], frames: bool = False) -> tuple[dict[str, Any], Any]:
            if self.side == "vcut":
                seen.append((options.get("cut_step", "converged"), options.get("cache_interval", 1)))
            return super().run({**options, "cut_step": 3}, frames)

    result = measure(deep_bundle, [], lambda job: Notes(job, []), repeats=1)
    ours = {name: row for name, row in result["configurations"].items() if name.startswith("vcut")}
    assert list(ours) == [f"vcut c={cut}{k}" for k in ("", " k=2", " k=3") for cut in ("5", "none")]
    assert ours["vcut c=5 k=3"]["title"] == "vcut, c=5, cache interval 3: 3 full steps + 4 shallow"
    assert seen[0][0] == "converged"
    assert seen[1:7] == [(5, 1), ("none", 1), (5, 2), ("none", 2), (5, 3), ("none", 3)]
    assert ours["vcut c=none k=2"]["cache_interval"] == 2
    limit = max(result["roofline"]["macs_per_second"].values())
    for name, work in (("vcut c=5", 4 * 200 + 3 * 100), ("vcut c=5 k=2", 2 * 200 + 2 * 20 + 2 * 100 + 10)):
        share = work / ours[name]["step_loop"]["median"] / limit
        assert ours[name]["roofline_share"] == pytest.approx(share)
    alone = measure(deep_bundle, [], lambda job: Notes(job, []), cut_steps=["none"], cache_intervals=[1, 2], repeats=1)
    assert [name for name in alone["configurations"] if name.startswith("vcut")] == ["vcut c=none", "vcut c=none k=2"]
    for intervals, words in (([0], "2 or more"), ([2], "--deep-cache")):
        with pytest.raises(UsageError, match=words):
            measure(small_bundle, [], cache_intervals=intervals)
    assert (compiled.parse_intervals("2, 3"), compiled.parse_intervals("none")) == ([2, 3], [])
    for text in ("2;3", "", "two"):
        with pytest.raises(UsageError, match="not a list of numbers"):
            compiled.parse_intervals(text)


def test_every_peer_stands_beside_the_fastest_schedule_that_is_as_near_to_the_converged_video() -> None:
    def row(title: str, seconds: float, error: float | None) -> dict[str, Any]:
        return {"title": title, "converged_psnr": error, "step_loop": {"median": seconds, "values": [seconds]}}

    rows = {
        "vcut c=17": row("vcut, c=17", 3.0, 31.0),
        "vcut balanced": row("vcut, balanced: 8 steps", 2.0, 38.0),
        "vcut fast": row("vcut, fast: 7 steps", 1.0, 34.0),
        "diffusers": row("diffusers, eager", 8.0, 37.0),
        "deepcache": row("DeepCache, interval 3", 3.0, 30.0),
        "tgate": row("T-GATE", 4.0, None),
        "diffusers-dpmpp": row("diffusers, AYS, DPM-Solver++", 4.0, 40.0),
    }
    pairs = {pair[0]: pair[1:] for pair in latency_numbers._like_for_like(rows)}
    assert pairs == {
        "diffusers, eager": ["37.0 dB", "4.00 x", "4.00 to 4.00", "vcut, balanced", "38.0 dB"],
        "DeepCache, interval 3": ["30.0 dB", "3.00 x", "3.00 to 3.00", "vcut, fast", "34.0 dB"],
    }  # nobody of ours is as near as 40 dB, and the error of T-GATE is unknown


def test_named_schedules_and_several_photographs(small_bundle: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    log: list[Any] = []
    numbers: list[tuple[str, int]] = []

    class Notes(FakeProcess):
        def run(self, options: dict[str, Any], frames: bool = False) -> tuple[dict[str, Any], Any]:
            numbers.append((self.side, options["number"]))
            return super().run(options, frames)

    jobs: list[PeerJob] = []
    start = lambda job: (jobs.append(job), Notes(job, log))[1]  # noqa: E731
    result = measure(small_bundle, log, start, schedules=["fast", "fast"], image=tmp_path, repeats=2)
    assert jobs[0].images == (str(tmp_path / "a.png"), str(tmp_path / "b.png"))
    assert (result["images"], result["schedules"]) == (2, ["fast"])
    assert result["configurations"]["vcut fast"]["title"] == "vcut, fast: 7 steps, 11 evaluations"
    assert [number for side, number in numbers if side == "diffusers"] == [0, 1] * 2
    everything = measure(small_bundle, [], lambda job: FakeProcess(job, []), schedules=None, repeats=1)
    assert [name for name in everything["configurations"] if name.startswith("vcut ")] == [
        *("vcut c=3", "vcut c=none", "vcut balanced", "vcut fast")
    ]
    with pytest.raises(
        UsageError, match="unknown --schedules 'quick': choose from vcut, exact, balanced, fast, or none"
    ):
        measure(small_bundle, [], schedules=["quick"])
    assert (latency.parse_names("none"), latency.parse_names("a, b")) == ([], ["a", "b"])


def test_a_peer_that_does_not_open_or_fails_is_skipped_with_the_reason(small_bundle: Path) -> None:
    log: list[Any] = []

    class Fails(FakeProcess):
        def run(self, options: dict[str, Any], frames: bool = False) -> tuple[dict[str, Any], Any]:
            if self.runs == 2:
                raise VcutError("its process ended with exit code 1: boom\nmore")
            return super().run(options, frames)

    def opener(job: PeerJob) -> FakeProcess:
        if job.side == "tgate":
            raise UsageError("tgate is not installed: pip install --no-deps tgate")
        return (Fails if job.side == "deepcache" else FakeProcess)(job, log)

    result = measure(small_bundle, log, opener, peers="diffusers,deepcache,tgate")
    rows = result["configurations"]
    assert rows["tgate"] == {"title": "T-GATE", "skipped": "tgate is not installed: pip install --no-deps tgate"}
    assert rows["deepcache"]["skipped"] == "its process ended with exit code 1: boom"
    assert len(rows["diffusers"]["video"]["values"]) == 3
    assert sum(side == "deepcache" and what != "closed" for side, what in log) == 2
    lines = printed(result)
    assert "T-GATE tgate is not installed: pip install --no-deps tgate" in [" ".join(line.split()) for line in lines]
    loop = f" {rows['diffusers']['step_loop']['median']:.2f} s"
    assert any(line.startswith("diffusers,") and loop in line for line in lines)


def test_our_own_failure_ends_the_benchmark_and_every_process(small_bundle: Path) -> None:
    log: list[Any] = []

    class Fails(FakeProcess):
        def run(self, options: dict[str, Any], frames: bool = False) -> tuple[dict[str, Any], Any]:
            raise VcutError("ONNX Runtime failed")

    def opener(job: PeerJob) -> FakeProcess:
        return (Fails if job.side == "vcut" else FakeProcess)(job, log)

    with pytest.raises(VcutError, match="ONNX Runtime failed"):
        measure(small_bundle, log, opener)
    assert [what for _, what in log] == ["closed"] * 4


def test_impossible_options_are_refused_before_anything_opens(small_bundle: Path) -> None:
    def opener(job: PeerJob) -> Any:
        raise AssertionError

    for options, words in (
        ({"peers": "diffusers,nobody"}, "unknown --peers 'nobody'"),
        ({"repeats": 0}, "repeats"),
        ({"backend": "tensorrt"}, "no tensorrt engines"),
        ({"cut_steps": []}, "cut-steps is empty"),
    ):
        with pytest.raises(UsageError, match=words):
            measure(small_bundle, [], opener, **options)


def test_one_real_run_through_the_command(deep_bundle: Path, tmp_path: Path) -> None:
    """Two processes: ours, and the roofline's."""
    app = typer.Typer()
    app.command()(latency.latency_command)
    output = tmp_path / "results" / "latency.json"
    options = ["--peers", "none", "--repeats", "1", "--threads", "1", "--cut-steps", "none,5", "--json"]
    options += ["--schedules", "fast"]
    done = CliRunner().invoke(app, [str(deep_bundle), *options, "--cache-intervals", "7", "-o", str(output)])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result == json.loads(output.read_text())
    assert result["command"].startswith("vcut bench latency")
    assert list(result["configurations"]) == ["vcut c=5", "vcut c=none", "vcut c=5 k=7", "vcut c=none k=7", "vcut fast"]
    for row in result["configurations"].values():
        assert row["backend"] == "onnxruntime-cpu"
        assert row["step_loop"]["median"] > 0
        assert 0 < row["roofline_share"] < 1
        assert 5 < row["converged_psnr"] < 100
        assert 20e6 < row["peak_host_memory_bytes"] < 4e9
    assert [table.title for table in latency_numbers.numbers(result)][:1] == ["Step loop"]
