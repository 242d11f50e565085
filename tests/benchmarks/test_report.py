"""The report shows what the results say, as text, and needs nothing but itself."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from vcut_bench import plots, svg
from vcut_bench.report import report
from vcut_bench.tables import ROOT
from vcut_runtime.errors import UsageError

RESULTS = ROOT / "benchmarks/results"
HOSTILE = """</style></script></svg><script>alert(1)</script><img src=x onerror="alert(1)">"'&amp;"""
PROVENANCE = {"command": "vcut bench x", "date": "2026-11-25", "device": "a CPU", "versions": {"vcut": "0.1.0"}}
SHAPE = {"model": "svd-tiny", "shape": {"frames": 2, "height": 64, "width": 96}, "precision": "fp32", "steps": 25}


class Page(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def show(tmp_path: Path, *results: Any) -> Page:
    paths = []
    for i, result in enumerate(results):
        paths.append(tmp_path / f"{i}.json")
        paths[-1].write_text(json.dumps(result))
    return Page(report(paths, tmp_path / "report.html").read_text())


def statistics(median: float) -> dict[str, Any]:
    return {"median": median, "p95": 1.2 * median, "spread": 0.1, "values": [0.9 * median, median, 1.2 * median]}


def latency() -> dict[str, Any]:
    def row(title: str, guided: int, seconds: float) -> dict[str, Any]:
        return {
            "title": title,
            "psnr": 31.25,
            "video": statistics(seconds + 1),
            "step_loop": statistics(seconds),
            "stages": {"condition": statistics(0.25), "semantic_binding": statistics(seconds)},
            "steps": {"semantic_binding": {"count": guided, **statistics(seconds / guided)}},
            "peak_host_memory_bytes": 5e8,
            "peak_device_memory_bytes": None,
            "speedup_over_diffusers": {"median": 8 / seconds, "range": [1, 2]},
            "roofline_share": 0.125,
        }

    return {
        "benchmark": "latency",
        **PROVENANCE,
        **SHAPE,
        "roofline": {"macs_per_second": {"matmul, torch": 8e10}},
        "configurations": {
            "vcut c=17": row("vcut, c=17", 16, 4.0),
            "vcut c=none": row("vcut, never cut", 25, 5.0),
            "diffusers": row("diffusers, eager", 25, 8.0),
            "tgate": {"title": "T-GATE", "skipped": "tgate is not installed"},
        },
    }


def fidelity() -> dict[str, Any]:
    def value(mean: float) -> dict[str, Any]:
        return {"mean": mean, "std": 0.5, "n": 4, "low": mean - 1, "high": mean + 1}

    curves = [
        {"tca": tca, "quality_bias": "mean", "cut_step": cut, "psnr": value(30.5 + i + (tca == "fold"))}
        for tca in ("remove", "fold")
        for i, cut in enumerate((10, 17, None))
    ]
    baseline = {"motion": value(3)}
    return {"benchmark": "fidelity", **PROVENANCE, **SHAPE, "images": [1, 2], "seeds": [0], "curves": curves,
            "baseline": baseline}  # fmt: skip


def test_every_kept_result_is_shown(tmp_path: Path) -> None:
    paths = sorted(RESULTS.glob("*.json"))
    page = Page(report(paths, tmp_path / "report.html").read_text())
    for path in paths:
        result = json.loads(path.read_text())
        assert result["command"] in page.text
        for fact in (result["date"], result["device"], *result["versions"].values()):
            assert fact in page.text
    assert sum(tag == "section" for tag, _ in page.tags) == len(paths)


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    path = report(sorted(RESULTS.glob("*.json")), tmp_path / "report.html")
    page, text = Page(path.read_text()), path.read_text()
    assert not {"script", "link", "img", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not {"src", "srcset", "style"} & set(attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert "default-src 'none'" in text


def test_what_a_result_says_is_text_only(tmp_path: Path) -> None:
    """Every string of every result, keys that become words included."""

    def poison(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            free = key in ("configurations", "versions", "macs_per_second", "weights", "activations", "engines")
            return {(k + HOSTILE if free and k != "diffusers" else k): poison(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(v, key) for v in value]
        return value + HOSTILE if isinstance(value, str) and key not in ("benchmark", "hub") else value

    sources = [latency(), fidelity(), *(json.loads(path.read_text()) for path in RESULTS.glob("*.json"))]
    hostile = [poison(source) for source in sources]
    page = show(tmp_path, *hostile)
    assert HOSTILE in page.text
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_latency_is_drawn_and_told(tmp_path: Path) -> None:
    page = show(tmp_path, latency())
    for words in ("4.00 s, 2.00 x diffusers", "8.00 s, 1.00 x diffusers", "tgate is not installed", "12 %", "80.00 G"):
        assert words in page.text, words
    widths = [float(a["width"] or 0) for tag, a in page.tags if tag == "rect" and a.get("class") == "part c0"]
    assert widths[:3] == [svg.WIDTH / 2, svg.WIDTH * 5 / 8, svg.WIDTH]  # of the step loops: 4, 5 and 8 s
    assert "polyline" in {tag for tag, _ in page.tags}


def test_the_papers_seconds_stand_beside_its_own_sizes_only(tmp_path: Path) -> None:
    full = {**latency(), "model": "svd-xt, random weights", "shape": {"frames": 25, "height": 576, "width": 1024}}
    assert "NVIDIA A10" in show(tmp_path, full).text
    for other in ({"steps": 30}, {"model": "svd-tiny"}, {"shape": {**full["shape"], "frames": 14}}):
        assert "NVIDIA A10" not in show(tmp_path, {**full, **other}).text


def test_fidelity_has_a_curve_per_setting(tmp_path: Path) -> None:
    page = show(tmp_path, fidelity())
    lines = [a["points"] or "" for tag, a in page.tags if tag == "polyline"]
    assert len(lines) == 2
    remove, fold = ([tuple(map(float, point.split(","))) for point in line.split()] for line in lines)
    assert [x for x, _ in remove] == [x for x, _ in fold]
    assert remove[0][1] > remove[1][1] > remove[2][1]  # y grows downwards
    assert all(better < worse for (_, better), (_, worse) in zip(fold, remove, strict=True))
    for words in ("TCA fold, bias mean", "32.5", "none", "2 images x 1 seeds"):
        assert words in page.text


def test_numbers_of_every_chart_are_in_a_table_too(tmp_path: Path) -> None:
    page = show(tmp_path, latency(), fidelity())
    tags = [tag for tag, _ in page.tags]
    assert tags.count("figure") == tags.count("table") == tags.count("caption") > 4
    assert all(a.get("scope") in ("row", "col") for tag, a in page.tags if tag == "th")


def test_shares_of_macs_that_are_many_become_the_rest() -> None:
    result = json.loads(next(RESULTS.glob("macs-*.json")).read_text())
    model = result["models"][0]
    parts = {f"part {i}": {"full": 1000 - i} for i in range(12)}
    result["models"] = [{**model, "shares": dict.fromkeys(model["networks"], parts)}]
    (shares,) = [plot for plot in plots.plots(result) if plot.title.startswith("Where")]
    assert len(shares.rows) == 12
    assert "the rest" in "".join(shares.charts[0].itertext()) + "".join(i.tail or "" for i in shares.charts[0].iter())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "no result of vcut bench"),
        ('{"benchmark": "horoscope"}', "a result of 'horoscope'"),
        ('{"benchmark": ["macs"]}', "no result of vcut bench"),
        ('{"benchmark": "macs"}', "not whole"),
        ('{"benchmark": "latency", "steps": 25, "configurations": {"vcut": 3}}', "not whole"),
    ],
)
def test_a_file_that_is_no_result_is_refused_in_one_line(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=reason) as raised:
        report([path], tmp_path / "report.html")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1e400"])
def test_numbers_that_cannot_be_drawn_are_refused(tmp_path: Path, number: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(latency()).replace('"median": 4.0', f'"median": {number}'))
    with pytest.raises(UsageError, match="not whole"):
        report([path], tmp_path / "report.html")


def test_a_missing_file_and_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no result at"):
        report([tmp_path / "none.json"], tmp_path / "report.html")
    with pytest.raises(UsageError, match="no results given"):
        report([], tmp_path / "report.html")


@pytest.mark.parametrize("values", [[0.0, 0.0], [5.0], [-3.0, 1e-9], [1e12, 1.0000001e12], [0.123, 0.124]])
def test_axes_hold_all_values_and_few_ticks(values: list[float]) -> None:
    low, high, step = svg._range(values, zero=False)
    slack = 1e-6 * step
    assert low - slack <= min(values)
    assert max(values) <= high + slack
    assert 1 <= round((high - low) / step) <= 12
