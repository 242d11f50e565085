"""What Python says about a bundle: one line, said by a process of its own that may crash, hang or fill memory."""

from __future__ import annotations

import os
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path

import msgspec
import numpy as np

SECONDS = 60  # of processor time that a bundle may take
PATIENCE = 600  # seconds by the clock, for a process that waits; other programs may keep this one waiting too
MEMORY = 2 << 30  # bytes that a bad bundle may take more than a good one
_PHOTO = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Verdict:
    """What became of a bundle.

    Attributes:
        inspect: ``opens``, or ``refused: why``.
        run: ``video``, or ``refused: why``.
        fault: what must not happen, in a line: a traceback, a crash, a hang, a black video; empty if all is well.
        seconds: of processor time that it took.
        memory: peak of resident memory, in bytes.
    """

    inspect: str = ""
    run: str = ""
    fault: str = ""
    seconds: float = 0.0
    memory: int = 0


def judge(bundle: Path) -> Verdict:
    """Inspect ``bundle`` and make a video with it, in this process."""
    fault = ""
    words: dict[str, str] = {}
    for name, work in {"inspect": _inspect, "run": _run}.items():
        words[name], wrong = _told(lambda work=work: work(bundle), bundle)
        fault = fault or (f"{name}: {wrong}" if wrong else "")
    if words["inspect"].startswith("refused") and not words["run"].startswith("refused"):
        fault = fault or "inspect refuses what a run plays"
    return Verdict(words["inspect"], words["run"], fault)


def _told(work: Callable[[], str], bundle: Path) -> tuple[str, str]:
    """Return what ``work`` says, and what is wrong with how it says it."""
    from vcut_runtime import VcutError

    try:
        return work(), ""
    except VcutError as error:
        message = str(error).replace(str(bundle), "BUNDLE")
        bad = "\n" in str(error) or not message.isprintable() or len(message) > 3000
        return f"refused: {message}", f"no clean line: {message[:200]!r}" if bad else ""
    except BlackVideo as error:
        return "video", str(error)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}: {str(error)[:200]}"


class BlackVideo(Exception):
    """A video that shows nothing, made without a complaint."""


def _inspect(bundle: Path) -> str:
    from rich.console import Console

    from vcut_runtime.inspect import describe, render

    description = describe(bundle)
    console = Console(file=StringIO(), markup=False, emoji=False, highlight=False, width=100)
    console.print(*render(description))
    shown = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert shown.replace("\n", "").isprintable(), "control characters reach the terminal"
    msgspec.json.encode(description)
    return "opens"


def _run(bundle: Path) -> str:
    from vcut_runtime import Pipeline

    frames = Pipeline.load(bundle, "onnxruntime-cpu", threads=1)(_PHOTO, seed=0).frames
    if not frames.any():
        raise BlackVideo("a black video")
    return "video"


def judge_apart(bundle: Path, memory: int | None = None) -> Verdict:
    """Judge ``bundle`` in a fork of this process, which must have no threads.

    Args:
        bundle: the bundle's folder.
        memory: bytes that a good bundle takes; the child may map a few gigabytes more before its allocations fail.
    """
    start, (reader, writer) = time.monotonic(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _report(bundle, writer, memory)
    os.close(writer)
    data = b""
    while (left := start + PATIENCE - time.monotonic()) > 0 and select.select([reader], [], [], left)[0]:
        part = os.read(reader, 1 << 16)
        if not part:
            break
        data += part
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    _, status, usage = os.wait4(child, 0)
    seconds, peak = time.monotonic() - start, usage.ru_maxrss * 1024
    used = usage.ru_utime + usage.ru_stime
    if data:
        verdict = msgspec.json.decode(data, type=Verdict)
    elif seconds >= PATIENCE or used >= SECONDS:
        verdict = Verdict(fault="hangs")
    else:
        name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"status {status}"
        verdict = Verdict(fault=f"crashes with {name}")
    fault = verdict.fault
    if not fault and memory is not None and peak > memory + MEMORY:
        fault = f"takes {(peak - memory) / 1e9:.1f} GB more than a good bundle"
    return Verdict(**{**asdict(verdict), "fault": fault, "seconds": round(used, 2), "memory": peak})


def _report(bundle: Path, writer: int, memory: int | None) -> None:
    """Judge in the child, say the verdict and end."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)  # libraries complain there
    if memory is not None:
        limit = memory + 16 * MEMORY  # of address space, of which much is never touched
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    os.write(writer, msgspec.json.encode(judge(bundle)))
    os._exit(0)
