"""Small charts: lines and bars as SVG. Colours are classes, for the stylesheet to give in light and dark.

Elements are built with ElementTree, which escapes whatever text it is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import Element, SubElement

WIDTH = 520  # of every chart's own coordinates
COLOURS = 8
_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 270, 64, 16, 12, 46
_BAR = 20


@dataclass(frozen=True)
class Line:
    """One curve: its points (x, y), and for each the ends of an interval around y where there is one."""

    name: str
    points: Sequence[tuple[float, float]]
    intervals: Sequence[tuple[float, float]] = ()
    reference: bool = False  # something to compare with: dashed, without markers


@dataclass(frozen=True)
class Bar:
    """One row: its parts by name, a figure in words beside its label, and the value to compare with, if any."""

    label: str
    parts: Mapping[str, float]
    words: str
    mark: float | None = None
    ours: bool = True  # others are drawn lighter


@dataclass(frozen=True)
class Legend:
    """What a chart's colours mean: name by colour number, and the name of marks and dashed lines."""

    colours: Sequence[str] = ()
    mark: str | None = None
    extra: Sequence[str] = field(default_factory=tuple)


def element(parent: Element | None, tag: str, text: str = "", /, **attributes: Any) -> Element:
    """Return a new element in ``parent``; an attribute ``class_`` is ``class``, and ``_`` in names is ``-``."""
    named = {key.rstrip("_").replace("_", "-"): _text(value) for key, value in attributes.items()}
    made = Element(tag, named) if parent is None else SubElement(parent, tag, named)
    made.text = text or None
    return made


