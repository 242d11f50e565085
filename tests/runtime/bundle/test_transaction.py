"""Changing a bundle in one step, with other processes, killed processes and odd file systems about."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from onnx import TensorProto, helper

import example_manifest
from vcut_runtime import BundleError, UsageError, VcutError, open_bundle
from vcut_runtime.bundle import claims, transaction
from vcut_runtime.bundle.claims import recover
from vcut_runtime.bundle.manifest import MANIFEST, FileEntry, Manifest, encode
from vcut_runtime.bundle.transaction import adding, is_fixed, staging

TARGET = example_manifest.TARGET
ENGINES = f"engines/{TARGET}"


def content(folder: Path) -> dict[str, str]:
    """Every file's hash, hidden ones' too, and every folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def put(folder: Path, file: str, data: bytes) -> dict[str, Any]:
    """Write a file of a bundle, and return what its entry says of it."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"file": file, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def fill(folder: Path, text: str = "old") -> Manifest:
    """Write the files of a whole bundle without engines, and return its manifest; graphs differ with ``text``."""
    manifest = example_manifest.example()
    weights = {"unet": FileEntry(**put(folder, "onnx/unet.weights", b"weights"))}
    graph = helper.make_graph([], text, [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])])
    onnx = helper.make_model(graph).SerializeToString()
    graphs = {
        name: msgspec.structs.replace(entry, **put(folder, f"onnx/{name}.onnx", onnx))
        for name, entry in manifest.graphs.items()
    }
    return msgspec.structs.replace(manifest, weights=weights, graphs=graphs, engines={})


def with_engines(manifest: Manifest, folder: Path, text: str, target: str = TARGET) -> Manifest:
    """Write engines into ``folder``, and return the manifest with them."""
    example = example_manifest.example().engines[TARGET]
    engines = {}
    for name, entry in example.engines.items():
        facts = put(folder, f"engines/{target}/{name}.{text}.engine", f"{name} {text}".encode())
        graph, weights = manifest.sources(name)
        engines[name] = msgspec.structs.replace(entry, **facts, graph=graph, weights=weights)
    engine_set = msgspec.structs.replace(example, engines=engines)
    return msgspec.structs.replace(manifest, engines={**manifest.engines, target: engine_set})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bundle without engines, alone in its folder."""
    bundle = tmp_path / "home" / "bundle"
    bundle.mkdir(parents=True)
    (bundle / MANIFEST).write_bytes(encode(fill(bundle)))
    return bundle


@pytest.fixture
def with_old_engines(root: Path) -> Path:
    (root / MANIFEST).write_bytes(encode(with_engines(open_bundle(root).manifest, root, "old")))
    return root


def export(root: Path, text: str = "new", *, without: str = "") -> Manifest:
    """Replace a bundle by one with other graphs and the same weights; the file ``without`` is missing."""
    with staging(root) as new:
        manifest = fill(new.folder, text)
        if root.exists():
            (new.folder / "onnx/unet.weights").unlink()
            new.keep(open_bundle(root).manifest.weights.values())
        if without:
            (new.folder / without).unlink()
        new.write(manifest)
        new.publish()
    return manifest


def build(root: Path, text: str = "new", target: str = TARGET) -> Manifest:
    """Put new engines into a bundle."""
    with adding(root) as new:
        with new.alone():
            manifest = with_engines(open_bundle(root, engines=False).manifest, new.folder, text, target)
            new.publish(manifest)
        return manifest


def test_a_new_bundle(tmp_path: Path) -> None:
    root = tmp_path / "new" / "home" / "bundle"
    manifest = export(root)
    assert open_bundle(root).manifest == manifest
    assert names(root.parent) == ["bundle"]
    assert root.stat().st_mode & 0o777 == 0o755


def test_a_bundle_over_an_old_one(root: Path) -> None:
    weights = (root / "onnx/unet.weights").stat().st_ino
    (root / "onnx/left.onnx").touch()
    manifest = export(root)
    assert open_bundle(root).manifest == manifest
    assert (root / "onnx/unet.weights").stat().st_ino == weights  # a link, not a copy
    assert not (root / "onnx/left.onnx").exists()
    assert names(root.parent) == ["bundle"]


def test_without_hard_links_what_is_kept_is_copied(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refused)
    assert open_bundle(root).manifest != export(root) == open_bundle(root).manifest


def test_a_bundle_that_is_not_whole_is_not_published(root: Path) -> None:
    before = content(root.parent)
    with pytest.raises(BundleError, match=r"decode\.onnx is missing"):
        export(root, without="onnx/decode.onnx")
    assert content(root.parent) == before


def stop(start: Any, root: Path, error: BaseException) -> None:
    with start(root) as new:
        put(new.folder, "onnx/half", b"half")
        raise error


