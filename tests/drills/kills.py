"""Kills exports and builds at random moments, and checks what they leave.

    cd tests && python -m drills.kills CHECKPOINT --kills 50 [--seed 0]

``CHECKPOINT`` is a small diffusers folder. In turn a new export, an export over a bundle and a build are killed. After
each kill all their processes must be gone, what lies at the bundle's place must be a whole bundle, an old bundle must
not be lost, and the next call must leave no folder behind. Calls that are not killed must write nothing into the home
folder and the folder of temporary files, and no process may ask for an address or connect to one. It prints a line for
each kill, and ends with 1 if a check failed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 10.0  # seconds that a child may live on after its parent
# Every Python process of a drill runs this first.
HOOK = """
import os, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        os._exit(97)
sys.addaudithook(watch)
"""


def descendants(pid: int) -> set[int]:
    """Return the processes that ``pid`` has started, and those that they have started."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if fields[0] not in "ZX":
            parents[int(stat.parent.name)] = int(fields[1])
    processes, todo = set(), [pid]
    while todo:
        parent = todo.pop()
        children = {child for child, its in parents.items() if its == parent}
        processes |= children
        todo += children
    return processes


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


class Drill:
    """One folder in which bundles are made and killed.

    Args:
        checkpoint: a diffusers folder.
        home: an empty folder.
        engines: whether builds are killed too.
    """

    def __init__(self, checkpoint: Path, home: Path, *, engines: bool) -> None:
        self.root, self.spare = home / "place" / "bundle", home / "spare"
        self.root.parent.mkdir()
        self.home, hooks = home / "home", home / "hooks"
        for folder in (self.home, hooks):
            folder.mkdir()
        (hooks / "sitecustomize.py").write_text(HOOK)
        names = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
        paths = [str(hooks), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ |= {name: str(self.home) for name in names}
        os.environ |= {"VCUT_CACHE": str(home / "cache"), "PYTHONPATH": os.pathsep.join(paths)}
        tempfile.tempdir = None  # asks for TMPDIR again
        model = ["--model", str(checkpoint), "--precision", "fp32", "--operators", "cpu", "--steps", "4", "-q"]
        here = [*model, "--output", str(self.root), "--engines", "none"]
        self.calls: dict[str, list[str]] = {"export": here, "export over a bundle": [*here, "--force"]}
        if engines:
            self.calls["build"] = [str(self.root), "--engines", "tensorrt-rtx", "--force", "-q"]
        self.durations: dict[str, float] = {}

    def measure(self) -> None:
        """Run each call once, to know how long it takes."""
        for kind in self.calls:
            start = time.monotonic()
            _, status = os.waitpid(self._start(kind), 0)
            if status:
                raise SystemExit(f"{kind} fails without being killed: {os.waitstatus_to_exitcode(status)}")
            written = [path.name for path in self.home.iterdir() if not path.name.startswith("torchinductor_")]
            if written:  # torch makes a folder of that name among the temporary files, whoever imports it
                raise SystemExit(f"{kind} writes into the home folder: {', '.join(written)}")
            self.durations[kind] = time.monotonic() - start
            if kind == "export":
                shutil.copytree(self.root, self.spare)

    def kill(self, kind: str, share: float) -> str:
        """Kill a call after a share of its duration; return what is wrong, or nothing."""
        from vcut_runtime import BundleError, open_bundle

        shutil.rmtree(self.root.parent)
        self.root.parent.mkdir()
        if kind != "export":
            shutil.copytree(self.spare, self.root)
        child = self._start(kind)
        time.sleep(share * self.durations[kind])
        own = descendants(child)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if left := self._outliving(own):
            return f"{len(left)} processes live on"
        there = self.root.exists()
        if kind != "export" and not there:
            return "the old bundle is lost"
        try:
            if there:
                open_bundle(self.root)
        except BundleError as error:
            return f"a false bundle: {error}"
        self._next_call()
        hidden = [path.name for path in self.root.parent.rglob(".*")]
        hidden += [path.name for path in self.root.parent.iterdir() if path != self.root]
        if there != self.root.exists():
            return "the next call changed what is there"
        return f"left behind: {', '.join(hidden)}" if hidden else ""

    def _start(self, kind: str) -> int:
        """Run a command in a fork of this process, which has imported all that it needs."""

        def run() -> None:
            if kind == "build":
                from vcut_runtime.cli import main

                sys.argv = ["vcut", "build", *self.calls[kind]]
            else:
                from vcut_export.cli import main

                sys.argv = ["vcut-export", *self.calls[kind]]
            main()

        return _fork(run)

    def _next_call(self) -> None:
        from vcut_runtime.cli import main

        def run() -> None:
            sys.argv = ["vcut", "build", str(self.root), "--engines", "none", "-q"]
            main()

        os.waitpid(_fork(run), 0)

    @staticmethod
    def _outliving(processes: set[int]) -> set[int]:
        end = time.monotonic() + PATIENCE
        while (left := {pid for pid in processes if _is_alive(pid)}) and time.monotonic() < end:
            time.sleep(0.02)
        return left


def _fork(run: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        exec(HOOK, {})
        quiet = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(quiet, descriptor)
        run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        os._exit(code)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="drills.kills", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import vcut_export.graphs.maker  # noqa: F401  # torch and all else, before the forks
    from vcut_runtime.backends.tensorrt_library import is_installed

    draw, faults = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as home:
        drill = Drill(options.checkpoint.resolve(), Path(home), engines=is_installed("tensorrt-rtx"))
        drill.measure()
        kinds = list(drill.calls)
        for number in range(options.kills):
            kind, share = kinds[number % len(kinds)], draw.random()
            wrong = drill.kill(kind, share)
            faults += bool(wrong)
            print(f"{kind} killed at {share:.0%} of {drill.durations[kind]:.1f} s: {wrong or 'ok'}", flush=True)
    print(f"{options.kills} kills, {faults} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
