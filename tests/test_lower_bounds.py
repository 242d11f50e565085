"""``lower_bounds.py`` can read the lower bound of every dependency of the runtime."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from packaging.version import Version

import lower_bounds

PROJECT = '[project]\ndependencies = [\n    "numpy>=1.26",\n    "Foo.Bar{}",\n]\n'


def test_every_dependency_has_a_lower_bound() -> None:
    bounds = lower_bounds.lower_bounds()
    assert {"av", "numpy", "onnxruntime", "pillow", "typer"} <= set(bounds)
    for name, bound in bounds.items():
        assert Version(bound) <= Version(importlib.metadata.version(name)), name


def test_bounds_are_read_from_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lower_bounds, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text(PROJECT.format(">=2.5,<4"))
    assert lower_bounds.lower_bounds() == {"numpy": "1.26", "foo-bar": "2.5"}


@pytest.mark.parametrize("specifier", ["", "<4", "~=2.5", "==2.5", ">2.5"])
def test_a_dependency_without_a_lower_bound(specifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lower_bounds, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text(PROJECT.format(specifier))
    with pytest.raises(ValueError, match=r"Foo.Bar.* has 0 lower bounds in pyproject.toml: give it one, with >="):
        lower_bounds.lower_bounds()
