"""``vcut tune`` on a small bundle: what it reports, saves, refuses, and that it goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from vcut_bench import tune
from vcut_bench.metrics import psnr
from vcut_bench.takes import Takes, converged_schedule
from vcut_bench.work import load_pixels
from vcut_runtime import Pipeline, UsageError, open_bundle


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from skimage import data

    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "chelsea", "coffee"):
        Image.fromarray(getattr(data, name)()).resize((64, 64)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tune") / "work"


OPTIONS: dict[str, Any] = {"min_psnr": 30.0, "seeds": 1, "backend": "onnxruntime-cpu", "threads": 1}


def measure(bundle: Path, photos: Path, work: Path) -> dict[str, Any]:
    """Steps take the same time in every search, so that each search tries the same schedules."""
    seconds = {"semantic_binding": 2.0, "quality_improvement": 1.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "_step_seconds", lambda pipeline, image, progress: seconds)
        return tune.measure(bundle, photos, work=work, **OPTIONS)


@pytest.fixture(scope="module")
def result(small_bundle: Path, photos: Path, work: Path) -> dict[str, Any]:
    return measure(small_bundle, photos, work)


def test_the_result_is_of_photographs_that_the_search_did_not_see(result: dict[str, Any]) -> None:
    assert (result["images"], result["unseen_images"]) == (["astronaut.png", "coffee.png"], ["chelsea.png"])
    titles = [row["title"] for row in result["front"]]
    assert result["chosen"] in titles
    assert {"schedule vcut", "schedule exact", "schedule balanced", "schedule fast"} <= set(titles)
    seconds = [row["seconds"] for row in result["front"]]
    assert seconds == sorted(seconds)
    assert all(row["psnr"]["n"] == 1 for row in result["front"])
    (table,) = tune.numbers(result)
    assert any(row[0] == f"► {result['chosen']}" for row in table.rows)
    assert "So few photographs say little about others" in table.note


def test_the_chosen_options_make_a_video_with_the_reported_error(
    result: dict[str, Any], small_bundle: Path, photos: Path
) -> None:
    pipeline = Pipeline.load(small_bundle, "onnxruntime-cpu", threads=1)
    manifest = pipeline.manifest
    (row,) = (row for row in result["front"] if row["title"] == result["chosen"])
    image = load_pixels(photos / "chelsea.png", manifest.height, manifest.width)
    video = pipeline(image, seed=0, **row["options"]).frames
    converged = Takes(pipeline, image, *tune.draw(manifest, 0)).frames(converged_schedule(manifest))
    assert psnr(video, converged) == pytest.approx(row["psnr"]["mean"], abs=1e-6)
    assert psnr(pipeline(image, seed=0, schedule="exact").frames, converged) != row["psnr"]["mean"]


def test_a_second_search_measures_nothing_again(
    result: dict[str, Any], small_bundle: Path, photos: Path, work: Path
) -> None:
    again = measure(small_bundle, photos, work)
    assert result["measured_videos"] > 10
    assert again["measured_videos"] == 0
    common = {row["title"]: row["psnr"] for row in result["front"]}
    for row in again["front"]:
        assert row["psnr"] == common.get(row["title"], row["psnr"])


def test_the_command_saves_what_vcut_run_can_play(
    bundle_copy: Path, photos: Path, work: Path, tmp_path: Path, result: dict[str, Any]
) -> None:
    app = typer.Typer()
    app.command()(tune.tune_command)
    output = tmp_path / "tune.json"
    options = ["--images", str(photos), "--min-psnr", "30", "--seeds", "1", "--threads", "1", "--save", "tuned"]
    done = CliRunner().invoke(app, [str(bundle_copy), *options, "--work", str(work), "--json", "-o", str(output)])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed == json.loads(output.read_text())
    assert printed["saved"] == "tuned"
    manifest = open_bundle(bundle_copy).manifest
    measured = manifest.measurements["tuned"]
    (row,) = (row for row in printed["front"] if row["title"] == printed["chosen"])
    assert (measured.psnr, measured.seconds, measured.images) == (row["psnr"]["mean"], row["seconds"], 1)
    frames = Pipeline.load(bundle_copy, "onnxruntime-cpu")(photos / "coffee.png", seed=0, schedule="tuned").frames
    assert np.array_equal(
        frames, Pipeline.load(bundle_copy, "onnxruntime-cpu")(photos / "coffee.png", seed=0, **row["options"]).frames
    )


def test_a_bound_out_of_reach_saves_nothing_and_fails(
    bundle_copy: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune.Errors, "psnr", lambda self, schedule, number: 20.0)
    monkeypatch.setattr(tune.Errors, "converged", lambda self, number: None)
    app = typer.Typer()
    app.command()(tune.tune_command)
    done = CliRunner().invoke(app, [str(bundle_copy), "--images", str(photos), "--save", "tuned", "-q"])
    assert done.exit_code == 1
    assert "No schedule keeps 40 dB" in " ".join(done.stdout.split())
    assert "tuned" not in open_bundle(bundle_copy).manifest.schedules


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"min_psnr": 70.0}, "min_psnr is 70: give at most 60"),
        ({"min_psnr": 1.0}, "min_psnr is 1: give at least 10"),
        ({"seeds": 0}, "seeds is 0: give at least 1"),
        ({"save": "exact"}, "the schedule exact always means the same"),
        ({"save": "a/b"}, "'a/b' is no name of a schedule"),
        ({"fit": "zoom"}, "unknown fit 'zoom'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        tune.TuneOptions(**options)
    assert says in str(caught.value)


def test_one_photograph_needs_others_to_be_tested_on(small_bundle: Path, photos: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.mkdir()
    (one / "a.png").write_bytes((photos / "coffee.png").read_bytes())
    with pytest.raises(
        UsageError, match="one image cannot be both searched on and tested on: give two, or --test-images"
    ):
        tune.measure(small_bundle, one, **OPTIONS)
    with pytest.raises(UsageError, match="are the same image"):
        tune.measure(small_bundle, one, test_images=one, **OPTIONS)
