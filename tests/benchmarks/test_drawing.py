"""Figures become SVG that a closed page can hold: coloured by variables, and all text escaped."""

from __future__ import annotations

import math
from itertools import pairwise
from xml.etree.ElementTree import tostring

import pytest

from vcut_bench.drawing import COLOURS, Bar, Line, Mark, bars, front, lines, svg

HOSTILE = """</text></svg><script>alert(1)</script> $x^2$ "'&\x00\ud800"""


def point(x: float, y: float) -> tuple[float, float, float, float]:
    return x, y, y, y


def drawn(figure: object) -> str:
    return tostring(svg(figure, HOSTILE), encoding="unicode", method="html")


def test_lines_have_points_intervals_and_a_reference() -> None:
    curve = Line("a", [(10, 1.0, 0.5, 1.5), (17, 3.0, 2.0, 5.0)])
    figure = lines([curve], "x", "y", {10: "10", 17: "none"}, {"r": 2.0})
    (axes,) = figure.axes
    assert axes.containers[0].lines[0].get_xydata().tolist() == [[10, 1], [17, 3]]
    (intervals,) = axes.containers[0].lines[2]
    assert [segment[:, 1].tolist() for segment in intervals.get_segments()] == [[0.5, 1.5], [2, 5]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["10", "none"]
    text = drawn(figure)
    assert "stroke-dasharray" in text
    assert ">none</text>" in text


def test_many_ticks_are_thinned_and_keep_the_last() -> None:
    ticks = {i: str(i) for i in range(2, 26)} | {26: "none"}
    figure = lines([Line("a", [point(i, 0.0) for i in ticks])], "", "", ticks, {})
    shown = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert 8 <= len(shown) <= 13
    assert "none" in shown


def test_a_front_joins_what_nothing_of_ours_beats_and_labels_do_not_cover_each_other() -> None:
    marks = [Mark("a", 1.0, 30.0), Mark("b", 2.0, 40.0), Mark("worse", 3.0, 39.0), Mark("peer", 0.5, 50.0, ours=False)]
    marks += [Mark(f"same {i}", 4.0 + i / 100, 35.0, ours=False) for i in range(4)]
    (axes,) = front(marks, "seconds", "dB").axes
    assert axes.lines[0].get_xydata().tolist() == [[1, 30], [2, 40]]
    assert len(axes.lines) == 1 + len(marks)
    heights = sorted(text.xyann[1] for text in axes.texts if text.get_text().startswith("same"))
    assert min(b - a for a, b in pairwise(heights)) > 0.5
    text = drawn(front(marks, "seconds", "dB"))
    assert ">2</text>" in text
    assert "mathdefault" not in text
    with pytest.raises(ValueError, match="no finite number"):
        front([Mark("a", math.nan, 1.0)], "", "")


def test_bars_are_as_long_as_their_parts() -> None:
    figure = bars([Bar("one", {"x": 1, "y": 2}, "3"), Bar("two", {"y": 4}, "4", mark=6, ours=False)])
    (axes,) = figure.axes
    by_part = [(bar.get_x(), bar.get_width()) for bar in axes.patches if bar.get_width() != 6]
    assert by_part == [(0, 1), (1, 2), (0, 4)]
    assert axes.get_xlim() == (0, 6)
    colours = [bar.get_facecolor() for bar in axes.patches if bar.get_width() != 6]
    assert colours[1][:3] == colours[2][:3] != colours[0][:3]
    assert colours[2][3] < 1


def test_a_drawing_is_closed_and_coloured_by_the_page() -> None:
    text = drawn(lines([Line("a", [point(1, 1), point(2, 2)])], "x", "y", {1: "1"}, {"r": 1}))
    text += drawn(bars([Bar("a", dict.fromkeys("abcdefgh", 1), "w", 9)]))
    for word in ("http", "url(", "style", "href", " id=", "<use", "font-family", *COLOURS):
        assert word not in text, word
    for number in range(8):
        assert f"var(--c{number})" in text
    for name in ("text", "quiet", "line", "track", "card"):
        assert f"var(--{name})" in text
    assert "#" not in text  # no colour that a dark page could not change


def test_text_is_drawn_as_it_is() -> None:
    figure = lines([Line(HOSTILE, [point(1, 1)])], "x", "y", {1: HOSTILE}, {HOSTILE: 1})
    for text in (drawn(figure), drawn(bars([Bar(HOSTILE[:30], {HOSTILE: 1, "y": 1}, HOSTILE)]))):
        assert "<script>" not in text
        assert "$x^2$" in text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", None])
def test_what_is_no_finite_number_is_refused(value: float) -> None:
    with pytest.raises((ValueError, TypeError)):
        lines([Line("a", [point(1, value)])], "", "", {1: "1"}, {})
    with pytest.raises((ValueError, TypeError)):
        lines([Line("a", [point(1, 1)])], "", "", {1: "1"}, {"r": value})
    with pytest.raises((ValueError, TypeError)):
        bars([Bar("a", {"x": value}, "")])
    with pytest.raises(ValueError, match="no finite number"):
        bars([])


@pytest.mark.parametrize("values", [[0.0, 0.0], [5.0], [-3.0, 1e-9], [1e12, 1.0000001e12], [0.123, 0.124]])
def test_axes_hold_all_values_and_few_ticks(values: list[float]) -> None:
    figure = lines([Line("a", [point(x, y) for x, y in enumerate(values)])], "", "", {0: "0"}, {})
    (axes,) = figure.axes
    drawn(figure)
    low, high = axes.get_ylim()
    assert low <= min(values)
    assert max(values) <= high
    assert 1 <= len([tick for tick in axes.get_yticks() if low <= tick <= high]) <= 12
