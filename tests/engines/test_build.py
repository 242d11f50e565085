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

from building import GRAPHS, PORTABLE, build, build_at_once, content, one_line
from vcut_engines import BuildResult
from vcut_engines.compile import CompiledEngine, EngineJob
from vcut_runtime import BundleError, Pipeline, UsageError, VcutError, open_bundle
from vcut_runtime.backends.tensorrt_library import load_library
from vcut_runtime.bundle import sha256
from vcut_runtime.bundle.graph import GRAPHS as ALL
from vcut_runtime.bundle.graph import bind
from vcut_runtime.bundle.manifest import SCHEMA_VERSION, EngineSet

module: Any = sys.modules["vcut_engines.build"]  # the package's name for it is the function's

FULL = {name: graph.full for name, graph in ALL.items() if graph.full}  # of each shallow step, the full step


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


def engines_of(bundle: Path, target: str = PORTABLE) -> EngineSet:
    return open_bundle(bundle).manifest.engines[target]


def files_of(bundle: Path, target: str = PORTABLE) -> set[str]:
    return {path.name for path in (bundle / "engines" / target).iterdir()}


def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", started)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Builds take no time. The graphs built so far."""
    return build_at_once(monkeypatch)


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
    geometry = manifest.geometry
    tensors = bind({**geometry.bound(), "N": 160}, "fp32")
    assert geometry.sizes.frames == 3
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
    assert (decode.min, decode.opt, decode.max) == tuple((n, *geometry.latent_shape()) for n in (1, 3, 3))
    assert all(engines.engines[name].profile == {} for name in GRAPHS[:3])
    assert files_of(bundle) == {Path(entry.file).name for entry in engines.engines.values()}
    assert {path.name for path in bundle.iterdir()} == {"manifest.json", "onnx", "engines"}
    assert content(bundle / "onnx") == content(small_bundle / "onnx")


def test_shallow_steps_become_engines_too(deep_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(deep_bundle, tmp_path / "bundle"))
    result = build(bundle)
    manifest = open_bundle(bundle).manifest
    assert result.built == tuple(manifest.graphs)
    engines = engines_of(bundle).engines
    for shallow, name in FULL.items():
        assert engines[shallow].weight_bytes < engines[name].weight_bytes / 2
        features = manifest.graphs[name].outputs[-1]
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
    no_process(monkeypatch)
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
    no_process(monkeypatch)
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
    recipe: Any = sys.modules["vcut_engines.recipe"]
    real, code = recipe.sha256, recipe.BUILDING_CODE
    assert code.is_file()
    monkeypatch.setattr(recipe, "sha256", lambda path: "0" * 64 if path == code else real(path))
    assert build(built).built == GRAPHS


def test_engines_without_a_graphs_are_completed(built: Path, quick: list[str]) -> None:
    path = built / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["engines"][PORTABLE]["engines"]["condition"]
    path.write_text(json.dumps(manifest))
    assert build(built).built == ("condition",)
    assert tuple(engines_of(built).engines) == GRAPHS
    assert len(files_of(built)) == 4


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
    video = ((1, 2, 4, 12, 12), (1, 4, 4, 20, 14), (1, 5, 4, 24, 24))
    step = {
        "latents": video,
        "image_latents": ((1, 4, 12, 12), (1, 4, 20, 14), (1, 4, 24, 24)),
        "previous_denoised": video,
    }
    assert sides["semantic_binding"] == {**step, "guidance_scale": ((2,), (4,), (5,))}
    assert sides["quality_improvement"] == step
    assert sides["decode"] == {"latents": ((1, 4, 12, 12), (4, 4, 20, 14), (5, 4, 24, 24))}


