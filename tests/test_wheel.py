"""The wheel holds the four import packages with their data files, and nothing of the training or the tests."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from wheels import ROOMS, ROOT, build_wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The paths in the wheel."""
    with zipfile.ZipFile(build_wheel(tmp_path_factory.mktemp("wheel"))) as archive:
        return [Path(name) for name in archive.namelist()]


def test_the_wheel_holds_the_four_packages_and_nothing_else(wheel: list[Path]) -> None:
    folders = {path.parts[0] for path in wheel}
    assert {name for name in folders if not name.endswith(".dist-info")} == set(ROOMS.values())


def test_the_wheel_holds_every_module(wheel: list[Path]) -> None:
    modules = {
        path.relative_to(ROOT / room) for room, name in ROOMS.items() for path in (ROOT / room / name).rglob("*.py")
    }
    assert modules <= set(wheel)


def test_the_wheel_holds_the_trained_model_but_not_its_training(wheel: list[Path]) -> None:
    model = ROOT / "export/vcut_export/svd_tiny"
    shipped = {path.relative_to(ROOT / "export") for path in model.rglob("*") if path.is_file()}
    assert shipped <= set(wheel)
    assert not any(path.name in ("clips.py", "train_unet.py", "gpu_visit.py") for path in wheel)
