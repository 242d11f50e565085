"""A process of its own for each engine. It can be killed at any time, and its end frees all of its memory.

The new process reads an :class:`~vcut_engines.compile.EngineJob` as a line of JSON from standard input, which stays
open as long as the parent lives. It writes one message as JSON on each line of standard output.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from vcut_engines.build_log import explain
from vcut_engines.compile import CompiledEngine, EngineJob, compile_graph
from vcut_runtime.backends.tensorrt_library import TITLES
from vcut_runtime.errors import VcutError
from vcut_runtime.host import total_memory
from vcut_runtime.parent import end_with_parent

Progress = Callable[[str, str, int, int], None]
_CODE = "from vcut_engines.builder_process import main; main()"


class Phase(msgspec.Struct, tag="phase"):
    """The library has come to ``step`` of ``steps`` of a phase."""

    name: str
    step: int
    steps: int


class Done(msgspec.Struct, tag="done"):
    """The engine is written."""

    engine: CompiledEngine


class Failed(msgspec.Struct, tag="failed"):
    """The build failed, for the reason in ``error``."""

    error: str


Message = Phase | Done | Failed


def compile_in_process(job: EngineJob, *, verbose: bool, progress: Progress) -> CompiledEngine:
    """Build an engine in a new process; see :func:`vcut_engines.build` for ``verbose`` and ``progress``.

    The log is removed if the build succeeds.

    Raises:
        VcutError: the build failed, or the process died.
    """
    progress(job.graph, "start", 0, 0)
    log, shown, last = Path(job.log), 0, None
    command, pipe = [sys.executable, "-P", "-c", _CODE], subprocess.PIPE
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr) as process,
    ):
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # it is dead; _cause_of_death says why
                process.stdin.write(msgspec.json.encode(job) + b"\n")
                process.stdin.flush()
            for line in process.stdout:
                last = msgspec.json.decode(line, type=Message)
                if isinstance(last, Phase):
                    progress(job.graph, last.name, last.step, last.steps)
                shown = _show_log(log, shown) if verbose else 0
            process.wait()
            if verbose:
                _show_log(log, shown)
        except BaseException:
            process.kill()
            raise
        stderr.seek(0)
        printed = [text for text in stderr.read().decode(errors="replace").splitlines() if text.strip()]
    if isinstance(last, Done):
        log.unlink(missing_ok=True)
        progress(job.graph, "done", 1, 1)
        return last.engine
    raise VcutError(last.error if isinstance(last, Failed) else _cause_of_death(process.returncode, job, printed))


def _show_log(log: Path, start: int) -> int:
    """Copy the log from byte ``start`` on to standard error, and return where it ends now."""
    if not log.is_file():
        return start
    with log.open(encoding="utf-8", errors="replace") as file:
        file.seek(start)
        sys.stderr.write(file.read())
        return file.tell()


def _cause_of_death(code: int, job: EngineJob, printed: list[str]) -> str:
    """Return one line for a process that ended without a last message."""
    title = TITLES[job.recipe.library]
    if code == -9:  # SIGKILL; Windows has no such name
        return (
            f"{title} was killed while building {job.graph}, most likely because memory ran out (this machine has "
            f"{total_memory() / 1e9:.0f} GB): close other programs, or export smaller sizes; log: {job.log}"
        )
    return explain(title, job.graph, printed[-1:] or [f"the builder ended with {code}"], job.log)


def main() -> None:
    """Build the engine in this process and report how it went, by a message rather than a traceback."""
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # keeps what libraries print apart from the messages

    def send(message: Message) -> None:
        channel.write(msgspec.json.encode(message) + b"\n")

    try:
        job = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineJob)
        end_with_parent()
        send(Done(compile_graph(job, lambda name, step, steps: send(Phase(name, step, steps)))))
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit(130)
    except VcutError as error:
        send(Failed(" ".join(str(error).split())))
    except MemoryError:
        send(Failed("out of memory: close other programs, or export smaller sizes"))
    with contextlib.suppress(OSError):
        channel.close()
    os._exit(0)  # skips the libraries' teardown, which takes seconds and can only fail
