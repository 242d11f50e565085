"""Results as one page of charts and tables that opens without a network: no script, no font, nothing from elsewhere.

The page is a tree of elements, so whatever a result says ends up as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from xml.etree.ElementTree import Element, tostring

from vcut_bench.numbers import element, html
from vcut_bench.results import KINDS, Result, load, origin, reading, tables, title
from vcut_runtime.errors import UsageError, VcutError


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
    loaded = [(Path(path), load(Path(path))) for path in results]
    loaded.sort(key=lambda pair: list(KINDS).index(pair[1]["benchmark"]))
    document, nav, main = _page()
    for number, (path, result) in enumerate(loaded, 1):
        with reading(path):
            element(element(nav, "li"), "a", title(result), href=f"#result-{number}")
            _section(element(main, "section", id=f"result-{number}"), result)
    text = "<!DOCTYPE html>\n" + tostring(document, encoding="unicode", method="html") + "\n"
    path = Path(output)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8", "replace")
    except OSError as error:
        raise VcutError(f"cannot write {path} ({error.strerror}): choose another --output") from None
    return path


def _page() -> tuple[Element, Element, Element]:
    """Return the document, its list of links and its main part."""
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
    return document, element(element(top, "nav", aria_label="Results"), "ol"), element(body, "main")


def _section(section: Element, result: Result) -> None:
    from vcut_bench.charts import charts
    from vcut_bench.drawing import svg

    element(section, "h2", title(result))
    listed = element(section, "dl", class_="origin")
    for name, value in origin(result).items():
        pair = element(listed, "div")
        element(pair, "dt", name)
        element(pair, "dd", value, class_=name)
    grid = element(section, "div", class_="grid")
    for chart in charts(result):
        figure = element(grid, "figure")
        caption = element(figure, "figcaption")
        element(caption, "h3", chart.title)
        element(caption, "p", chart.text)
        element(figure, "div", class_="scroll", tabindex=0).append(svg(chart.figure, chart.title))
    details = element(section, "details", **({} if len(grid) else {"open": ""}))
    element(details, "summary", "Numbers")
    details.extend(map(html, tables(result)))
