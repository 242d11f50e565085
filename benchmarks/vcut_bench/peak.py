"""The peak memory of a command and of its children, measured by a small process between it and its caller.

On Linux a new process starts with the peak of the one that made it, so a large program cannot measure a small one.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_KILLED = (137, 247)  # SIGKILL, as shells and as Python's exit tell it


def run(
    command: Sequence[str], *, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run ``command`` in ``folder`` and return ``peak_bytes``, ``seconds`` and ``stdout``.

    The peak is the resident memory of the largest process. If the command fails, the only entry is ``skipped``: the
    last line of its standard error.
    """
    with tempfile.TemporaryDirectory() as temporary:
        facts = Path(temporary) / "facts.json"
        launcher = [sys.executable, "-I", "-S", __file__, str(facts), *command]
        variables = {**os.environ, **(environment or {})}
        done = subprocess.run(launcher, capture_output=True, text=True, check=False, cwd=folder, env=variables)
        if done.returncode == 0:
            return {**json.loads(facts.read_text()), "stdout": done.stdout}
    if done.returncode in _KILLED:
        return {"skipped": "killed by the system: out of memory"}
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if not lines:
        return {"skipped": f"{Path(command[0]).name} failed without a message"}
    return {"skipped": lines[-1].removeprefix("error: ")}


if __name__ == "__main__":
    start = time.perf_counter()
    code = subprocess.call(sys.argv[2:])
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    Path(sys.argv[1]).write_text(json.dumps({"peak_bytes": peak * unit, "seconds": seconds}))
    sys.exit(code)
