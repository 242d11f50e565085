"""Lines and bars by matplotlib, as SVG elements that a page colours.

matplotlib is well kept and does ticks, intervals and layout. ``svg.fonttype: none`` keeps text as text: it takes the
page's font, can be searched and copied, and keeps the page small. Figures are drawn in stand-in colours. Each becomes a
CSS variable, so one drawing serves light and dark pages.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, fromstring

import numpy as np

_NAMES = ("text", "quiet", "line", "track", "card", *(f"c{number}" for number in range(8)))
_TEXT, _QUIET, _LINE, _TRACK, _CARD, *COLOURS = (f"#0100{number:02x}" for number in range(len(_NAMES)))
_VARIABLES = {f"#0100{number:02x}": f"var(--{name})" for number, name in enumerate(_NAMES)}
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a result is a dollar
    "font.size": 8.5,
    "text.color": _TEXT,
    "axes.labelcolor": _QUIET,
    "axes.edgecolor": _LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _LINE,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}
_WIDTH, _HEIGHT, _ROW = 4.3, 2.6, 0.4  # inches, each 72 units of the drawing


@dataclass(frozen=True)
class Line:
    """One curve: x, y and the ends of an interval around y for each point."""

    name: str
    points: Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True)
class Bar:
    """One row: its parts by name, a figure in words beside its label, and the value to compare with, if any."""

    label: str
    parts: Mapping[str, float]
    words: str
    mark: float | None = None
    ours: bool = True  # others are drawn lighter


@contextmanager
def _style() -> Iterator[None]:
    from matplotlib import rc_context

    with rc_context(_STYLE):
        yield


@_style()
def lines(curves: Sequence[Line], x: str, y: str, ticks: Mapping[int, str], reference: Mapping[str, float]) -> Any:
    """Return a figure of ``curves``; each value of ``reference`` is a dashed line to compare with.

    Raises:
        ValueError: there is nothing to draw, or a value is no finite number.
    """
    _check([value for curve in curves for point in curve.points for value in point], *reference.values())
    figure, axes = _figure(_HEIGHT)
    for curve, colour in zip(curves, COLOURS, strict=False):
        at, values, low, high = np.transpose(curve.points)
        ends = [(values - low).clip(0), (high - values).clip(0)]
        axes.errorbar(at, values, ends, label=_plain(curve.name), color=colour, linewidth=1.5, elinewidth=1,
                      marker="o", markersize=3.5, markeredgecolor=_CARD, markeredgewidth=0.6)  # fmt: skip
    for name, value in reference.items():
        axes.axhline(value, color=_TEXT, linestyle=(0, (4, 3)), linewidth=1, label=_plain(name))
    shown = list(ticks)[:: -(len(ticks) // 12 + 1)][::-1]  # the last tick is "none", which is shown
    axes.set_xticks(shown, [_plain(ticks[tick]) for tick in shown])
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    figure.legend(loc="outside upper left", ncols=2)
    return figure


@dataclass(frozen=True)
class Mark:
    """One point of a front, with its label."""

    label: str
    x: float
    y: float
    ours: bool = True


@_style()
def front(marks: Sequence[Mark], x: str, y: str) -> Any:
    """Return a figure of labelled points; a line joins those of ours that no other of ours beats in both directions.

    Less of x and more of y is better.

    Raises:
        ValueError: there is nothing to draw, or a value is no finite number.
    """
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    _check([value for mark in marks for value in (mark.x, mark.y)])
    figure, axes = _figure(1.5 * _HEIGHT)
    best: list[Mark] = []
    for mark in sorted((mark for mark in marks if mark.ours), key=lambda mark: (mark.x, -mark.y)):
        if not best or mark.y > best[-1].y:
            best.append(mark)
    axes.plot([mark.x for mark in best], [mark.y for mark in best], color=COLOURS[0], linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(min(mark.x for mark in marks) / 1.4, max(mark.x for mark in marks) * 2.5)  # room for labels
    height = (max(mark.y for mark in marks) - min(mark.y for mark in marks) or 1.0) / 30  # of a label
    lowest = float("inf")
    for mark in sorted(marks, key=lambda mark: (-mark.y, mark.x)):
        axes.plot([mark.x], [mark.y], "o", markersize=4, color=COLOURS[0] if mark.ours else COLOURS[1])
        lowest = min(mark.y, lowest - height)  # labels stand below each other
        axes.annotate(_plain(mark.label, 34), (mark.x, mark.y), (mark.x * 1.04, lowest), fontsize=6.5, va="center")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure


@_style()
def bars(rows: Sequence[Bar]) -> Any:
    """Return a figure with a bar for each row, below its label.

    Raises:
        ValueError: there is nothing to draw, or a value is no finite number.
    """
    _check([value for row in rows for value in (*row.parts.values(), row.mark or 0)])
    colours = dict(zip(dict.fromkeys(part for row in rows for part in row.parts), COLOURS, strict=False))
    end = max(max(sum(row.parts.values()), row.mark or 0) for row in rows) or 1
    legend_rows = (len(colours) + 2) // 3 if len(colours) > 1 else 0
    figure, axes = _figure(_ROW * (len(rows) + 0.5 * legend_rows))
    axes.set_axis_off()
    axes.set_xlim(0, end)
    for y, row in enumerate(rows):
        axes.text(0, y - 0.32, _plain(row.label))
        axes.text(end, y - 0.32, _plain(row.words, 30), ha="right")
        axes.barh(y, end, 0.38, color=_TRACK)
        left = 0.0
        for part, value in row.parts.items():
            axes.barh(y, value, 0.38, left=left, color=colours[part], alpha=1 if row.ours else 0.55)
            left += value
        if row.mark is not None:
            axes.plot([row.mark] * 2, [y - 0.21, y + 0.25], color=_TEXT, linewidth=1.5)
    axes.set_ylim(len(rows) - 0.75, -0.75)
    if legend_rows:
        handles = [axes.fill_between([], [], color=colour, label=_plain(part)) for part, colour in colours.items()]
        figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


@_style()
def svg(figure: Any, title: str) -> Element:
    """Return the drawing without identifiers, styles and links, which a page that is closed to the outside refuses."""
    for artist in figure.findobj():
        artist.set_clip_on(False)
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    root = fromstring(buffer.getvalue())
    drawing = _bare(root, {f"#{shape.get('id')}": shape for shape in root.iter()})
    drawing.attrib |= {"class": "chart", "role": "img", "aria-label": title}
    return drawing


def _bare(source: Element, shapes: Mapping[str, Element]) -> Element:
    """Return a copy whose style has become attributes; a shape that is used is copied to where it is used."""
    tag = source.tag.rpartition("}")[2]
    given = {name.rpartition("}")[2]: value for name, value in source.attrib.items()}
    style = dict(part.split(": ", 1) for part in given.get("style", "").split("; ") if part)
    kept = {name: given[name] for name in ("d", "x", "y", "transform", "viewBox") if name in given}
    kept |= {name: _VARIABLES.get(value, value) for name, value in style.items() if name != "font-family"}
    if tag == "use":
        shape = _bare(shapes[given["href"]], shapes)
        shape.attrib |= kept | {"transform": f"translate({kept.pop('x', 0)} {kept.pop('y', 0)})"}
        return shape
    copy = Element(tag, kept)
    copy.text = source.text if tag == "text" else None
    copy.extend(_bare(part, shapes) for part in source if not part.tag.endswith(("}defs", "}metadata")))
    return copy


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _check(values: Sequence[float], *more: float) -> None:
    if not values or not np.isfinite([*values, *more]).all():
        raise ValueError("a value is no finite number")


def _plain(text: object, width: int = 48) -> str:
    """Return text that can be drawn in one line."""
    return textwrap.shorten("".join(c if c.isprintable() else " " for c in str(text)), width)
