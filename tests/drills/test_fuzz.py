"""A hundred damaged and hostile bundles: no traceback, no hang, no black video, and no more memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def drill(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a drill as a command, whose process has no threads that a fork would copy."""
    command = [sys.executable, "-m", f"drills.{name}", *map(str, arguments)]
    return subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks, and limits memory")
def test_a_hundred_bad_bundles(small_bundle: Path) -> None:
    done = drill("fuzz", small_bundle, "--variants", 100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "; 0 faults" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_three_kills(small_checkpoint: Path) -> None:
    done = drill("kills", small_checkpoint, "--kills", 3)
    assert done.returncode == 0, done.stdout + done.stderr
