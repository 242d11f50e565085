"""The process that builds one engine: it takes all of the memory with it when it ends, and may be killed at any time.

Reads a :class:`~vcut_engines.compile.Job` as JSON from standard input; writes one JSON object per line.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import msgspec

from vcut_engines.compile import Job, compile_graph
from vcut_runtime.errors import VcutError
from vcut_runtime.machine import peak_memory


def main() -> None:
    """Build, and say how it went; always exits by a message, not by a traceback."""
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print must not mix with the messages

    def send(kind: str, **content: Any) -> None:
        channel.write(msgspec.json.encode({"kind": kind, **content}) + b"\n")

    try:
        job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
        compiled, warnings = compile_graph(job, lambda phase, done, total: send("phase", args=[phase, done, total]))
        send("done", compiled=compiled, warnings=warnings, peak_memory=peak_memory())
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit(130)
    except VcutError as error:
        send("failed", error=" ".join(str(error).split()))
    except MemoryError:
        send("failed", error="out of memory: close other programs, or export smaller sizes")
    with contextlib.suppress(OSError):
        channel.close()
    os._exit(0)  # without the libraries' teardown, which takes seconds and can only fail


if __name__ == "__main__":
    main()
