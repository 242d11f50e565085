"""Results as one page of plots that opens without a network: no script, no font, nothing from elsewhere.

The page is a tree of elements, so whatever a result says ends up as text.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, tostring

from vcut_bench.plots import Plot, names, plots
from vcut_bench.svg import element
from vcut_runtime.errors import UsageError, VcutError

_TITLES = {
    "macs": "Parameters and MACs",
    "latency": "Latency",
    "fidelity": "Fidelity",
    "tiny": "What the trained svd-tiny does",
    "vbench": "The paper's metrics",
    "memory": "Memory",
    "export": "Compiling",
    "seams": "Seams",
}


def report(results: Sequence[str | Path], output: str | Path) -> Path:
    """Write the page that shows ``results`` at ``output`` and return its path.

    Raises:
        UsageError: a file is no result that this version knows.
        VcutError: the page cannot be written.
    """
    if not results:
        raise UsageError("no results given: name the JSON files that vcut bench wrote")
    order = list(_TITLES)
    loaded = [(Path(path), load(Path(path))) for path in results]
    loaded.sort(key=lambda found: order.index(found[1]["benchmark"]))
    sections = []
    for path, result in loaded:
        try:
            sections.append((result, plots(result)))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
            raise UsageError(f"{path} is not whole or of another version of vcut ({reason}): measure again") from None
    text = "<!DOCTYPE html>\n" + tostring(page(sections), encoding="unicode", method="html") + "\n"
    return _write(Path(output), text.encode("utf-8", errors="replace"))


def load(path: Path) -> dict[str, Any]:
    """Read a result.

    Raises:
        UsageError: it is none, or of a benchmark that is not known.
    """
    try:
        result = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"no result at {path} ({error.strerror}): check the path") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path} is not JSON: give results that vcut bench wrote") from None
    kind = result.get("benchmark") if isinstance(result, dict) else None
    if not isinstance(kind, str) or kind not in names():
        found = f"a result of {kind[:40]!r}" if isinstance(kind, str) else "no result of vcut bench"
        raise UsageError(f"{path} is {found}: give results of {', '.join(names())}")
    return result


def page(sections: Sequence[tuple[dict[str, Any], Sequence[Plot]]]) -> Element:
    """Return the whole document."""
    html = element(None, "html", lang="en")
    head = element(html, "head")
    element(head, "meta", charset="utf-8")
    element(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    element(head, "meta", name="color-scheme", content="light dark")
    element(head, "meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'")
    element(head, "title", "vcut benchmarks")
    element(head, "style", resources.files("vcut_bench").joinpath("report.css").read_text("utf-8"))
    body = element(html, "body")
    top = element(body, "header")
    element(top, "h1", "vcut benchmarks")
    element(top, "p", "Stable Video Diffusion compiled with VCUT, beside diffusers, its peers and the paper.")
    nav = element(element(top, "nav", aria_label="Results"), "ol")
    main = element(body, "main")
    for number, (result, figures) in enumerate(sections, 1):
        title = _title(result)
        element(element(nav, "li"), "a", title, href=f"#result-{number}")
        section = element(main, "section", id=f"result-{number}")
        element(section, "h2", title)
        _provenance(section, result)
        grid = element(section, "div", class_="grid")
        for plot in figures:
            _figure(grid, plot, result)
    return html


def _figure(parent: Element, plot: Plot, result: dict[str, Any]) -> None:
    figure = element(parent, "figure", class_="" if plot.charts else "wide")
    caption = element(figure, "figcaption")
    element(caption, "h3", plot.title)
    element(caption, "p", plot.text)
    if plot.charts:
        scroll = element(figure, "div", class_="scroll", tabindex=0)
        scroll.extend(plot.charts)
        details = element(figure, "details")
        element(details, "summary", "Numbers and provenance")
        _table(details, plot)
        element(details, "p", "; ".join(_facts(result).values()), class_="source")
    else:
        _table(figure, plot)


def _table(parent: Element, plot: Plot) -> None:
    table = element(element(parent, "div", class_="scroll", tabindex=0), "table")
    element(table, "caption", plot.title, class_="hidden")
    row = element(element(table, "thead"), "tr")
    for name in plot.head:
        element(row, "th", name, scope="col")
    body = element(table, "tbody")
    for cells in plot.rows:
        row = element(body, "tr")
        element(row, "th", cells[0], scope="row")
        for cell in cells[1:]:
            element(row, "td", cell)


def _provenance(parent: Element, result: dict[str, Any]) -> None:
    listed = element(parent, "dl", class_="provenance")
    for name, value in _facts(result).items():
        pair = element(listed, "div")
        element(pair, "dt", name)
        if name == "command":
            element(element(pair, "dd"), "code", value)
        else:
            element(pair, "dd", value)


def _facts(result: dict[str, Any]) -> dict[str, str]:
    """Where the numbers are from: model, sizes, device, versions, date and command."""
    versions = dict(result.get("versions") or {})
    threads = f"{result['threads']} threads" if "threads" in result else None
    facts = {
        "model": result.get("model"),
        "size": _size(result),
        "device": ", ".join(str(part) for part in (result.get("device"), result.get("backend"), threads) if part),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "date": result.get("date"),
        "command": result.get("command"),
    }
    return {name: str(value) for name, value in facts.items() if value}


def _title(result: dict[str, Any]) -> str:
    title = _TITLES[result["benchmark"]]
    return f"{title}: {result['model']}" if isinstance(result.get("model"), str) else title


def _size(result: dict[str, Any]) -> str | None:
    shape = result.get("shape")
    if not isinstance(shape, dict):
        return None
    parts = [f"{shape.get('frames')} frames of {shape.get('height')}x{shape.get('width')}"]
    parts += [str(result["precision"])] if "precision" in result else []
    parts += [f"{result['steps']} steps"] if "steps" in result else []
    return ", ".join(parts)


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
