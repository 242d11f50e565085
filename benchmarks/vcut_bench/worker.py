"""A process that stays alive and runs one side of a comparison whenever it is asked to.

Memory, threads and compiled code of one side are out of the others' way, and since a worker rests until it is asked,
only one computes at a time. Requests and answers are JSON, a line each, over the worker's standard input and output::

    {"do": "open", "job": {...}}                       {"done": {"backend": "onnxruntime-cpu", ...}}
    {"do": "run", "options": {...}, "frames": null}    {"done": {"stages": {...}, "video": 1.9, ...}}
                                                       {"failed": "one line that says why"}
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vcut_runtime.errors import VcutError, first_line
from vcut_runtime.host import peak_memory

COMMAND = (sys.executable, "-m", "vcut_bench.worker")
# Each library reads another one of these; all sides get the same number of threads.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Worker:
    """The parent's end of one worker.

    Args:
        job: what to open; fields of :class:`vcut_bench.peers.PeerJob`.
        threads: of the CPU.
        patience: seconds that a request may take.
        command: the worker's program.
    """

    def __init__(
        self, job: Mapping[str, Any], threads: int, patience: float = 1800, command: Sequence[str] = COMMAND
    ) -> None:
        self._patience = patience
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  closed by close()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, **dict.fromkeys(_THREADS, str(threads))},
        )
        self._answers: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        try:
            self.facts = self.ask("open", job=dict(job))
        except BaseException:
            self.close()
            raise

    def ask(self, what: str, **content: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            VcutError: the worker says why it failed, died, or took longer than its patience.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": what, **content}) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise VcutError(self._last_words()) from None
        try:
            line = self._answers.get(timeout=self._patience)
        except queue.Empty:
            self._process.kill()
            raise VcutError(f"not done after {self._patience:.0f} s") from None
        if not line:
            raise VcutError(self._last_words())
        answer = json.loads(line)
        if "failed" in answer:
            raise VcutError(answer["failed"])
        return answer["done"]

    def close(self) -> None:
        """End the process, whatever state it is in."""
        self._process.kill()  # it has nothing to save, and libraries' teardown takes seconds
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what it did not read any more
                    pipe.close()
        self._log.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, OSError):  # closed
            for line in self._process.stdout:
                self._answers.put(line)
        self._answers.put("")  # it ended

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        memory = ", which is how a system out of memory ends a process" if code == -9 else ""
        return f"its process ended with {how}{memory}{': ' + lines[-1] if lines and not memory else ''}"


def main() -> None:
    """Answer requests until standard input ends."""
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    side: Any = None
    for line in sys.stdin.buffer:
        try:
            request = json.loads(line)
            if request["do"] == "open":
                from vcut_bench.peers import PeerJob, open_side

                side = open_side(PeerJob(**request["job"]))
                done = side.facts
            else:
                done, frames = side.run(**request["options"])
                if request.get("frames"):
                    from vcut_bench.work import write_frames

                    write_frames(Path(request["frames"]), frames)
                done["peak_host_memory_bytes"] = peak_resident()
            answer = {"done": done}
        except VcutError as error:
            answer = {"failed": " ".join(str(error).split())}
        except Exception as error:  # other people's libraries raise whatever they like
            traceback.print_exc()
            answer = {"failed": f"{type(error).__name__}: {first_line(error)}"}
        channel.write(json.dumps(answer).encode() + b"\n")
    os._exit(0)


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
