"""A process ends with the process that started it, also when that one is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A parent that starts a child as this project does, and says its process id. The child never ends by itself.
CHILD = """
import sys, time
from vcut_runtime.parent import end_with_parent
sys.stdin.readline()
end_with_parent()
time.sleep(60)
"""
PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdin=subprocess.PIPE)
child.stdin.write(b"work\\n")
child.stdin.flush()
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_with_its_parent(how: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().strip()
        assert child.is_dir()
        parent.send_signal(how)
        parent.wait()
        end = time.monotonic() + 20
        while child.is_dir() and "Z" not in (child / "stat").read_text().rsplit(")", 1)[1][:3]:
            assert time.monotonic() < end
            time.sleep(0.05)
