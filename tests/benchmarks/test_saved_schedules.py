"""A schedule saved in a bundle: it is there, it can be played, and nothing else changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from vcut_bench.saved_schedules import check_name, save_schedule
from vcut_export import export
from vcut_runtime import UsageError, VcutError, open_bundle
from vcut_runtime.bundle.manifest import Measurement
from vcut_runtime.schedule import make_schedule

MEASURED = Measurement(40.5, 39.5, 3, 2, 1.25, "a CPU", "onnxruntime-cpu", "2026-11-26")
ROWS = make_schedule([700.0, 9.0, 1.0, 0.0], 3)


def test_a_saved_schedule_is_in_the_bundle_and_stays_through_an_export(
    bundle_copy: Path, small_checkpoint: Path
) -> None:
    before = open_bundle(bundle_copy).manifest
    save_schedule(bundle_copy, before, "tuned", ROWS, MEASURED)
    after = open_bundle(bundle_copy).manifest
    assert after.schedules == {**before.schedules, "tuned": ROWS}
    assert after.measurements == {"tuned": MEASURED}
    assert msgspec.structs.replace(after, schedules=before.schedules, measurements={}) == before
    save_schedule(bundle_copy, before, "tuned", ROWS[:2], MEASURED)
    assert open_bundle(bundle_copy).manifest.schedules["tuned"] == ROWS[:2]
    options: dict[str, Any] = {"output": bundle_copy, "frames": before.frames, "steps": 3}
    options |= {"height": before.height, "width": before.width, "precision": "fp32", "operators": "cpu"}
    again = export(str(small_checkpoint), **options).manifest
    assert len(again.schedule) == 3
    assert (again.schedules["tuned"], again.measurements) == (ROWS[:2], {"tuned": MEASURED})
    other = export(str(small_checkpoint), **{**options, "frames": before.frames - 1}).manifest
    assert "tuned" not in other.schedules  # it was measured on other graphs
    assert other.measurements == {}


def test_a_bundle_that_changed_meanwhile_keeps_its_schedules(bundle_copy: Path) -> None:
    manifest = open_bundle(bundle_copy).manifest
    graphs = {**manifest.graphs, "decode": msgspec.structs.replace(manifest.graphs["decode"], sha256="0" * 64)}
    with pytest.raises(VcutError, match="was exported anew meanwhile, so the schedule was not saved"):
        save_schedule(bundle_copy, msgspec.structs.replace(manifest, graphs=graphs), "tuned", ROWS, MEASURED)
    assert open_bundle(bundle_copy).manifest == manifest


@pytest.mark.parametrize("name", ["vcut", "exact"])
def test_names_with_a_fixed_meaning_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"the schedule {name} always means the same: choose another name"):
        check_name(name)


@pytest.mark.parametrize("name", ["", "A", "a b", "../x", "-x", "x" * 42, "[/red]", "a\n"])
def test_other_characters_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is no name of a schedule: give lower-case letters"):
        check_name(name)


@pytest.mark.parametrize("name", ["tuned", "a10-40db", "fast", "balanced", "1.5_x"])
def test_usual_names_pass(name: str) -> None:
    check_name(name)
