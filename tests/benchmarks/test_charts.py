"""Charts show what the results say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from example_results import fidelity, latency
from vcut_bench.charts import Chart, charts
from vcut_bench.results_page import RESULTS


def chart(result: Any, title: str) -> Chart:
    (match,) = [chart for chart in charts(result) if chart.title.startswith(title)]
    return match


def words(figure: Any) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


def curves(figure: Any) -> dict[str, list[list[float]]]:
    """Points of each line by its name."""
    return {c.get_label(): c.lines[0].get_xydata().tolist() for c in figure.axes[0].containers}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_kept_result_has_charts(path: Path) -> None:
    for drawn in charts(json.loads(path.read_text())):
        assert drawn.title
        assert drawn.text
        assert drawn.figure.axes


def test_latency_is_drawn_and_told() -> None:
    result = latency()
    loop = chart(result, "Step loop").figure
    assert [bar.get_width() for bar in loop.axes[0].patches[1::2]] == [4, 5, 8]  # every other one is a track
    assert {"4.00 s, 2.00 x diffusers", "8.00 s, 1.00 x diffusers"} <= set(words(loop))
    limit = chart(result, "Distance").figure
    assert limit.axes[0].get_xlim() == (0, 8e10)
    assert "10.00 G, 12 %" in words(limit)
    by_cut = curves(chart(result, "Latency against").figure)
    assert by_cut["step loop"] == [[17, 4], [26, 5]]
    assert by_cut["whole video"] == [[17, 5], [26, 6]]


def test_the_papers_seconds_stand_beside_its_own_sizes_only() -> None:
    full = {**latency(), "model": "svd-xt, random weights", "shape": {"frames": 25, "height": 576, "width": 1024}}

    def names(result: Any) -> str:
        return " ".join(curves(chart(result, "Latency against").figure))

    assert "NVIDIA A10" in names(full)
    for other in ({"steps": 30}, {"model": "svd-tiny"}, {"shape": {**full["shape"], "frames": 14}}):
        assert "NVIDIA A10" not in names({**full, **other})


def test_fidelity_has_a_curve_per_setting() -> None:
    shown = chart(fidelity(), "PSNR")
    by_name = curves(shown.figure)
    assert list(by_name) == ["TCA remove, bias mean", "TCA fold, bias mean"]
    remove, fold = by_name.values()
    assert [x for x, _ in remove] == [x for x, _ in fold] == [10, 17, 26]
    assert remove[0][1] < remove[1][1] < remove[2][1]
    assert all(better > worse for (_, better), (_, worse) in zip(fold, remove, strict=True))
    assert "none" in words(shown.figure)
    assert "2 images x 1 seeds" in shown.text
    assert [drawn.title for drawn in charts(fidelity())] == ["PSNR against diffusers"]


def test_never_cut_is_not_compared_with_itself() -> None:
    (path,) = RESULTS.glob("tiny-*.json")
    shown = charts(json.loads(path.read_text()))
    assert shown[-1].title == "Motion against motion_bucket_id"
    for drawn in shown[:-1]:
        last = max(x for points in curves(drawn.figure).values() for x, _ in points)
        assert (last == 26) == ("never cut" not in drawn.title)
