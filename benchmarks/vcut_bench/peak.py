"""The peak memory of a command, and of its children: a small process between it and whoever measures.

A new process starts with the peak of the one that made it, on Linux, so a large program cannot measure a small one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run ``command`` and return ``peak_bytes`` (resident), ``seconds`` and its ``stdout``.

    Of several processes the peak is the largest one's. If the command fails, ``skipped`` has the last line of its
    standard error, and nothing else is returned.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        launcher = [sys.executable, "-I", "-S", __file__, str(result), *command]
        done = subprocess.run(
            launcher, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})}
        )
        found = json.loads(result.read_text()) if result.is_file() else {"code": done.returncode}
    if found.pop("code"):
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return {"skipped": lines[-1].removeprefix("error: ") if lines else f"{command[0]} failed without a word"}
    return {**found, "stdout": done.stdout}


def _measure(result: Path, command: Sequence[str]) -> None:
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    facts = {"code": code, "peak_bytes": usage.ru_maxrss * unit, "seconds": time.perf_counter() - start}
    result.write_text(json.dumps(facts))


if __name__ == "__main__":
    _measure(Path(sys.argv[1]), sys.argv[2:])
