"""Lines and bars by matplotlib, as SVG elements that a page colours.

matplotlib is well kept and does ticks, intervals and layout. ``svg.fonttype: none`` keeps text as text: it takes the
page's font, can be searched and copied, and keeps the page small. Figures are drawn in stand-in colours. Each becomes a
CSS variable, so one drawing serves light and dark pages.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, fromstring

COLOURS = tuple(f"#0100{number:02x}" for number in range(8))
_TEXT, _QUIET, _RULE, _TRACK, _CARD = (f"#0200{number:02x}" for number in range(5))
_VARIABLES = {colour: f"var(--c{number})" for number, colour in enumerate(COLOURS)}
_VARIABLES |= {_TEXT: "var(--text)", _QUIET: "var(--quiet)", _RULE: "var(--line)"}
_VARIABLES |= {_TRACK: "var(--track)", _CARD: "var(--card)"}
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a result is a dollar
    "font.size": 8.5,
    "text.color": _TEXT,
    "axes.labelcolor": _QUIET,
    "axes.facecolor": "none",
    "axes.edgecolor": _RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _RULE,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _QUIET,
    "ytick.labelcolor": _QUIET,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.borderaxespad": 0,
    "legend.handlelength": 1.2,
}
_WIDTH, _HEIGHT, _ROW, _LEGEND = 4.3, 2.6, 0.4, 0.2  # inches, of 72 units of the drawing
_KEPT = {"d", "x", "y", "transform", "viewBox"}  # attributes; those of the style join them


@dataclass(frozen=True)
class Line:
    """One curve: its points (x, y), and for each the ends of an interval around y where there is one."""

    name: str
    points: Sequence[tuple[float, float]]
    intervals: Sequence[tuple[float, float]] = ()


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
def lines(
    curves: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    ticks: Mapping[int, str],
    zero: bool = False,
    reference: tuple[str, float] | None = None,
) -> Any:
    """Return a figure of ``curves``; ``reference`` is a name and a value to compare with, a dashed line.

    Raises:
        ValueError: there is nothing to draw, or a value is no finite number.
    """
    _check(value for curve in curves for pair in (*curve.points, *curve.intervals) for value in pair)
    figure, axes = _figure(_HEIGHT)
    for curve, colour in zip(curves, COLOURS, strict=False):
        x, y = zip(*curve.points, strict=True)
        ends = None
        if curve.intervals:
            ends = [
                [max(0.0, value - low) for value, (low, _) in zip(y, curve.intervals, strict=True)],
                [max(0.0, high - value) for value, (_, high) in zip(y, curve.intervals, strict=True)],
            ]
        axes.errorbar(x, y, ends, label=_plain(curve.name), color=colour, marker="o", markersize=3.5, linewidth=1.5,
                      elinewidth=1, markeredgecolor=_CARD, markeredgewidth=0.6)  # fmt: skip
    if reference is not None:
        _check([reference[1]])
        axes.axhline(reference[1], color=_TEXT, linestyle=(0, (4, 3)), linewidth=1, label=_plain(reference[0]))
    shown = list(ticks)[:: -max(1, math.ceil(len(ticks) / 12))][::-1]  # the last tick is "none", which is shown
    axes.set_xticks(shown, [_plain(ticks[x]) for x in shown])
    axes.set_xlabel(x_label)
    axes.set_ylabel(_plain(y_label))
    if zero:
        axes.set_ylim(bottom=0)
    _legend(figure, *axes.get_legend_handles_labels())
    return figure


@_style()
def bars(rows: Sequence[Bar], *, limit: float | None = None) -> Any:
    """Return a figure with a bar for each row, below its label; a bar reaches to ``limit``, or to the largest value.

    Raises:
        ValueError: there is nothing to draw, or a value is no finite number at or above 0.
    """
    from matplotlib.patches import Patch

    _check((value for row in rows for value in (*row.parts.values(), row.mark or 0.0)), least=0.0)
    parts = list(dict.fromkeys(part for row in rows for part in row.parts))
    colours = dict(zip(parts, COLOURS, strict=False))
    end = limit or max(max(sum(row.parts.values()), row.mark or 0.0) for row in rows) or 1.0
    figure, axes = _figure(_ROW * len(rows) + (_LEGEND * math.ceil(len(parts) / 3) if len(parts) > 1 else 0) + 0.05)
    axes.set_axis_off()
    axes.set_xlim(0, end)
    axes.set_ylim(-len(rows) + 0.25, 0.55)
    for number, row in enumerate(rows):
        axes.text(0, 0.2 - number, textwrap.shorten(_plain(row.label), 44), va="baseline")
        axes.text(end, 0.2 - number, textwrap.shorten(_plain(row.words), 30), va="baseline", ha="right")
        axes.barh(-0.12 - number, end, 0.38, color=_TRACK)
        left = 0.0
        for part, value in row.parts.items():
            faded = 1.0 if row.ours else 0.55
            axes.barh(-0.12 - number, value, 0.38, left=left, color=colours.get(part, _QUIET), alpha=faded, label=part)
            left += value
        if row.mark is not None:
            axes.plot([row.mark, row.mark], [-0.38 - number, 0.14 - number], color=_TEXT, linewidth=1.5)
    if len(parts) > 1:
        _legend(figure, [Patch(color=colours.get(part, _QUIET)) for part in parts], list(map(_plain, parts)))
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
    shapes = {shape.get("id"): shape for shape in root.iter() if shape.get("id")}
    drawing = _bare(root, shapes)
    drawing.attrib |= {"class": "chart", "role": "img", "aria-label": title}
    return drawing


def _bare(source: Element, shapes: Mapping[str | None, Element]) -> Element:
    tag = source.tag.rpartition("}")[2]
    given = {name.rpartition("}")[2]: value for name, value in source.attrib.items()}
    style = dict(part.split(": ", 1) for part in given.get("style", "").split("; ") if ": " in part)
    attributes = {name: value for name, value in given.items() if name in _KEPT}
    attributes |= {
        name: _VARIABLES.get(value, value) for name, value in style.items() if name not in ("font", "font-family")
    }
    if tag == "use":  # a marker: the shape itself, where it is used
        shape = _bare(shapes[given["href"][1:]], shapes)
        place = {"transform": f"translate({attributes.pop('x', 0)} {attributes.pop('y', 0)})"}
        shape.attrib |= {**attributes, **place}
        return shape
    result = Element(tag, attributes)
    result.text = source.text if tag == "text" else None
    children = (_bare(child, shapes) for child in source if child.tag.rpartition("}")[2] not in ("defs", "metadata"))
    result.extend(child for child in children if len(child) or child.tag != "g")
    return result


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _legend(figure: Any, handles: Sequence[Any], names: Sequence[str]) -> None:
    figure.legend(handles, names, loc="outside upper left", ncols=3 if max(map(len, names)) < 20 else 2)


def _check(values: Iterable[float], least: float = -math.inf) -> None:
    listed = list(values)
    if not listed or not all(isinstance(v, int | float) and math.isfinite(v) and v >= least for v in listed):
        raise ValueError("a value is no finite number")


def _plain(text: object) -> str:
    """Return text that can be drawn in one line."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))
