"""A process answers in turn, says why it failed, and its death is a reason and not a hang."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from vcut_bench.peer_process import PeerProcess
from vcut_bench.peers import PeerJob
from vcut_runtime import VcutError

# Answers the first request; what it does with the second one differs.
FAKE = """
import os, sys, time
from multiprocessing.connection import Connection
from vcut_runtime import VcutError
pipe = Connection(int(sys.argv[1]))
pipe.send({"opened": pipe.recv(), "threads": os.environ["OMP_NUM_THREADS"]})
pipe.recv()
"""
JOB = PeerJob("x", "/bundle", threads=2)


def fake(then: str) -> PeerProcess:
    return PeerProcess(JOB, 60, [sys.executable, "-c", FAKE + then])


def test_requests_are_answered_in_turn_by_one_process() -> None:
    process = fake("""
print("what libraries print is no answer", flush=True)
while True:
    pipe.send((os.getpid(), None))
    pipe.recv()""")
    try:
        assert process.facts == {"opened": JOB, "threads": "2"}
        assert process.run({}) == process.run({}) == (process._process.pid, None)
    finally:
        process.close()


def test_a_failure_is_its_own_line_and_the_process_goes_on() -> None:
    process = fake("""
pipe.send(VcutError("out of GPU memory"))
pipe.send(({}, pipe.recv()))""")
    try:
        with pytest.raises(VcutError, match=r"^out of GPU memory$"):
            process.run({})
        assert process.run({"cut_step": 3}, frames=True) == ({}, ({"cut_step": 3}, True))
    finally:
        process.close()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("sys.exit('libfoo.so is missing')", "exit code 1: libfoo.so is missing"),
        ("os.kill(os.getpid(), 9)", "signal 9, which is how a system out of memory"),
    ],
)
def test_a_dead_process_says_how_it_ended(end: str, reason: str) -> None:
    process = fake(end)
    try:
        for _ in range(2):  # the second time nobody is there to take the request
            with pytest.raises(VcutError, match=reason):
                process.run({})
    finally:
        process.close()


def test_a_process_that_hangs_is_ended() -> None:
    process = fake("time.sleep(600)")
    process.patience = 0.3
    start = time.monotonic()
    with pytest.raises(VcutError, match="not done after 0 s"):
        process.run({})
    process.close()
    assert time.monotonic() - start < 60
    assert process._process.returncode == -9


def test_the_real_process_names_what_is_wrong_with_a_job(tmp_path: Path) -> None:
    with pytest.raises(VcutError, match=r"no bundle|manifest"):
        PeerProcess(PeerJob("vcut", str(tmp_path)))
    with pytest.raises(VcutError, match="KeyError"):
        PeerProcess(PeerJob("nobody", str(tmp_path)))


def test_a_script_without_a_guard_can_measure(tmp_path: Path) -> None:
    """A new process must not run the caller's script again."""
    script = tmp_path / "script.py"
    script.write_text(
        "from vcut_bench.peer_process import PeerProcess\nfrom vcut_bench.peers import PeerJob\n"
        f"print('once')\nPeerProcess(PeerJob('vcut', {str(tmp_path)!r}))"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.stdout == "once\n"
    assert "not a vcut bundle" in done.stderr


def test_peak_memory_is_this_process_s_own() -> None:
    """Asked of a process of its own: the tests' has peaks of its own."""
    code = (
        "from vcut_bench.peer_process import peak_resident\n"
        "before = peak_resident(); block = bytearray(b'x') * 80_000_000\n"
        "print(before, peak_resident())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 1e6
    assert 60e6 < after - before < 120e6
