"""The process that builds an engine: how it fails, dies and is stopped, and its log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from building import GRAPHS, build, build_at_once, content, one_line
from vcut_engines.builder_process import Done, Failed, Phase
from vcut_engines.compile import CompiledEngine
from vcut_runtime import VcutError

module: Any = sys.modules["vcut_engines.build"]  # the package's name for it is the function's


@pytest.fixture
def built(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle with engines."""
    with monkeypatch.context() as inner:
        build_at_once(inner)
        build(bundle_copy)
    return bundle_copy


def damage_after_the_check(monkeypatch: pytest.MonkeyPatch, graph: str, data: bytes) -> None:
    """The graph is spoilt when its hash has been compared: only the library can notice."""
    check = module.check_hashes

    def spoil(bundle: Any, entries: Any) -> None:
        check(bundle, entries)
        bundle.path(bundle.manifest.graphs[graph]).write_bytes(data)

    monkeypatch.setattr(module, "check_hashes", spoil)


def test_a_graph_that_the_library_refuses(bundle_copy: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = bundle_copy / "onnx/condition.onnx"
    whole = graph.read_bytes()
    damage_after_the_check(monkeypatch, "condition", b"no graph at all")
    before = content(bundle_copy)
    with pytest.raises(VcutError) as caught:
        build(bundle_copy)
    graph.write_bytes(whole)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "condition" in message
    logs = list((cache / "log").iterdir())
    assert len(logs) == 1  # kept, to be read
    assert str(logs[0]) in message
    assert "[ERROR]" in logs[0].read_text()
    assert content(bundle_copy) == before


def builder(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Let a shell script play the builder's process."""
    program = folder / "builder"
    program.write_text(f"#!/bin/sh\nread -r job\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def say(message: Phase | Done | Failed) -> str:
    """The shell command that sends a message."""
    return f"echo '{msgspec.json.encode(message).decode()}'"


def test_a_killed_process_is_told_from_a_failed_one(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder(monkeypatch, tmp_path, "kill -9 $$")
    message = one_line(bundle_copy)
    assert "was killed while building condition" in message
    assert "memory" in message


def test_what_the_library_prints_before_it_dies_is_the_reason(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder(monkeypatch, tmp_path, "echo starting >&2; echo 'libfoo.so: wrong version' >&2; echo >&2; exit 3")
    message = one_line(bundle_copy)
    assert message.startswith("TensorRT-RTX cannot build condition: libfoo.so: wrong version; ")
    assert "starting" not in message


def test_a_process_that_dies_without_a_word(bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder(monkeypatch, tmp_path, "exit 3")
    assert "the builder ended with 3" in one_line(bundle_copy)


def test_a_process_that_dies_in_the_middle(bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder(monkeypatch, tmp_path, f"{say(Phase('Building', 1, 6))}; kill -SEGV $$")
    phases: list[Any] = []
    assert "the builder ended with -11" in one_line(bundle_copy, progress=lambda *phase: phases.append(phase))
    assert ("condition", "Building", 1, 6) in phases


def test_a_process_that_fails_by_message(bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder(monkeypatch, tmp_path, f"{say(Failed('no such thing'))}; echo noise >&2")
    assert one_line(bundle_copy) == "no such thing"


def test_a_process_that_leaves_no_engine(bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder(monkeypatch, tmp_path, say(Done(CompiledEngine(1, 1, 1))))
    assert "run the command again" in one_line(bundle_copy)


def test_a_process_with_an_error_of_its_own_names_it(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real process, with a log that it cannot write: Python's traceback becomes one line."""
    monkeypatch.setattr(module, "_log_file", lambda *_: tmp_path / "nowhere" / "log")
    assert "FileNotFoundError" in one_line(bundle_copy)


class Children:
    """The processes that a build starts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all: list[subprocess.Popen] = []
        real = subprocess.Popen

        def started(*arguments: Any, **options: Any) -> subprocess.Popen:
            self.all.append(real(*arguments, **options))
            return self.all[-1]

        monkeypatch.setattr(subprocess, "Popen", started)


@pytest.mark.parametrize("phase", ["start", "building"])
@pytest.mark.parametrize("graph", ["condition", "semantic_binding"])
def test_an_interrupt_kills_the_process_and_leaves_everything_as_it_was(
    built: Path, phase: str, graph: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children(monkeypatch)
    before = content(built)

    def interrupted(name: str, now: str, done: int, total: int) -> None:
        if name == graph and (now == "start") == (phase == "start"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(built, force=True, progress=interrupted)
    assert len(children.all) == GRAPHS.index(graph) + (phase == "building")
    assert all(child.returncode is not None for child in children.all)  # waited for, so dead
    if phase == "building":
        assert children.all[-1].returncode == -signal.SIGKILL
    assert content(built) == before


def alive(pid: int) -> bool:
    """Tell a running process from a dead one, and from one that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# Prints the builder's process id once it is at work.
STOPPED = """
import signal
import subprocess
from contextlib import nullcontext
import vcut_engines.cli
from vcut_runtime.cli import main
builders = []
class Popen(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        builders.append(self)
def progress(graph, phase, done, total):
    if phase != "start" and builders:
        print(builders.pop().pid, flush=True)
subprocess.Popen = Popen
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored
vcut_engines.cli.build_progress = lambda quiet: nullcontext(progress)
main()
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_leaves_nothing_behind(bundle_copy: Path, number: signal.Signals, code: int) -> None:
    before = content(bundle_copy)
    command = [sys.executable, "-c", STOPPED, "build", str(bundle_copy), "--engines", "tensorrt-rtx", "--quiet"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            assert alive(pid)
            if number == signal.SIGINT:  # Ctrl-C in a terminal reaches the builder too
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            _, said = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert said in ("", "error: interrupted\n")
    assert not alive(pid)
    assert content(bundle_copy) == before


def test_the_log_comes_to_standard_error_as_it_is_written(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each part once, the last one too."""
    log = tmp_path / "the.log"
    monkeypatch.setattr(module, "_log_file", lambda *_: log)
    phase = say(Phase("Building", 1, 6))
    script = f"echo one > {log}; {phase}; sleep 0.2; echo two >> {log}; {phase}; echo three >> {log}; exit 3"
    builder(monkeypatch, tmp_path, script)
    seen: list[str] = []
    with pytest.raises(VcutError):
        build(bundle_copy, verbose=True, progress=lambda *_: seen.append(capfd.readouterr().err))
    assert "".join([*seen, capfd.readouterr().err]) == "one\ntwo\nthree\n"
    with pytest.raises(VcutError):
        build(bundle_copy)
    assert capfd.readouterr().err == ""


def test_verbose_shows_the_librarys_log(
    built: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(built, decode_chunk=1, verbose=True)
    shown = capfd.readouterr().err
    assert "[VERBOSE] " in shown
    assert shown.count("Total Activation Memory") == 1
    build(built, decode_chunk=2)
    assert capfd.readouterr().err == ""


def test_logs_go_elsewhere_where_the_cache_cannot_be_written(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VCUT_CACHE", str(tmp_path / "file"))
    builder(monkeypatch, tmp_path, "exit 3")
    assert "log: " in one_line(bundle_copy)
