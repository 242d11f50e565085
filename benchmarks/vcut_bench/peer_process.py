"""A process of its own for each side of the latency benchmark. It stays alive, and rests until it is asked.

So the memory, threads and compiled code of one side do not disturb the others, and only one side computes at a time.
Requests and answers are Python objects on a pipe. The first request is a :class:`~vcut_bench.peers.PeerJob`, the others
are options of a video and whether its frames are needed. An answer is a :class:`VcutError` if the request failed.
The module is a program, because ``multiprocessing`` would import the caller's script again in each process.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from vcut_bench.peers import PeerJob
from vcut_runtime.errors import VcutError, first_line
from vcut_runtime.host import peak_memory

COMMAND = (sys.executable, "-m", "vcut_bench.peer_process")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # each library reads another one


class PeerProcess:
    """The caller's end of one process.

    Args:
        job: what to open; ``facts`` says what the process opened.
        patience: seconds that a request may take.
        command: the program.

    Raises:
        VcutError: the process could not open it.
    """

    def __init__(self, job: PeerJob, patience: float = 1800, command: Sequence[str] = COMMAND) -> None:
        self.patience = patience
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  close() closes it
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **dict.fromkeys(_THREADS, str(job.threads))},
            )
        try:
            self.facts: dict[str, Any] = self._ask(job)
        except BaseException:
            self.close()
            raise

    def run(self, options: Mapping[str, Any], frames: bool = False) -> tuple[dict[str, Any], Any]:
        """Make one video and return what it took, and its frames if they are asked for.

        Raises:
            VcutError: the process says why it failed, died, or took longer than its patience.
        """
        return self._ask((dict(options), frames))

    def close(self) -> None:
        """End the process in whatever state it is. It has nothing to save, and libraries take seconds to shut down."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()
        self._log.close()

    def _ask(self, request: Any) -> Any:
        try:
            self._pipe.send(request)
            if not self._pipe.poll(self.patience):
                self._process.kill()
                raise VcutError(f"not done after {self.patience:.0f} s")
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise VcutError(self._last_words()) from None
        if isinstance(answer, VcutError):
            raise answer
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        if code == -9:
            return "its process ended with signal 9, which is how a system out of memory ends a process"
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"its process ended with {how}{': ' + lines[-1] if lines else ''}"


def main() -> None:
    """Answer requests until the pipe closes."""
    from vcut_bench.sides import open_side

    pipe, side = Connection(int(sys.argv[1])), None
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            os._exit(0)
        try:
            if side is None:
                side = open_side(request)
                answer: Any = side.facts
            else:
                options, needed = request
                video, frames = side.run(**options)
                answer = {**video, "peak_host_memory_bytes": peak_resident()}, frames if needed else None
        except VcutError as error:
            answer = VcutError(" ".join(str(error).split()))
        except Exception as error:  # libraries raise exceptions of any kind
            traceback.print_exc()
            answer = VcutError(f"{type(error).__name__}: {first_line(error)}")
        pipe.send(answer)


def peak_resident() -> int:
    """Return the peak resident memory of this process alone, in bytes.

    Linux's ``ru_maxrss`` starts at that of the process that made this one; ``VmHWM`` does not.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return peak_memory()


if __name__ == "__main__":
    main()
