"""MACs are counted right, and come to the figures of the paper and of the design."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import pytest

from vcut_bench import macs
from vcut_bench.numbers import terminal
from vcut_bench.results_page import RESULTS
from vcut_bench.unet_macs import CONDITIONAL, GUIDED
from vcut_export.checkpoint import resolve
from vcut_export.options import ExportOptions
from vcut_export.plan import make_plan
from vcut_runtime.errors import UsageError


def measure(*models: str, **options: Any) -> dict[str, Any]:
    return macs.measure(models, show=lambda name: nullcontext(), **options)


@pytest.fixture(scope="module")
def family() -> dict[str, Any]:
    """Counted at full size."""
    return {model["model"]: model for model in measure("svd", "svd-xt", "svd-xt-1.1")["models"]}


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    return measure("svd-tiny", cache_intervals=[2, 3])


@pytest.mark.parametrize(("model", "original", "folded"), [("svd", 36.10e12, 34.38e12), ("svd-xt", 64.38e12, 61.39e12)])
def test_a_guided_step_has_the_macs_of_the_design(family: Any, model: str, original: float, folded: float) -> None:
    networks = family[model]["networks"]
    assert networks["original"]["steps"][GUIDED]["layers"] == pytest.approx(original, rel=1e-3)
    assert networks["vcut"]["steps"][GUIDED]["layers"] == pytest.approx(folded, rel=1e-3)
    assert networks["vcut"]["steps"][CONDITIONAL]["layers"] == pytest.approx(folded / 2, rel=1e-3)


def test_originals_and_parameters_are_the_papers(family: Any) -> None:
    for model in ("svd", "svd-xt"):
        networks, paper = family[model]["networks"], family[model]["paper"]["per_step"]
        assert networks["original"]["steps"][GUIDED]["layers"] == pytest.approx(paper["original"][GUIDED], rel=1e-3)
        assert networks["modified"]["parameters"] == pytest.approx(paper["modified"]["parameters"], rel=1e-3)
    modified = family["svd-xt"]["networks"]["modified"]["steps"][GUIDED]["layers"]
    assert modified == pytest.approx(family["svd-xt"]["paper"]["per_step"]["modified"][GUIDED], rel=1e-3)


def test_a_video_of_svd_xt_cut_at_17(family: Any) -> None:
    networks, paper = family["svd-xt"]["networks"], family["svd-xt"]["paper"]["per_video"]
    assert networks["vcut"]["per_video"]["17"]["layers"] == pytest.approx(1258.5e12, rel=1e-3)
    assert networks["modified"]["per_video"]["17"]["layers"] == pytest.approx(paper["17"], rel=1e-3)
    assert networks["original"]["per_video"]["none"]["layers"] == pytest.approx(paper["none"], rel=1e-3)


def test_folding_beyond_attention_is_parameters_not_work(family: Any) -> None:
    networks = family["svd-xt"]["networks"]
    folds = family["svd-xt"]["other_folds"]
    assert 0 < folds["layers"] < 2e-4 * networks["vcut"]["steps"][GUIDED]["layers"]
    assert networks["original"]["parameters"] - networks["vcut"]["parameters"] > 190e6


def test_svd_xt_1_1_is_svd_xt_with_other_weights(family: Any) -> None:
    assert family["svd-xt-1.1"]["networks"] == family["svd-xt"]["networks"]


def test_a_video_is_its_steps(tiny: Any) -> None:
    (model,) = tiny["models"]
    vcut = model["networks"]["vcut"]
    guided, conditional = (vcut["steps"][graph]["full"] for graph in (GUIDED, CONDITIONAL))
    assert vcut["per_video"]["17"]["full"] == 16 * guided + 9 * conditional
    assert vcut["per_video"]["none"]["full"] == 25 * guided


@pytest.mark.parametrize(
    ("setting", "full", "shallow"),
    [("17 k=2", (8, 5), (8, 4)), ("17 k=3", (6, 3), (10, 6)), ("none k=3", (9, 0), (16, 0))],
)
def test_each_stage_of_a_video_begins_with_all_layers(
    tiny: Any, setting: str, full: tuple[int, int], shallow: tuple[int, int]
) -> None:
    (model,) = tiny["models"]
    vcut = model["networks"]["vcut"]
    counts = zip((*full, *shallow), (GUIDED, CONDITIONAL, f"{GUIDED}_shallow", f"{CONDITIONAL}_shallow"), strict=True)
    expected = sum(count * vcut["steps"][graph]["full"] for count, graph in counts)
    assert vcut["per_video"][setting]["full"] == expected
    assert setting not in model["networks"]["original"]["per_video"]
    assert any(row[2] == setting for row in macs.numbers(tiny)[1].rows)


def test_a_shallow_step_is_the_last_layer_and_what_is_around_it(family: Any, tiny: Any) -> None:
    for model in (family["svd-xt"], *tiny["models"]):
        networks = model["networks"]
        steps = networks["vcut"]["steps"]
        guided, conditional = steps[f"{GUIDED}_shallow"], steps[f"{CONDITIONAL}_shallow"]
        assert 0.02 < guided["full"] / steps[GUIDED]["full"] < 0.25
        assert guided["layers"] == pytest.approx(2 * conditional["layers"], rel=1e-3)
        assert set(networks["original"]["steps"]) == {GUIDED, CONDITIONAL}


def test_every_figure_fits_80_columns(family: Any, tiny: Any) -> None:
    from rich.console import Console

    result = {**tiny, "models": [*family.values(), *tiny["models"]]}
    console = Console(width=80)
    with console.capture() as capture:
        console.print(*map(terminal, macs.numbers(result)))
    lines = capture.get().splitlines()
    assert not any("…" in line for line in lines)
    assert max(map(len, lines)) <= 80
    for table in macs.numbers(result):
        for row in table.rows:
            figures = [cell for i, cell in enumerate(row) if table.is_numeric(i) and cell]
            assert any(" ".join(figures) in " ".join(line.split()) for line in lines), row


def test_models_of_one_network_are_one_row(family: Any) -> None:
    step, video = macs.numbers({"steps": 25, "models": list(family.values())})
    names = [row[0] for row in (*step.rows, *video.rows) if row[1] == "vcut"]
    assert set(names) == {"svd", "svd-xt, svd-xt-1.1"}
    (cut,) = [row for row in video.rows if row[:3] == ["svd-xt, svd-xt-1.1", "TCA removed", "17"]]
    assert cut[4] == "1288.0 T"
    assert not any(row[1] == "TCA removed" and not row[4] for row in video.rows)


def test_folding_tca_costs_what_removing_it_does(tiny: Any) -> None:
    (folded,) = measure("svd-tiny", tca="fold", cache_intervals=[2, 3])["models"]
    assert folded["networks"] == tiny["models"][0]["networks"]


def test_the_papers_numbers_stand_only_beside_its_sizes() -> None:
    def videos(**options: Any) -> Any:
        plan = make_plan(resolve("svd", random_weights=True), ExportOptions(**options))
        return macs._paper("svd", plan, [17]).get("per_video")

    assert set(videos()) == {"17"}
    assert videos(steps=30) == {}
    for other in ({"frames": 25}, {"height": 320}, {"width": 576}):
        assert videos(**other) is None


def test_impossible_options_are_refused_before_any_work() -> None:
    with pytest.raises(UsageError, match="27"):
        measure("svd-tiny", cut_steps=[27])
    with pytest.raises(UsageError, match="--cache-intervals has 0: give 2 or more"):
        measure("svd-tiny", cache_intervals=[3, 0])
    with pytest.raises(UsageError, match="did you mean svd-xt"):
        measure("svd-xtt")
    with pytest.raises(UsageError, match="multiple of 8"):
        measure("svd-tiny", height=63)


def test_the_kept_count_reaches_its_bars() -> None:
    """A recorded measurement of the whole family, not one of this run."""
    paths = list(RESULTS.glob("macs-*.json"))
    assert paths
    for path in paths:
        result = json.loads(path.read_text())
        assert {"svd", "svd-xt", "svd-xt-1.1", "svd-tiny"} <= {model["model"] for model in result["models"]}
        assert result["seconds"] <= 60
        assert result["peak_memory_bytes"] <= 3e9