def line_chart(
    lines: Sequence[Line], *, title: str, x_label: str, y_label: str, ticks: Mapping[float, str], zero: bool = False
) -> Element:
    """Draw curves over the x positions named by ``ticks``; ``zero`` begins the y axis there."""
    values = [y for line in lines for _, y in line.points]
    values += [end for line in lines for interval in line.intervals for end in interval]
    _check(values)
    low, high, step = _range(values, zero)
    left, right = min(ticks), max(ticks)
    span = right - left or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + 10 + (WIDTH - _LEFT - _RIGHT - 20) * ((x - left) / span if right > left else 0.5)
        return across, _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - y) / (high - low)

    svg = _canvas(_HEIGHT, title)
    for i in range(round((high - low) / step) + 1):
        value = low + i * step
        y = at(left, value)[1]
        element(svg, "line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="rule")
        element(svg, "text", _tick(value, step), x=_LEFT - 8, y=y + 4, text_anchor="end", class_="tick")
    for x, name in ticks.items():
        element(svg, "text", name, x=at(x, low)[0], y=_HEIGHT - _BOTTOM + 18, text_anchor="middle", class_="tick")
    across = (_LEFT + WIDTH - _RIGHT) / 2
    element(svg, "text", x_label, x=across, y=_HEIGHT - 6, text_anchor="middle", class_="axis")
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    turned = f"rotate(-90 12 {middle:g})"
    element(svg, "text", y_label, x=12, y=middle, transform=turned, text_anchor="middle", class_="axis")
    for i, line in enumerate(lines):
        group = element(svg, "g", class_=f"series c{i % COLOURS}" + (" reference" if line.reference else ""))
        for (x, _), (bottom, top) in zip(line.points, line.intervals, strict=False):
            (x1, y1), (_, y2) = at(x, bottom), at(x, top)
            element(group, "line", x1=x1, x2=x1, y1=y1, y2=y2, class_="interval")
        places = [at(x, y) for x, y in line.points]
        if line.reference and len(places) == 1:  # one value for every x
            y = places[0][1]
            places = [(_LEFT, y), (WIDTH - _RIGHT, y)]
            below = y < _TOP + 16
            element(svg, "text", line.name, x=_LEFT + 6, y=y + (15 if below else -6), class_="tick")
        element(group, "polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places))
        if not line.reference:
            for (x, y), (px, py) in zip(line.points, places, strict=True):
                dot = _marker(group, i, px, py)
                element(dot, "title", f"{line.name}, {ticks.get(x, f'{x:g}')}: {y:.4g}")
    return svg


def bar_chart(bars: Sequence[Bar], *, title: str, parts: Sequence[str] = (), limit: float | None = None) -> Element:
    """Draw one row per bar, each part in its colour, on one scale that ends at the longest bar, or at ``limit``."""
    parts = parts or list(dict.fromkeys(part for bar in bars for part in bar.parts))
    totals = [sum(bar.parts.values()) for bar in bars]
    _check([*totals, *(bar.mark for bar in bars if bar.mark is not None)])
    if any(value < 0 for bar in bars for value in bar.parts.values()):
        raise ValueError("a bar cannot be negative")
    longest = limit or max([*totals, *(bar.mark or 0.0 for bar in bars)], default=0.0) or 1.0
    chart = element(None, "div", class_="bars", role="group", aria_label=title)
    for bar in bars:
        row = element(chart, "div", class_="bar" if bar.ours else "bar other")
        element(row, "span", bar.label)
        element(row, "span", bar.words, class_="value")
        # Stretched to the page's width; the text beside it is not.
        stretch = {"viewBox": f"0 0 {WIDTH} {_BAR}", "preserveAspectRatio": "none", "aria_hidden": "true"}
        svg = element(row, "svg", **stretch)
        element(svg, "rect", x=0, y=2, width=WIDTH, height=_BAR - 4, class_="track")
        x = 0.0
        for part, value in bar.parts.items():
            width = min(value / longest, 1.0) * WIDTH
            classes = f"part c{parts.index(part) % COLOURS}"
            rect = element(svg, "rect", x=x, y=2, width=width, height=_BAR - 4, class_=classes)
            element(rect, "title", f"{bar.label}, {part}: {value:.4g}")
            x += width
        if bar.mark is not None:
            place = min(bar.mark / longest * WIDTH, WIDTH - 1.5)
            element(svg, "line", x1=place, x2=place, y1=0, y2=_BAR, class_="mark")
    return chart


def legend(names: Legend) -> Element:
    """Return a list of what the colours mean."""
    result = element(None, "ul", class_="legend")
    for i, name in enumerate(names.colours):
        item = element(result, "li")
        swatch = element(item, "svg", viewBox="0 0 14 14", width=14, height=14, aria_hidden="true")
        _marker(element(swatch, "g", class_=f"series c{i % COLOURS}"), i, 7, 7)
        swatch.tail = name
    for name in ([names.mark] if names.mark else []) + list(names.extra):
        item = element(result, "li")
        swatch = element(item, "svg", viewBox="0 0 14 14", width=14, height=14, aria_hidden="true")
        element(swatch, "line", x1=7, x2=7, y1=0, y2=14, class_="mark")
        swatch.tail = name
    return result


def _canvas(height: float, title: str) -> Element:
    svg = element(None, "svg", viewBox=f"0 0 {WIDTH} {height:g}", role="img", aria_label=title, class_="chart")
    return svg


def _marker(parent: Element, number: int, x: float, y: float) -> Element:
    """Shapes differ too, for those who cannot tell the colours apart."""
    shape = number % 4
    if shape == 0:
        return element(parent, "circle", cx=x, cy=y, r=4, class_="dot")
    if shape == 1:
        return element(parent, "rect", x=x - 3.6, y=y - 3.6, width=7.2, height=7.2, class_="dot")
    corners = [(0, -5), (4.8, 3.6), (-4.8, 3.6)] if shape == 2 else [(0, -5.2), (5.2, 0), (0, 5.2), (-5.2, 0)]
    return element(parent, "polygon", points=" ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners), class_="dot")


def _range(values: Sequence[float], zero: bool) -> tuple[float, float, float]:
    """Return the ends of an axis and the distance of its ticks, all round numbers."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if zero:
        low = min(low, 0.0)
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
        low = max(low, 0.0) if zero else low
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step


def _tick(value: float, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step) + 1e-9) + (1 if f"{step:e}".startswith("2.5") else 0))
    return f"{value:,.{digits}f}".replace("-0", "0") if abs(value) < step / 2 else f"{value:,.{digits}f}"


def _check(values: Sequence[float]) -> None:
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise ValueError("a value is no finite number")


def _text(value: Any) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
