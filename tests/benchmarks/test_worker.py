"""A worker answers line by line, says why it failed, and its death is a reason and not a hang."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from vcut_bench.worker import COMMAND, Worker
from vcut_runtime import VcutError

# Answers the first request; what it does with the second one differs.
FAKE = """
import json, os, sys, time
facts = {"opened": json.loads(sys.stdin.readline())["job"], "threads": os.environ["OMP_NUM_THREADS"]}
print(json.dumps({"done": facts}), flush=True)
sys.stdin.readline()
"""


def fake(then: str, patience: float = 60) -> Worker:
    return Worker({"side": "x"}, 2, patience, [sys.executable, "-c", FAKE + then])


def test_requests_are_answered_in_turn_by_one_process() -> None:
    echo = """
while True:
    print(json.dumps({"done": {"pid": os.getpid()}}), flush=True)
    sys.stdin.readline() or sys.exit()"""
    worker = fake(echo)
    try:
        assert worker.facts == {"opened": {"side": "x"}, "threads": "2"}
        assert worker.ask("run") == worker.ask("run", options={})
    finally:
        worker.close()


def test_a_failure_is_its_own_line_and_the_worker_goes_on() -> None:
    worker = fake("""
print(json.dumps({"failed": "out of GPU memory"}), flush=True)
sys.stdin.readline(); print(json.dumps({"done": {}}), flush=True)""")
    try:
        with pytest.raises(VcutError, match=r"^out of GPU memory$"):
            worker.ask("run")
        assert worker.ask("run") == {}
    finally:
        worker.close()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("sys.exit('libfoo.so is missing')", "exit code 1: libfoo.so is missing"),
        ("os.kill(os.getpid(), 9)", "signal 9, which is how a system out of memory"),
    ],
)
def test_a_dead_worker_says_how_it_ended(end: str, reason: str) -> None:
    worker = fake(end)
    try:
        for _ in range(2):  # the second time nobody is there to take the request
            with pytest.raises(VcutError, match=reason):
                worker.ask("run")
    finally:
        worker.close()


def test_a_worker_that_hangs_is_ended() -> None:
    worker = fake("time.sleep(600)", patience=0.3)
    worker._patience = 0.3
    start = time.monotonic()
    with pytest.raises(VcutError, match="not done after 0 s"):
        worker.ask("run")
    worker.close()
    assert time.monotonic() - start < 60
    assert worker._process.returncode == -9


def test_the_real_worker_names_what_is_wrong_with_a_job(tmp_path: Path) -> None:
    with pytest.raises(VcutError, match=r"no bundle|manifest"):
        Worker({"side": "vcut", "bundle": str(tmp_path)}, 1)
    with pytest.raises(VcutError, match="KeyError"):
        Worker({"side": "nobody", "bundle": str(tmp_path)}, 1, command=COMMAND)


def test_peak_memory_is_this_process_s_own() -> None:
    """Asked of a process of its own: the tests' has peaks of its own."""
    code = (
        "from vcut_bench.worker import peak_resident\n"
        "before = peak_resident(); block = bytearray(b'x') * 80_000_000\n"
        "print(before, peak_resident())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 1e6
    assert 60e6 < after - before < 120e6
