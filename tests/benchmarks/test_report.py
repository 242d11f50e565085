"""The report shows what the results say, as text, and needs nothing but itself."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from example_results import fidelity, latency
from vcut_bench.charts import charts
from vcut_bench.report import report
from vcut_bench.results import tables
from vcut_bench.results_page import RESULTS
from vcut_runtime.errors import UsageError, VcutError

HOSTILE = """</style></script></svg><script>alert(1)</script><img src=x onerror="alert(1)">"'&amp;"""


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
        fixed = key in ("benchmark", "hub", "cut_step")  # words with a meaning: others are refused
        return value + HOSTILE if isinstance(value, str) and not fixed else value

    sources = [latency(), fidelity(), *(json.loads(path.read_text()) for path in RESULTS.glob("*.json"))]
    hostile = [poison(source) for source in sources]
    page = show(tmp_path, *hostile)
    assert HOSTILE in page.text
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_a_cut_step_that_is_no_cut_step_is_refused(tmp_path: Path) -> None:
    result = fidelity()
    result["curves"][-1]["cut_step"] = f"none{HOSTILE}"
    with pytest.raises(UsageError, match="is not whole or of another version"):
        show(tmp_path, result)


def test_charts_and_their_numbers_are_shown(tmp_path: Path) -> None:
    page = show(tmp_path, latency(), fidelity())
    tags = [tag for tag, _ in page.tags]
    assert tags.count("figure") == tags.count("svg") == len(charts(latency())) + len(charts(fidelity()))
    assert tags.count("table") == tags.count("caption") == len(tables(latency())) + len(tables(fidelity()))
    assert all(a.get("scope") in ("row", "col") for tag, a in page.tags if tag == "th")
    assert all(a.get("role") == "img" and a.get("aria-label") for tag, a in page.tags if tag == "svg")
    for words in (
        "4.00 s, 2.00 x diffusers",
        "tgate is not installed",
        "12 %",
        "80.00 G",
        "32.5",
        "2 images x 1 seeds",
    ):
        assert words in page.text, words


def test_a_kind_without_charts_shows_its_numbers_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vcut_bench.charts._CHARTS", {})
    page = show(tmp_path, latency())
    assert [attributes for tag, attributes in page.tags if tag == "details"] == [{"open": ""}]


def test_without_matplotlib_the_report_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vcut_bench.report.find_spec", lambda name: None)
    with pytest.raises(VcutError, match="pip install matplotlib"):
        show(tmp_path, latency())


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
