"""Every number of ``vcut run`` and ``vcut-export`` at impossible values: one line each, or it works."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import typer
from PIL import Image

import vcut_export.cli
from vcut_bench.fidelity import FidelityOptions
from vcut_bench.latency import LatencyOptions
from vcut_bench.macs import MacsOptions
from vcut_bench.memory import MemoryOptions
from vcut_bench.tune import TuneOptions
from vcut_engines.options import EngineOptions
from vcut_export.options import ExportOptions
from vcut_runtime import Pipeline, VcutError, cli, terminal
from vcut_runtime.options import BackendOptions, RunOptions

VALUES = ("0", "-1", "nan", "inf", "1e39", "1e308", "99999999999999999999", "")
RECORDS = (RunOptions, BackendOptions, ExportOptions, EngineOptions)
OTHERS = (TuneOptions, FidelityOptions, LatencyOptions, MacsOptions, MemoryOptions)


def kinds(record: Any, name: str) -> set[Any]:
    kind = get_type_hints(record)[name]
    return {kind, *get_args(kind)}


def numeric(*records: Any) -> Iterator[tuple[Any, Field[Any]]]:
    """Yield the fields that take a number."""
    for record in records:
        for field in fields(record):
            if kinds(record, field.name) & {int, float}:
                yield record, field


@pytest.mark.parametrize("record", [*RECORDS, *OTHERS])
def test_every_whole_number_has_bounds(record: Any) -> None:
    for _, field in numeric(record):
        if int in kinds(record, field.name) and not field.metadata["parse"]:
            assert field.metadata["least"] is not None, field.name
            assert field.metadata["most"] is not None, field.name


def flags(*records: Any) -> Iterator[tuple[str, bool]]:
    """Yield command lines with one number at one value, and whether no such number may have it.

    0 and -1 are right for some, and a large value for some that need not be whole.
    """
    lists = {"sigmas": "{},0", "guidance": "1,{},3", "dynamic": "frames=1:{}"}
    for record in records:
        for field in fields(record):
            names = field.metadata["flags"] or (f"--{field.name.replace('_', '-')}",)
            of = kinds(record, field.name)
            form = lists.get(field.name, "{}" if of & {int, float} else "")
            for value in VALUES if form else ():
                is_large = value.isdigit() and len(value) > 1 and (int in of or field.name == "dynamic")
                yield f"{names[0]}={form.format(value)}", is_large or value in ("nan", "inf", "1e39", "1e308", "")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Call a command as its program does and return what it says: nothing, or one line that names a cause and a fix."""
    before = signal.getsignal(signal.SIGTERM)

    def call(app: typer.Typer, name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            terminal.run_app(app, name)
        said = capsys.readouterr()
        assert said.out == ""
        if not end.value.code:
            assert said.err == ""
            return ""
        (line,) = said.err.splitlines() or [f"no word about {arguments}, code {end.value.code}"]
        assert re.fullmatch(r"error: .+: .+", line), line
        assert len(line) < 400
        return line

    yield call
    signal.signal(signal.SIGTERM, before)


def test_numbers_of_a_run(
    deep_bundle: Path, tmp_path: Path, command: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, output = tmp_path / "photo.png", tmp_path / "frames"
    Image.fromarray(np.full((32, 32, 3), 99, np.uint8)).save(photo)
    pipeline = Pipeline.load(deep_bundle, "onnxruntime-cpu")
    monkeypatch.setattr(Pipeline, "load", lambda *_: pipeline)  # its graphs are loaded once
    common = ["run", deep_bundle, photo, "-o", output, "-q"]
    assert command(cli.app, "vcut", *common) == ""
    for flag, is_impossible in flags(RunOptions, BackendOptions):
        assert command(cli.app, "vcut", *common, flag) or not is_impossible, flag


def test_numbers_of_an_export(
    small_checkpoint: Path, tmp_path: Path, command: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(*_: object, **__: object) -> None:
        raise VcutError("planned: all the rest is work")

    monkeypatch.setattr(vcut_export.cli, "export_plan", planned)
    app = typer.Typer()
    app.command()(vcut_export.cli.export_command)
    common = ["--model", small_checkpoint, "--output", tmp_path / "bundle", "-q"]
    assert "planned" in command(app, "vcut-export", *common)
    for flag, is_impossible in flags(ExportOptions, EngineOptions):
        assert "planned" not in command(app, "vcut-export", *common, flag) or not is_impossible, flag
    assert not (tmp_path / "bundle").exists()