def test_the_recipe_has_the_bundles_precision(
    bundle_copy: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes: list[Any] = []
    compiled = module.compile_in_process

    def spy(job: EngineJob, **rest: Any) -> CompiledEngine:
        recipes.append(job.recipe)
        return compiled(job, **rest)

    monkeypatch.setattr(module, "compile_in_process", spy)
    build(bundle_copy)
    assert [recipe.precision for recipe in recipes] == ["fp32"] * 4  # so without TF32, see test_compile.py


def test_nothing_to_build_with(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(bundle_copy)
    result = build(bundle_copy, "none")
    assert (result.target, result.built, result.engines) == (None, (), {})
    assert result.reason == "no engines were asked for"
    monkeypatch.setattr(sys.modules["vcut_engines.targets"], "is_installed", lambda name: False)
    assert "pip install" in build(bundle_copy, "auto").reason
    assert content(bundle_copy) == before


def test_an_impossible_gpu_is_refused_before_any_work(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_process(monkeypatch)
    assert "compute capability 9.0" in one_line(built, UsageError, gpu="h100")


@pytest.mark.parametrize("file", ["onnx/decode.onnx", "onnx/unet.weights"])
def test_a_damaged_graph_is_refused_before_anything_is_built(
    bundle_copy: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_process(monkeypatch)
    data = bytearray((bundle_copy / file).read_bytes())
    data[-1] ^= 1
    (bundle_copy / file).write_bytes(data)
    assert f"{file} does not match its sha256" in one_line(bundle_copy, BundleError)


def test_a_disk_too_small_is_refused_before_anything_is_built(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_process(monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**5))
    message = one_line(bundle_copy, UsageError)
    assert "0.0 GB free" in message
    assert str(bundle_copy) in message


def test_a_memory_too_small_is_refused_before_anything_is_built(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_process(monkeypatch)
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
    bundle = Path(shutil.copytree(built_once if there else small_bundle, tmp_path / "home/bundle"))
    before, compiled = content(bundle.parent), module.compile_in_process

    def failing(job: EngineJob, **rest: Any) -> CompiledEngine:
        if job.graph == "quality_improvement":
            Path(job.output).write_bytes(b"half")
            raise error
        return compiled(job, **rest)

    monkeypatch.setattr(module, "compile_in_process", failing)
    with pytest.raises((VcutError, KeyboardInterrupt)) as caught:
        build(bundle, force=True)
    assert len(str(caught.value).splitlines()) <= 1
    if isinstance(error, OSError):
        assert "No space left on device" in str(caught.value)
    assert quick == ["condition", "semantic_binding"]
    assert content(bundle.parent) == before


def test_a_word_of_the_library_becomes_a_warning(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(job: EngineJob, **_: Any) -> CompiledEngine:
        Path(job.output).write_bytes(b"engine")
        return CompiledEngine(1, 1, 1, ("values overflow",) if job.graph == "decode" else ())

    monkeypatch.setattr(module, "compile_in_process", compiled)
    assert build(bundle_copy).warnings == {"decode": ("values overflow",)}


def during_the_build(monkeypatch: pytest.MonkeyPatch, graph: str, do: Callable[[], object]) -> None:
    """Do something when ``graph`` has been built."""
    compiled = module.compile_in_process

    def busy(job: EngineJob, **rest: Any) -> CompiledEngine:
        done = compiled(job, **rest)
        if job.graph == graph:
            do()
        return done

    monkeypatch.setattr(module, "compile_in_process", busy)


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
        manifest = json.loads(path.read_text())
        manifest["schedules"]["vcut"] = manifest["schedules"]["exact"]
        path.write_text(json.dumps(manifest))

    assert open_bundle(bundle_copy).manifest.cut_step == 3
    during_the_build(monkeypatch, "decode", other_steps)
    build(bundle_copy)
    manifest = open_bundle(bundle_copy).manifest
    assert manifest.cut_step == 5
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
    bundle = Path(shutil.copytree(built_once if there else small_bundle, tmp_path / "home/bundle"))
    before, move = content(bundle.parent), Path.replace

    def failing(self: Path, target: Any) -> Any:
        if Path(target).name == "manifest.json":
            raise error
        return move(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises((VcutError, KeyboardInterrupt)):
        build(bundle, force=True)
    assert content(bundle.parent) == before


# Builds with the real library, prints the process id of the builder, and stops in the middle.
BUILDING = """
import subprocess, sys, time
from vcut_engines import build
start = subprocess.Popen.__init__
def shown(self, *arguments, **options):
    start(self, *arguments, **options)
    print(self.pid, flush=True)
subprocess.Popen.__init__ = shown
build(sys.argv[1], engines="tensorrt-rtx", progress=lambda graph, phase, *_: phase == "start" or time.sleep(60))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_what_a_killed_build_left_is_removed_and_a_running_ones_is_not(bundle_copy: Path, quick: list[str]) -> None:
    command = [sys.executable, "-c", BUILDING, str(bundle_copy)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        builder = int(running.stdout.readline())
        try:
            (left,) = bundle_copy.glob(".partial-*")
            build(bundle_copy)
            assert left.is_dir()
        finally:
            running.kill()
            os.kill(builder, signal.SIGKILL)
    assert left.is_dir()
    assert build(bundle_copy).built == ()  # it has nothing to do but to sweep
    assert not left.exists()
    assert {path.name for path in bundle_copy.iterdir()} == {"manifest.json", "onnx", "engines"}


def test_the_current_folder_is_built_in(bundle_copy: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle_copy)
    result = build(Path())
    assert (result.bundle, result.built) == (Path(), GRAPHS)
    assert tuple(open_bundle(".").manifest.engines[PORTABLE].engines) == GRAPHS
    assert build(Path()).built == ()
    assert {path.name for path in Path().iterdir()} == {"manifest.json", "onnx", "engines"}


def test_a_link_to_a_bundle_stays_a_link(bundle_copy: Path, tmp_path: Path, quick: list[str]) -> None:
    link = tmp_path / "link"
    link.symlink_to(bundle_copy)
    assert build(link).bundle == link
    assert link.is_symlink()
    assert tuple(engines_of(bundle_copy).engines) == GRAPHS
    assert {path.name for path in tmp_path.iterdir()} >= {"link", "bundle"}


def test_what_the_user_put_into_a_bundle_stays(built: Path, quick: list[str]) -> None:
    notes = [built / "notes.txt", built / "engines/notes.txt", built / "engines" / PORTABLE / "notes.txt"]
    for path in notes:
        path.write_text("mine")
    build(built, force=True)
    assert [path.read_text() for path in notes] == ["mine"] * 3


def test_a_damaged_engine_of_another_target_is_in_nobodys_way(built: Path, quick: list[str]) -> None:
    (built / engines_of(built).engines["decode"].file).unlink()
    assert build(built, gpu="a10").built == GRAPHS
    assert build(built).built == ("decode",)
    assert set(open_bundle(built).manifest.engines) == {PORTABLE, "tensorrt-rtx-sm86"}


def test_a_folder_that_cannot_take_engines_is_one_line(bundle_copy: Path, quick: list[str]) -> None:
    (bundle_copy / "engines").write_text("mine")
    assert "writing the bundle failed" in one_line(bundle_copy)


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
    compiled = module.compile_in_process

    def some(job: EngineJob, **rest: Any) -> CompiledEngine:
        if job.graph in real:
            return compiled(job, **rest)
        Path(job.output).write_text(job.graph)
        return CompiledEngine(activation_bytes=1, weight_bytes=1, layers=1)

    monkeypatch.setattr(module, "compile_in_process", some)
    result = build(bundle, gpu="a10")
    graphs = (*GRAPHS, *FULL)
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