@pytest.mark.parametrize("start", [staging, adding])
@pytest.mark.parametrize("error", [VcutError("why"), KeyboardInterrupt(), SystemExit(143), OSError(28, "No space")])
def test_a_failure_leaves_nothing_behind(root: Path, start: Any, error: BaseException) -> None:
    before = content(root.parent)
    with pytest.raises((VcutError, KeyboardInterrupt, SystemExit)) as caught:
        stop(start, root, error)
    assert len(str(caught.value).splitlines()) <= 1
    if isinstance(error, OSError):
        assert "No space" in str(caught.value)
    assert content(root.parent) == before


def exchange_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "_exchange", lambda first, second: False)


def test_two_renames_where_folders_cannot_be_exchanged(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange_fails(monkeypatch)
    manifest = export(root)
    assert open_bundle(root).manifest == manifest
    assert names(root.parent) == ["bundle"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
def test_an_interrupt_between_the_two_renames_keeps_the_old_bundle(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    exchange_fails(monkeypatch)
    before, rename = content(root.parent), Path.rename

    def interrupted(self: Path, target: Any) -> Path:
        if self.name.startswith(".bundle.partial-") and self.suffix != ".old":
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises((KeyboardInterrupt, VcutError)):
        export(root)
    assert content(root.parent) == before


def test_engines_are_added_and_others_stay(with_old_engines: Path) -> None:
    root, old = with_old_engines, open_bundle(with_old_engines).manifest.engines[TARGET]
    (root / "notes.txt").write_text("the user's")
    (root / ENGINES / "notes.txt").write_text("the user's")
    folder, onnx = root.stat().st_ino, content(root / "onnx")
    manifest = build(root, target="tensorrt-sm86")
    assert open_bundle(root).manifest == manifest
    assert manifest.engines[TARGET] == old
    assert set(manifest.engines) == {TARGET, "tensorrt-sm86"}
    assert (root.stat().st_ino, content(root / "onnx")) == (folder, onnx)
    assert (root / "notes.txt").exists()
    assert (root / ENGINES / "notes.txt").exists()


def test_engines_that_are_no_longer_listed_are_removed(with_old_engines: Path) -> None:
    manifest = build(with_old_engines)
    files = {f"{ENGINES}/{path.name}" for path in (with_old_engines / ENGINES).iterdir()}
    assert files == {entry.file for entry in manifest.engine_files()}
    assert all(".new." in file for file in files)


def test_a_damaged_engine_of_another_target_is_in_nobodys_way(with_old_engines: Path) -> None:
    damaged = next((with_old_engines / ENGINES).iterdir())
    damaged.unlink()
    build(with_old_engines, target="tensorrt-sm86")
    assert not damaged.exists()


@pytest.mark.parametrize("bundle", ["root", "with_old_engines"])
@pytest.mark.parametrize("file", [MANIFEST, "decode.new.engine"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_engines_that_cannot_be_moved_leave_the_old_ones(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, bundle: str, file: str, error: BaseException
) -> None:
    root: Path = request.getfixturevalue(bundle)
    before, move = content(root.parent), Path.replace

    def failing(self: Path, target: Any) -> Path:
        if Path(target).name == file:
            raise error
        return move(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises((VcutError, KeyboardInterrupt)):
        build(root)
    assert content(root.parent) == before


def test_an_interrupt_after_the_manifest_was_replaced_keeps_the_new_engines(
    with_old_engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = Path.replace

    def late(self: Path, target: Any) -> Path:
        result = move(self, target)
        if Path(target).name == MANIFEST:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Path, "replace", late)
    with pytest.raises(KeyboardInterrupt):
        build(with_old_engines)
    monkeypatch.undo()
    assert ".new." in open_bundle(with_old_engines).manifest.engines[TARGET].engines["decode"].file


def test_the_current_folder_takes_engines_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert is_fixed(root)
    assert is_fixed(Path())
    manifest = build(Path().resolve())
    assert open_bundle(".").manifest == manifest
    assert Path("manifest.json").exists()
    assert not is_fixed(root / "onnx")
    assert not is_fixed(root / "none")


def test_a_mount_point_is_fixed() -> None:
    assert is_fixed(Path("/"))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write beside .*: choose another place"):
        export(tmp_path / "file" / "bundle")
    with pytest.raises(VcutError, match=r"cannot write into .*: make it writable") as caught, adding(tmp_path / "none"):
        pass
    assert caught.value.exit_code == 1


# Starts what is asked for, says so and waits to be killed or told to end. Arguments: function, bundle.
HOLDING = """
import sys
from pathlib import Path
from vcut_runtime.bundle import transaction
with getattr(transaction, sys.argv[1])(Path(sys.argv[2])) as new:
    (new.folder / "large").write_bytes(bytes(1000))
    print(new.folder, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holding(root: Path, function: str, code: str = HOLDING) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Yield a process that is in the middle of a transaction, and its folder."""
    command, pipe = [sys.executable, "-c", code, function, str(root)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            folder = Path(process.stdout.readline().strip())
            assert folder.is_dir()
            yield process, folder
        finally:
            process.kill()


needs_locks = pytest.mark.skipif(claims.fcntl is None, reason="this system has no locks")
MAKE: dict[str, Callable[[Path], object]] = {"staging": export, "adding": build, "recover": recover}


@needs_locks
@pytest.mark.parametrize("function", ["staging", "adding"])
@pytest.mark.parametrize("then", MAKE)
def test_what_a_killed_process_left_is_removed(root: Path, function: str, then: str) -> None:
    with holding(root, function) as (process, folder):
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (folder / "large").exists()
    MAKE[then](root)
    assert not folder.exists()
    assert names(root.parent) == ["bundle"]
    assert not [name for name in names(root) if name.startswith(".")]


@needs_locks
@pytest.mark.parametrize("function", ["staging", "adding"])
@pytest.mark.parametrize("then", ["adding", "recover"])
def test_what_a_live_process_works_on_is_not_removed(root: Path, function: str, then: str) -> None:
    with holding(root, function) as (process, folder):
        MAKE[then](root)
        assert (folder / "large").exists()
        process.communicate("")
        assert process.returncode == 0
    assert not folder.exists()
    open_bundle(root)


# Sets a bundle aside where folders cannot be exchanged, and is killed before the new one is in its place.
ASIDE = """
import os, signal, sys
from pathlib import Path
from vcut_runtime.bundle import transaction
transaction._exchange = lambda first, second: False
rename = Path.rename
def killed(self, target):
    if Path(target).name == "bundle":
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = killed
with transaction.staging(Path(sys.argv[1])) as new:
    new.publish()
"""


@needs_locks
@pytest.mark.parametrize("then", MAKE)
def test_a_bundle_that_a_killed_process_had_set_aside_is_taken_back(root: Path, then: str) -> None:
    before = content(root.parent)
    done = subprocess.run([sys.executable, "-c", ASIDE, str(root)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not root.exists()
    assert len(names(root.parent)) == 2
    recover(root)
    assert content(root.parent) == before
    MAKE[then](root)
    open_bundle(root)


def test_opening_waits_for_no_lock(tmp_path: Path) -> None:
    """A new export looks for a bundle at its own place while it keeps others out."""
    root = tmp_path / "bundle"
    with staging(root) as new, new.alone(), pytest.raises(BundleError, match="no bundle at"):
        open_bundle(root)


@needs_locks
def test_opening_takes_back_what_a_killed_process_had_set_aside(root: Path) -> None:
    before = content(root.parent)
    subprocess.run([sys.executable, "-c", ASIDE, str(root)], check=False)
    assert not root.exists()
    open_bundle(root)
    assert content(root.parent) == before


@needs_locks
def test_the_old_bundle_of_a_process_that_was_killed_after_the_swap_is_removed(root: Path) -> None:
    code = """
import os, signal, shutil, sys
from pathlib import Path
from vcut_runtime.bundle import transaction
shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
with transaction.staging(Path(sys.argv[1])) as new:
    (new.folder / "new").touch()
    new.publish()
"""
    subprocess.run([sys.executable, "-c", code, str(root)], check=False)
    assert names(root) == ["new"]
    assert len(names(root.parent)) == 2
    recover(root)
    assert names(root.parent) == ["bundle"]


@needs_locks
def test_only_one_process_publishes_at_a_time(root: Path) -> None:
    code = HOLDING.replace("as new:", "as new, new.alone():")
    with holding(root, "staging", code) as (process, _):
        command = [sys.executable, "-c", HOLDING, "adding", str(root)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as second:
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(timeout=1)  # waits for the first to end
            process.communicate("")
            said, _ = second.communicate("", timeout=60)
    assert ".partial-" in said


def test_what_another_process_published_can_be_taken_over(root: Path) -> None:
    with adding(root) as new:
        build(root, "other", "tensorrt-sm86")
        with new.alone():
            new.publish(with_engines(open_bundle(root).manifest, new.folder, "new"))
    assert set(open_bundle(root).manifest.engines) == {TARGET, "tensorrt-sm86"}


@pytest.mark.parametrize("lock", ["absent", "refused"])
def test_without_locks_all_works_and_nothing_counts_as_left_behind(
    root: Path, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    class Refusing:
        LOCK_EX = LOCK_NB = 0

        @staticmethod
        def flock(*_: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(claims, "fcntl", None if lock == "absent" else Refusing)
    left = root.parent / ".bundle.partial-abc"
    left.mkdir()
    export(root)
    build(root)
    open_bundle(root)
    assert left.exists()


@pytest.mark.parametrize("name", ["other", ".other.partial-abc", "bundle.partial-abc", ".partial-abc"])
def test_other_folders_are_not_touched(root: Path, name: str) -> None:
    (root.parent / name).mkdir()
    export(root)
    assert (root.parent / name).exists()
