"""Engines built into a bundle by the real TensorRT-RTX, and what is left when a build fails or is stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vcut_engines import BuildResult
from vcut_engines import build as build_engines
from vcut_runtime import BundleError, Pipeline, UsageError, VcutError, open_bundle
from vcut_runtime.bundle import sha256
from vcut_runtime.graphs import graph_tensors
from vcut_runtime.manifest import SCHEMA_VERSION, SHALLOW, EngineSet, Sizes
from vcut_runtime.tensorrt_library import load_library

module: Any = sys.modules["vcut_engines.build"]  # the package's name for it is the function's

GRAPHS = ("condition", "semantic_binding", "quality_improvement", "decode")
PORTABLE = "tensorrt-rtx-portable"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VCUT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@dataclass
class Built:
    """A build, the phases it went through and the logs it left."""

    result: BuildResult
    phases: list[tuple[str, str, int, int]]
    logs: list[Path]


@pytest.fixture(scope="module")
def first(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Portable engines built into the small bundle, which many tests share."""
    folder = tmp_path_factory.mktemp("built")
    bundle = Path(shutil.copytree(small_bundle, folder / "bundle"))
    phases: list[tuple[str, str, int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCUT_CACHE", str(folder / "cache"))
        result = build(bundle, progress=lambda *phase: phases.append(phase))
    return Built(result, phases, list((folder / "cache/log").iterdir()))


@pytest.fixture(scope="module")
def built_once(first: Built) -> Path:
    """The small bundle with portable engines. Tests that change it copy it first."""
    return first.result.bundle


@pytest.fixture
def built(built_once: Path, tmp_path: Path) -> Path:
    """A copy of the bundle with engines that a test may change."""
    return Path(shutil.copytree(built_once, tmp_path / "bundle"))


def build(bundle: Path, engines: str = "tensorrt-rtx", **options: Any) -> BuildResult:
    return build_engines(bundle, engines=engines, **options)


def content(folder: Path) -> dict[str, str]:
    """Every file's hash, hidden ones' too, and every folder."""
    return {str(path.relative_to(folder)): sha256(path) if path.is_file() else "" for path in folder.rglob("*")}


def engines_of(bundle: Path, target: str = PORTABLE) -> EngineSet:
    return open_bundle(bundle).manifest.engines[target]


def files_of(bundle: Path, target: str = PORTABLE) -> set[str]:
    return {path.name for path in (bundle / "engines" / target).iterdir()}


def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(module.subprocess, "Popen", started)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Builds take no time: the engine is a text. Returns the graphs built so far."""
    done: list[str] = []

    def compiled(bundle: Any, name: str, recipe: Any, target: Any, output: Path, *rest: Any) -> Any:
        done.append(name)
        output.write_text(f"{name} for {target.name}, attempt {len(done)}")
        return module.Compiled(activation_bytes=1, weight_bytes=1, layers=1), []

    monkeypatch.setattr(module, "_compile", compiled)
    return done


def one_line(bundle: Path, kind: type[VcutError] = VcutError, **options: Any) -> str:
    """The one line that a build fails with; the bundle is as it was."""
    before = content(bundle)
    with pytest.raises(kind) as caught:
        build(bundle, **options)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert content(bundle) == before
    return message


def test_four_engines_and_a_manifest_that_agrees_with_them(first: Built, small_bundle: Path) -> None:
    result, bundle = first.result, first.result.bundle
    assert (result.target, result.reason) == (PORTABLE, "")
    assert result.built == GRAPHS
    assert set(result.seconds) == {"check", *GRAPHS}
    assert result.peak_memory > 0
    assert result.warnings == {}
    manifest = open_bundle(bundle).manifest
    assert manifest.schema_version == SCHEMA_VERSION
    engines = manifest.engines[PORTABLE]
    version = load_library("tensorrt-rtx").version
    assert (engines.library, engines.version) == ("tensorrt-rtx", version)
    assert (engines.compute_capability, engines.gpu) == (None, None)
    assert tuple(engines.engines) == GRAPHS
    assert result.engines == engines.engines
    tensors = graph_tensors(Sizes(3, manifest.height, manifest.width), latent=manifest.latent_shape, bias_channels=160)
    for name, entry in engines.engines.items():
        path = bundle / entry.file
        assert path.parent == bundle / "engines" / PORTABLE
        assert path.name == f"{name}.{entry.sha256[:12]}.engine"
        assert (entry.bytes, entry.sha256) == (path.stat().st_size, sha256(path))
        graph = manifest.graphs[name]
        assert (entry.graph, entry.weights) == (graph.sha256, manifest.weights[graph.weights].sha256)
        assert (entry.inputs, entry.outputs) == tensors[name]
        assert entry.activation_bytes > 0
        assert entry.layers > 0
        assert entry.build_seconds > 0
        assert 0 < entry.weight_bytes < 2 * manifest.weights[graph.weights].bytes
    decode = engines.engines["decode"].profile["latents"]
    assert (decode.min, decode.opt, decode.max) == tuple((n, *manifest.latent_shape) for n in (1, 3, 3))
    assert all(engines.engines[name].profile == {} for name in GRAPHS[:3])
    assert files_of(bundle) == {Path(entry.file).name for entry in engines.engines.values()}
    assert {path.name for path in bundle.iterdir()} == {"manifest.json", "onnx", "engines"}
    assert content(bundle / "onnx") == content(small_bundle / "onnx")


def test_shallow_steps_become_engines_too(deep_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(deep_bundle, tmp_path / "bundle"))
    result = build(bundle)
    manifest = open_bundle(bundle).manifest
    assert result.built == manifest.graph_names
    engines = engines_of(bundle).engines
    for name, shallow in SHALLOW.items():
        assert engines[shallow].weight_bytes < engines[name].weight_bytes / 2
        features = manifest.graphs[name].outputs[1]
        assert features in engines[name].outputs
        assert features in engines[shallow].inputs


def test_each_engines_phases_are_reported_and_its_log_is_removed(first: Built) -> None:
    assert [phase[:2] for phase in first.phases if phase[1] in ("start", "done")] == [
        (name, step) for name in GRAPHS for step in ("start", "done")
    ]
    for name in GRAPHS:
        assert len([phase for phase in first.phases if phase[0] == name]) > 10
    assert first.logs == []  # of what went well there is nothing to read


def test_a_bundle_with_engines_still_runs_on_the_cpu(built_once: Path, small_bundle: Path, photo: Image.Image) -> None:
    with_engines = Pipeline.load(built_once, "onnxruntime-cpu")(photo, seed=1).frames
    assert np.array_equal(with_engines, Pipeline.load(small_bundle, "onnxruntime-cpu")(photo, seed=1).frames)


def test_files_may_be_read_by_others(built_once: Path) -> None:
    for path in (built_once / "manifest.json", *(built_once / "engines" / PORTABLE).iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444, path.name


def test_a_second_build_has_nothing_to_do(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_worker(monkeypatch)
    monkeypatch.setattr(module, "check_hashes", None)  # nor are gigabytes read
    before = content(built)
    result = build(built)
    assert result.built == ()
    assert result.target == PORTABLE
    assert tuple(result.engines) == GRAPHS
    assert content(built) == before


def test_another_decode_chunk_rebuilds_decode_alone(built: Path) -> None:
    old = engines_of(built).engines
    assert build(built, decode_chunk=2).built == ("decode",)
    new = engines_of(built).engines
    assert new["decode"].profile["latents"].max[0] == 2
    assert new["decode"].file != old["decode"].file
    assert not (built / old["decode"].file).exists()
    assert {name: new[name] for name in GRAPHS[:3]} == {name: old[name] for name in GRAPHS[:3]}
    assert files_of(built) == {Path(entry.file).name for entry in new.values()}


@pytest.mark.parametrize("chunk", [0, -1, 4, 10**9])
def test_an_impossible_decode_chunk(built: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    no_worker(monkeypatch)
    assert f"--decode-chunk {chunk} is outside 1..3" in one_line(built, UsageError, decode_chunk=chunk)


def test_engines_for_another_gpu_stand_beside(built: Path, quick: list[str]) -> None:
    first = engines_of(built)
    result = build(built, gpu="a10")
    assert (result.target, result.built) == ("tensorrt-rtx-sm86", GRAPHS)
    manifest = open_bundle(built).manifest
    assert set(manifest.engines) == {PORTABLE, "tensorrt-rtx-sm86"}
    assert manifest.engines[PORTABLE] == first
    second = manifest.engines["tensorrt-rtx-sm86"]
    assert (second.compute_capability, second.gpu) == ("8.6", "a10")
    assert len(files_of(built)) == 4
    assert build(built, gpu="a10").built == build(built).built == ()
    assert quick == list(GRAPHS)


def test_force_builds_everything_again(built: Path, quick: list[str]) -> None:
    assert build(built, force=True).built == GRAPHS
    assert quick == list(GRAPHS)
    assert files_of(built) == {Path(entry.file).name for entry in engines_of(built).engines.values()}


def test_another_version_of_the_library_builds_everything_again(
    built: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.choose_target
    monkeypatch.setattr(module, "choose_target", lambda *what: replace(real(*what), version="9.9"))
    assert build(built).built == GRAPHS
    assert engines_of(built).version == "9.9"


def test_other_code_builds_everything_again(built: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.sha256
    code = Path(module.recipe_source.__file__)
    monkeypatch.setattr(module, "sha256", lambda path: "0" * 64 if path == code else real(path))
    assert build(built).built == GRAPHS


def test_engines_without_a_graphs_are_completed(built: Path, quick: list[str]) -> None:
    path = built / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["engines"][PORTABLE]["engines"]["condition"]
    path.write_text(json.dumps(manifest))
    assert build(built).built == ("condition",)
    assert tuple(engines_of(built).engines) == GRAPHS
    assert len(files_of(built)) == 4


def test_a_bundle_of_schema_1_is_lifted_to_the_present_one(bundle_copy: Path, quick: list[str]) -> None:
    path = bundle_copy / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest.pop("engines", None)
    path.write_text(json.dumps({**manifest, "schema_version": 1}))
    build(bundle_copy)
    assert json.loads(path.read_text())["schema_version"] == SCHEMA_VERSION
    assert tuple(engines_of(bundle_copy).engines) == GRAPHS


def test_profiles_span_the_sizes_that_a_run_may_choose(dynamic_bundle: Path, tmp_path: Path, quick: list[str]) -> None:
    bundle = Path(shutil.copytree(dynamic_bundle, tmp_path / "bundle"))
    build(bundle)
    sides = {
        name: {tensor: (p.min, p.opt, p.max) for tensor, p in engine.profile.items()}
        for name, engine in engines_of(bundle).engines.items()
    }
    image = ((1, 3, 24, 24), (1, 3, 40, 28), (1, 3, 48, 48))
    assert sides["condition"] == {
        "image": image,
        "noise": image,
        "resize_rows": ((224, 24), (224, 40), (224, 48)),
        "resize_columns": ((24, 224), (28, 224), (48, 224)),
    }
    step = {
        "latents": ((1, 2, 4, 12, 12), (1, 4, 4, 20, 14), (1, 5, 4, 24, 24)),
        "image_latents": ((1, 4, 12, 12), (1, 4, 20, 14), (1, 4, 24, 24)),
    }
    assert sides["semantic_binding"] == {**step, "guidance_scale": ((2,), (4,), (5,))}
    assert sides["quality_improvement"] == step
    assert sides["decode"] == {"latents": ((1, 4, 12, 12), (4, 4, 20, 14), (5, 4, 24, 24))}


def test_fp32_bundles_do_without_tf32(bundle_copy: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    recipes: list[Any] = []
    compiled = module._compile

    def spy(bundle: Any, name: str, recipe: Any, *rest: Any) -> Any:
        recipes.append(recipe)
        return compiled(bundle, name, recipe, *rest)

    monkeypatch.setattr(module, "_compile", spy)
    build(bundle_copy)
    assert [recipe.tf32 for recipe in recipes] == [False] * 4


def test_nothing_to_build_with(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(bundle_copy)
    result = build(bundle_copy, "none")
    assert (result.target, result.built, result.engines) == (None, (), {})
    assert result.reason == "no engines were asked for"
    monkeypatch.setattr(sys.modules["vcut_engines.targets"], "is_installed", lambda name: False)
    assert "pip install" in build(bundle_copy, "auto").reason
    assert content(bundle_copy) == before


def test_an_impossible_gpu_is_refused_before_any_work(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_worker(monkeypatch)
    assert "compute capability 9.0" in one_line(built, UsageError, gpu="h100")


@pytest.mark.parametrize("file", ["onnx/decode.onnx", "onnx/unet.weights"])
def test_a_damaged_graph_is_refused_before_anything_is_built(
    bundle_copy: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_worker(monkeypatch)
    data = bytearray((bundle_copy / file).read_bytes())
    data[-1] ^= 1
    (bundle_copy / file).write_bytes(data)
    assert f"{file} does not match its sha256" in one_line(bundle_copy, BundleError)


def test_a_disk_too_small_is_refused_before_anything_is_built(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_worker(monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**5))
    message = one_line(bundle_copy, UsageError)
    assert "0.0 GB free" in message
    assert str(bundle_copy) in message


def test_a_memory_too_small_is_refused_before_anything_is_built(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_worker(monkeypatch)
    monkeypatch.setattr(module, "total_memory", lambda: 10**5)
    assert "of memory, this machine has" in one_line(bundle_copy, UsageError)


@pytest.mark.parametrize("there", [False, True], ids=["new", "again"])
@pytest.mark.parametrize("error", [VcutError("the third"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_failure_at_the_third_engine_leaves_everything_as_it_was(
    there: bool,
    error: BaseException,
    built_once: Path,
    small_bundle: Path,
    tmp_path: Path,
    quick: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = Path(shutil.copytree(built_once if there else small_bundle, tmp_path / "bundle"))
    before, compiled = content(tmp_path), module._compile

    def failing(opened: Any, name: str, recipe: Any, target: Any, output: Path, *rest: Any) -> Any:
        if name == "quality_improvement":
            output.write_bytes(b"half")
            raise error
        return compiled(opened, name, recipe, target, output, *rest)

    monkeypatch.setattr(module, "_compile", failing)
    with pytest.raises((VcutError, KeyboardInterrupt)) as caught:
        build(bundle, force=True)
    assert len(str(caught.value).splitlines()) <= 1
    if isinstance(error, OSError):
        assert "No space left on device" in str(caught.value)
    assert quick == ["condition", "semantic_binding"]
    assert content(tmp_path) == before


def damage_after_the_check(monkeypatch: pytest.MonkeyPatch, graph: str, data: bytes) -> None:
    """The graph is spoilt when its hash has been compared: only the library can notice."""
    check = module.check_hashes

    def spoil(bundle: Any, entries: Any) -> None:
        check(bundle, entries)
        bundle.path(bundle.manifest.graphs[graph]).write_bytes(data)

    monkeypatch.setattr(module, "check_hashes", spoil)


def test_a_graph_that_the_library_refuses(
    bundle_copy: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, quick: list[str]
) -> None:
    """A real worker for decode; the others are done at once."""
    monkeypatch.undo()
    monkeypatch.setenv("VCUT_CACHE", str(cache))
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


def worker(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Let a shell script play the worker."""
    program = folder / "worker"
    program.write_text(f"#!/bin/sh\ncat > /dev/null\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(module.sys, "executable", str(program))


def test_a_killed_worker_is_told_from_a_failed_one(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker(monkeypatch, tmp_path, "kill -9 $$")
    message = one_line(bundle_copy)
    assert "was killed while building condition" in message
    assert "memory" in message


def test_what_the_library_prints_before_it_dies_is_the_reason(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker(monkeypatch, tmp_path, "echo starting >&2; echo 'libfoo.so: wrong version' >&2; echo >&2; exit 3")
    message = one_line(bundle_copy)
    assert message.startswith("TensorRT-RTX cannot build condition: libfoo.so: wrong version; ")
    assert "starting" not in message


def test_a_worker_that_dies_without_a_word(bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker(monkeypatch, tmp_path, "exit 3")
    assert "the builder ended with 3" in one_line(bundle_copy)


def test_a_worker_that_dies_in_the_middle(bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker(monkeypatch, tmp_path, """echo '{"kind": "phase", "args": ["Building", 1, 6]}'; kill -SEGV $$""")
    phases: list[Any] = []
    assert "the builder ended with -11" in one_line(bundle_copy, progress=lambda *phase: phases.append(phase))
    assert ("condition", "Building", 1, 6) in phases


def test_a_worker_that_fails_by_message(bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker(monkeypatch, tmp_path, """echo '{"kind": "failed", "error": "no such thing"}'; echo noise >&2""")
    assert one_line(bundle_copy) == "no such thing"


def test_a_worker_that_leaves_no_engine(bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = {"activation_bytes": 1, "weight_bytes": 1, "layers": 1}
    message = json.dumps({"kind": "done", "compiled": done, "warnings": [], "peak_memory": 1})
    worker(monkeypatch, tmp_path, f"echo '{message}'")
    assert "run 'vcut build' again" in one_line(bundle_copy)


def test_a_worker_with_an_error_of_its_own_names_it(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real worker, with a log that it cannot write: Python's traceback becomes one line."""
    monkeypatch.setattr(module, "_log_file", lambda *_: tmp_path / "nowhere" / "log")
    assert "FileNotFoundError" in one_line(bundle_copy)


def test_a_word_of_the_library_becomes_a_warning(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(bundle: Any, name: str, recipe: Any, target: Any, output: Path, *rest: Any) -> Any:
        output.write_bytes(b"engine")
        return module.Compiled(1, 1, 1), ["values overflow"] if name == "decode" else []

    monkeypatch.setattr(module, "_compile", compiled)
    assert build(bundle_copy).warnings == {"decode": ["values overflow"]}


class Children:
    """The processes that a build starts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all: list[subprocess.Popen] = []
        real = subprocess.Popen

        def started(*arguments: Any, **options: Any) -> subprocess.Popen:
            self.all.append(real(*arguments, **options))
            return self.all[-1]

        monkeypatch.setattr(module.subprocess, "Popen", started)


@pytest.mark.parametrize("phase", ["start", "building"])
@pytest.mark.parametrize("graph", ["condition", "semantic_binding"])
def test_an_interrupt_kills_the_worker_and_leaves_everything_as_it_was(
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


# Prints the worker's process id once the worker is at work.
STOPPED = """
import signal
import subprocess
from contextlib import nullcontext
import vcut_engines.cli
from vcut_runtime.cli import main
workers = []
class Popen(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        workers.append(self)
def progress(graph, phase, done, total):
    if phase != "start" and workers:
        print(workers.pop().pid, flush=True)
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
            if number == signal.SIGINT:  # Ctrl-C in a terminal reaches the worker too
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
    phase = """echo '{"kind": "phase", "args": ["Building", 1, 6]}'"""
    script = f"echo one > {log}; {phase}; sleep 0.2; echo two >> {log}; {phase}; echo three >> {log}; exit 3"
    worker(monkeypatch, tmp_path, script)
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


def during_the_build(monkeypatch: pytest.MonkeyPatch, graph: str, do: Callable[[], object]) -> None:
    """Do something when ``graph`` has been built."""
    compiled = module._compile

    def busy(bundle: Any, name: str, *rest: Any) -> Any:
        done = compiled(bundle, name, *rest)
        if name == graph:
            do()
        return done

    monkeypatch.setattr(module, "_compile", busy)


def export_anew(bundle: Path, other: Path) -> Callable[[], object]:
    """What an export does at its end: another folder takes the bundle's place."""

    def swap() -> None:
        shutil.rmtree(bundle)
        other.rename(bundle)

    return swap


@pytest.mark.parametrize("graph", ["condition", "decode"])
def test_a_bundle_exported_anew_meanwhile_is_not_spoilt(
    bundle_copy: Path, tmp_path: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch, graph: str
) -> None:
    other = Path(shutil.copytree(bundle_copy, tmp_path / "other"))
    manifest = json.loads((other / "manifest.json").read_text())
    data = (other / "onnx/decode.onnx").read_bytes() + b"\x72\x00"  # an empty string of an unused field
    (other / "onnx/decode.onnx").write_bytes(data)
    digest = sha256(other / "onnx/decode.onnx")
    manifest["graphs"]["decode"].update(bytes=len(data), sha256=digest, key="other")
    (other / "manifest.json").write_text(json.dumps(manifest))
    new = content(other)
    during_the_build(monkeypatch, graph, export_anew(bundle_copy, other))
    with pytest.raises(VcutError) as caught:
        build(bundle_copy)
    assert len(str(caught.value).splitlines()) == 1
    if graph == "decode":  # all engines were lost with the old folder
        assert "engines" in str(caught.value)
    assert content(bundle_copy) == new


def test_a_manifest_of_other_graphs_is_not_overwritten(
    bundle_copy: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle_copy / "manifest.json"

    def other_graphs() -> None:
        manifest = json.loads(path.read_text())
        manifest["graphs"]["decode"]["key"] = "other"
        path.write_text(json.dumps(manifest))

    before = content(bundle_copy)
    during_the_build(monkeypatch, "decode", other_graphs)
    with pytest.raises(VcutError, match="was exported anew while its engines were built: run 'vcut build' again"):
        build(bundle_copy)
    after = content(bundle_copy)
    assert json.loads(path.read_text())["graphs"]["decode"]["key"] == "other"
    assert before.pop("manifest.json") != after.pop("manifest.json")
    assert after == before  # no engine without a manifest that names it


def test_a_bundle_that_vanishes_is_one_line(
    bundle_copy: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    during_the_build(monkeypatch, "decode", lambda: shutil.rmtree(bundle_copy))
    with pytest.raises(VcutError) as caught:
        build(bundle_copy)
    assert len(str(caught.value).splitlines()) == 1


def test_a_build_for_another_gpu_that_ended_meanwhile_is_kept(
    bundle_copy: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as inner:
        once: list[int] = []
        during_the_build(inner, "condition", lambda: once or (once.append(1), build(bundle_copy, gpu="a10")))
        build(bundle_copy)
    assert set(open_bundle(bundle_copy).manifest.engines) == {PORTABLE, "tensorrt-rtx-sm86"}


def test_new_steps_that_were_set_meanwhile_are_kept(
    bundle_copy: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle_copy / "manifest.json"

    def other_steps() -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), "steps": 9}))

    during_the_build(monkeypatch, "decode", other_steps)
    build(bundle_copy)
    manifest = open_bundle(bundle_copy).manifest
    assert manifest.steps == 9
    assert tuple(manifest.engines[PORTABLE].engines) == GRAPHS


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("there", [False, True], ids=["new", "again"])
def test_a_manifest_that_cannot_be_replaced_leaves_the_old_engines(
    there: bool,
    error: BaseException,
    built_once: Path,
    small_bundle: Path,
    tmp_path: Path,
    quick: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = Path(shutil.copytree(built_once if there else small_bundle, tmp_path / "bundle"))
    before, move = content(tmp_path), Path.replace

    def failing(self: Path, target: Any) -> Any:
        if Path(target).name == "manifest.json":
            raise error
        return move(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises((VcutError, KeyboardInterrupt)):
        build(bundle, force=True)
    assert content(tmp_path) == before


def test_what_a_killed_build_left_is_removed_and_a_running_ones_is_not(bundle_copy: Path, quick: list[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    folder = bundle_copy / "engines" / PORTABLE
    folder.mkdir(parents=True)
    dead, live = (folder / f".decode.0.engine.partial-{pid}" for pid in (ended.pid, os.getppid()))
    dead.touch()
    live.touch()
    build(bundle_copy)
    assert not dead.exists()
    assert live.exists()


def test_logs_go_elsewhere_where_the_cache_cannot_be_written(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VCUT_CACHE", str(tmp_path / "file"))
    worker(monkeypatch, tmp_path, "exit 3")
    assert "log: " in one_line(bundle_copy)


def test_a_result_as_json(bundle_copy: Path, quick: list[str]) -> None:
    facts = json.loads(json.dumps(module.summary(build(bundle_copy))))
    assert facts["built"] == list(GRAPHS)
    assert set(facts["engines"]["decode"]) == {"file", "bytes", "activation_bytes", "weight_bytes", "build_seconds"}


@pytest.mark.slow
def test_all_levels_of_svd_with_sizes_that_a_run_may_choose(
    slim_dynamic_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guided step and its shallow one for real: that is where the library's shape analysis has the most to do."""
    bundle = Path(shutil.copytree(slim_dynamic_bundle, tmp_path / "bundle"))
    real = ("semantic_binding", "semantic_binding_shallow")
    compiled = module._compile

    def some(opened: Any, name: str, recipe: Any, target: Any, output: Path, *rest: Any) -> Any:
        if name in real:
            return compiled(opened, name, recipe, target, output, *rest)
        output.write_text(name)
        return module.Compiled(activation_bytes=1, weight_bytes=1, layers=1), []

    monkeypatch.setattr(module, "_compile", some)
    result = build(bundle, gpu="a10")
    graphs = (*GRAPHS, *SHALLOW.values())
    assert (result.target, result.built, result.warnings) == ("tensorrt-rtx-sm86", graphs, {})
    command = [sys.executable, "-c", "from vcut_runtime.cli import main; main()", "inspect", str(bundle), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    described = json.loads(done.stdout)["engines"]["tensorrt-rtx-sm86"]
    assert described["compute_capability"] == "8.6"
    assert described["for"] == "compute capability 8.6 (a10)"
    assert list(described["engines"]) == list(graphs)
    for name in real:
        engine = described["engines"][name]
        assert engine["bytes"] == (bundle / engine["file"]).stat().st_size, name
        assert engine["activation_bytes"] > 0, name
        assert engine["weight_bytes"] > 0, name
