"""``vcut bench fidelity`` prints what was measured, and refuses options that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from vcut_bench.fidelity_command import fidelity_command
from vcut_runtime import UsageError, VcutError

APP = typer.Typer()
APP.command()(fidelity_command)


def test_the_command_prints_json(
    small_bundle: Path, small_checkpoint: Path, photo: Image.Image, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    photo.save(images / "-rf [red]$(x)\n'\".png")
    common = [str(small_bundle), "--images", str(images), "--reference", str(small_checkpoint), "--steps", "2"]
    output = tmp_path / "result.json"
    done = CliRunner().invoke(APP, [*common, "--cut-steps", "none,2", "--json", "-o", str(output)])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed == json.loads(output.read_text())
    assert [c["cut_step"] for c in printed["curves"]] == ["none", 2]
    assert "pip install" in printed["lpips"] or "AlexNet" in printed["lpips"]
    done = CliRunner().invoke(APP, [*common, "--cut-steps", "2", "--quiet"])
    assert "PSNR" in done.stdout
    done = CliRunner().invoke(APP, [*common, "--cut-steps", "99"])
    assert isinstance(done.exception, VcutError)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--tca", "fold"], "--tca is the bundle's"),
        (["--quality-bias", "mean,cond"], "one --quality-bias"),
        (["--quality-bias", "median"], "unknown --quality-bias 'median'"),
        (["--seeds", "0"], "seeds is 0: give at least 1"),
    ],
)
def test_options_that_the_papers_metrics_do_not_take_are_refused(words: list[str], reason: str) -> None:
    done = CliRunner().invoke(APP, ["bundle", "--images", ".", "--vbench", "info.json", *words])
    assert isinstance(done.exception, UsageError)
    assert reason in str(done.exception)
