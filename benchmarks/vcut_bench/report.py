"""Results as one page of plots that opens without a network: no script, no font, nothing from elsewhere.

The page is a tree of elements, so whatever a result says ends up as text.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, tostring

from vcut_bench.markup import element
from vcut_bench.numbers import html
from vcut_bench.results import KINDS, load, origin, reading, tables, title
from vcut_runtime.errors import UsageError, VcutError


@dataclass(frozen=True)
class Section:
    """What the page shows of one result: charts as title, text and drawing, and tables."""

    title: str
    origin: Mapping[str, str]
    charts: Sequence[tuple[str, str, Element]]
    tables: Sequence[Element]


def report(results: Sequence[str | Path], output: str | Path) -> Path:
    """Write the page that shows ``results`` at ``output`` and return its path.

    Raises:
        UsageError: a file is no result that this version knows.
        VcutError: matplotlib is not installed, or the page cannot be written.
    """
    if not results:
        raise UsageError("no results given: name the JSON files that vcut bench wrote")
    if find_spec("matplotlib") is None:
        raise VcutError("the report needs matplotlib: pip install matplotlib")
    loaded = sorted(((Path(path), load(Path(path))) for path in results), key=_order)
    sections = [_section(path, result) for path, result in loaded]
    text = "<!DOCTYPE html>\n" + tostring(page(sections), encoding="unicode", method="html") + "\n"
    return _write(Path(output), text.encode("utf-8", errors="replace"))


def page(sections: Sequence[Section]) -> Element:
    """Return the whole document."""
    document = element(None, "html", lang="en")
    head = element(document, "head")
    element(head, "meta", charset="utf-8")
    element(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    element(head, "meta", name="color-scheme", content="light dark")
    element(head, "meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'")
    element(head, "title", "vcut benchmarks")
    element(head, "style", resources.files("vcut_bench").joinpath("report.css").read_text("utf-8"))
    body = element(document, "body")
    top = element(body, "header")
    element(top, "h1", "vcut benchmarks")
    element(top, "p", "Stable Video Diffusion compiled with VCUT, beside diffusers, its peers and the paper.")
    nav = element(element(top, "nav", aria_label="Results"), "ol")
    main = element(body, "main")
    for number, section in enumerate(sections, 1):
        element(element(nav, "li"), "a", section.title, href=f"#result-{number}")
        block = element(main, "section", id=f"result-{number}")
        element(block, "h2", section.title)
        _origin(block, section.origin)
        grid = element(block, "div", class_="grid")
        for name, text, drawing in section.charts:
            figure = element(grid, "figure")
            caption = element(figure, "figcaption")
            element(caption, "h3", name)
            element(caption, "p", text)
            element(figure, "div", class_="scroll", tabindex=0).append(drawing)
        details = element(block, "details")
        if not section.charts:
            details.set("open", "")
        element(details, "summary", "Numbers")
        details.extend(section.tables)
    return document


def _order(loaded: tuple[Path, dict[str, Any]]) -> int:
    return list(KINDS).index(loaded[1]["benchmark"])


def _section(path: Path, result: dict[str, Any]) -> Section:
    from vcut_bench.charts import charts
    from vcut_bench.drawing import svg

    with reading(path):
        drawn = [(chart.title, chart.text, svg(chart.figure, chart.title)) for chart in charts(result)]
        return Section(title(result), origin(result), drawn, [html(numbers) for numbers in tables(result)])


def _origin(parent: Element, facts: Mapping[str, str]) -> None:
    listed = element(parent, "dl", class_="origin")
    for name, value in facts.items():
        pair = element(listed, "div")
        element(pair, "dt", name)
        if name == "command":
            element(element(pair, "dd"), "code", value)
        else:
            element(pair, "dd", value)


def _write(path: Path, content: bytes) -> Path:
    """Write beside and rename: a page is whole or not there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise VcutError(f"cannot write {path} ({error.strerror}): choose another --output") from None
    return path
