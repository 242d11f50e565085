"""Adds a schedule to a bundle, in one step."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from vcut_runtime.bundle import open_bundle
from vcut_runtime.bundle.manifest import Manifest, Measurement
from vcut_runtime.bundle.transaction import adding
from vcut_runtime.errors import UsageError, VcutError
from vcut_runtime.schedule import FIXED_SCHEDULES, Schedule

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,40}")


def check_name(name: str) -> None:
    """Check a schedule's new name.

    Raises:
        UsageError: it is taken by the paper's schedule or the never-cut one, or has other characters.
    """
    if name in FIXED_SCHEDULES:
        raise UsageError(f"the schedule {name} always means the same: choose another name, such as tuned")
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name[:50]!r} is no name of a schedule: give lower-case letters, digits, '.', '_' and '-'")


def save_schedule(root: Path, measured: Manifest, name: str, schedule: Schedule, measurement: Measurement) -> None:
    """Save ``schedule`` in the bundle at ``root``, with what was measured; one of the same name is replaced.

    Raises:
        VcutError: the bundle is no longer the one that was ``measured``, or the disk refused something.
    """
    with adding(root) as new, new.alone():
        now = open_bundle(root, hashes=False).manifest
        if any(now.graphs.get(graph) != entry for graph, entry in measured.graphs.items()):
            raise VcutError(f"{root} was exported anew meanwhile, so the schedule was not saved: tune it again")
        new.publish(
            msgspec.structs.replace(
                now,
                schedules={**now.schedules, name: schedule},
                measurements={**now.measurements, name: measurement},
            )
        )
