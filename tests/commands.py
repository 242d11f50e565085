"""Commands that run in this process: they start at once, where a process of their own imports everything again."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO


def run_here(main: Callable[[], None], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``main`` with the arguments of a command line, and return what a process would have given."""
    out, err, code = StringIO(), StringIO(), 0
    argv, handler = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = ["command", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, handler)
    return subprocess.CompletedProcess(list(map(str, arguments)), code, out.getvalue(), err.getvalue())
