"""The peak memory is that of the command."""

from __future__ import annotations

import sys

from vcut_bench import peak


def test_the_peak_is_the_commands_own() -> None:
    """Not that of this process, which holds far more for a moment."""
    mine = bytearray(400_000_000)
    mine[::4096] = b"x" * len(mine[::4096])
    small = peak.run([sys.executable, "-c", "print('done')"])
    large = peak.run([sys.executable, "-c", "b = bytearray(150_000_000); b[::4096] = b'x' * len(b[::4096])"])
    del mine
    assert small["stdout"] == "done\n"
    assert small["peak_bytes"] < 100e6
    assert 150e6 < large["peak_bytes"] < 250e6


def test_a_command_that_fails_says_why() -> None:
    script = (
        "import sys; print('working', file=sys.stderr); print('error: no such thing', file=sys.stderr); sys.exit(2)"
    )
    assert peak.run([sys.executable, "-c", script]) == {"skipped": "no such thing"}
    assert "skipped" in peak.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    assert "skipped" in peak.run(["/no/such/program"])
