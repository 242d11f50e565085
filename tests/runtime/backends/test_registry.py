"""Which backend runs a bundle here, why, and what is said if none can."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fakes import FakeCuda, add_fake_engines, fake_tensorrt
from vcut_runtime import BackendOptions, BundleError, Pipeline, UsageError, VcutError, open_bundle
from vcut_runtime.backends import BACKENDS, choose, open_backend, verdicts
from vcut_runtime.backends.cuda import Cuda
from vcut_runtime.backends.tensorrt_library import Library
from vcut_runtime.bundle.manifest import EngineLibrary

NO_CUDA = "no driver for ONNX Runtime"


class Machine:
    """A machine whose GPU and libraries a test chooses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gpu: FakeCuda | None = FakeCuda()
        self.libraries: dict[str, str] = {"tensorrt": "1.2.3", "tensorrt-rtx": "1.2.3"}  # and their versions
        self.onnxruntime_cuda = False
        self.cpu_refuses = ""
        tensorrt = importlib.import_module("vcut_runtime.backends.tensorrt")
        onnx = importlib.import_module("vcut_runtime.backends.onnxruntime")
        check_cpu = onnx.check_cpu

        def check(*arguments: Any) -> None:
            if self.cpu_refuses:
                raise UsageError(self.cpu_refuses)
            check_cpu(*arguments)

        monkeypatch.setattr(tensorrt, "Cuda", self.cuda)
        monkeypatch.setattr(tensorrt, "load_library", self.load)
        missing = "vcut_runtime.backends.onnxruntime_providers.missing_cuda"
        monkeypatch.setattr(missing, lambda: "" if self.onnxruntime_cuda else NO_CUDA)
        monkeypatch.setattr(onnx, "check_cpu", check)

    def cuda(self) -> Cuda:
        if self.gpu is None:
            raise UsageError("no NVIDIA driver is installed")
        return Cuda(self.gpu)

    def load(self, name: EngineLibrary) -> Library:
        if name not in self.libraries:
            raise UsageError(f"{name} is not installed")
        module: Any = fake_tensorrt(self.gpu or FakeCuda(), name)
        return Library(name, module, self.libraries[name])


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VCUT_CACHE", str(tmp_path / "cache"))


def refused(bundle: Path, name: str, kind: type[VcutError] = UsageError) -> str:
    """Return the one line that choosing fails with."""
    with pytest.raises(kind) as caught:
        choose(open_bundle(bundle), name)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_the_order_of_preference(machine: Machine, bundle_copy: Path) -> None:
    """A backend is left out if something that it needs is missing."""
    add_fake_engines(bundle_copy, "tensorrt-rtx")
    add_fake_engines(bundle_copy, "tensorrt")
    machine.onnxruntime_cuda = True
    bundle = open_bundle(bundle_copy)
    assert choose(bundle).name == "tensorrt"
    del machine.libraries["tensorrt"]
    assert choose(bundle).name == "tensorrt-rtx"
    del machine.libraries["tensorrt-rtx"]
    assert choose(bundle).name == "onnxruntime-cuda"
    machine.onnxruntime_cuda = False
    assert choose(bundle).name == "onnxruntime-cpu"


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt-rtx"])
def test_engines_that_fit_are_chosen_and_why(machine: Machine, bundle_copy: Path, library: EngineLibrary) -> None:
    target = add_fake_engines(bundle_copy, library)
    bundle = open_bundle(bundle_copy)
    chosen = choose(bundle)
    assert (chosen.name, chosen.reason) == (library, f"engines {target} fit Fake A10 (compute capability 8.6)")
    backend = open_backend(bundle)
    assert backend.name == library
    assert backend.notes[0] == f"{library}: {chosen.reason}"
    assert open_backend(bundle, library).notes == []  # a user who names a backend knows it


@pytest.mark.parametrize("order", [("8.6", None), (None, "8.6")])
def test_engines_for_this_very_gpu_come_before_portable_ones(
    machine: Machine, bundle_copy: Path, order: tuple[str | None, ...]
) -> None:
    for capability in order:
        add_fake_engines(bundle_copy, capability=capability)
    bundle = open_bundle(bundle_copy)
    assert getattr(open_backend(bundle), "target") == "tensorrt-rtx-sm86"  # noqa: B009
    machine.gpu = FakeCuda("8.9", name="Fake L4")
    chosen = choose(bundle)
    assert "engines tensorrt-rtx-portable fit Fake L4 (compute capability 8.9)" in chosen.reason
    assert getattr(chosen.open(BackendOptions()), "target") == "tensorrt-rtx-portable"  # noqa: B009


def test_invalid_engines_for_this_gpu_give_way_to_portable_ones(machine: Machine, bundle_copy: Path) -> None:
    add_fake_engines(bundle_copy, capability="8.6", version="0.9")
    add_fake_engines(bundle_copy, capability=None)
    assert "tensorrt-rtx-portable" in choose(open_bundle(bundle_copy)).reason


def test_every_set_that_does_not_fit_is_named(machine: Machine, bundle_copy: Path) -> None:
    add_fake_engines(bundle_copy, capability="8.9")
    add_fake_engines(bundle_copy, capability=None, version="0.9")
    message = refused(bundle_copy, "tensorrt-rtx")
    assert "engines tensorrt-rtx-sm89: they are for compute capability 8.9, Fake A10 has 8.6" in message
    assert "engines tensorrt-rtx-portable: they were built by 0.9 and 1.2.3 is installed" in message


def test_a_bundle_without_engines_says_how_to_get_them(machine: Machine, bundle_copy: Path) -> None:
    for name in ("tensorrt", "tensorrt-rtx"):
        message = refused(bundle_copy, name)
        assert f"the bundle has no {name} engines: run 'vcut build {bundle_copy} --engines {name}'" in message
    add_fake_engines(bundle_copy, "tensorrt")
    assert "no tensorrt-rtx engines" in refused(bundle_copy, "tensorrt-rtx")


def test_a_named_backend_without_library_or_gpu_is_misuse(machine: Machine, bundle_copy: Path) -> None:
    add_fake_engines(bundle_copy)
    machine.gpu = None
    assert refused(bundle_copy, "tensorrt-rtx") == "no NVIDIA driver is installed"
    machine.libraries = {}
    assert refused(bundle_copy, "tensorrt-rtx") == "tensorrt-rtx is not installed"
    assert refused(bundle_copy, "onnxruntime-cuda") == f"backend onnxruntime-cuda is not available here: {NO_CUDA}"


@pytest.mark.parametrize("name", ["", "tpu", "cpu", "Auto", "TensorRT", "onnxruntime"])
def test_an_unknown_backend_is_told_which_there_are(machine: Machine, bundle_copy: Path, name: str) -> None:
    message = refused(bundle_copy, name)
    assert f"unknown backend {name!r}: choose auto, {', '.join(BACKENDS)}" in message


def test_auto_falls_back_to_the_cpu_and_says_what_is_wrong_with_the_engines(
    machine: Machine, bundle_copy: Path
) -> None:
    add_fake_engines(bundle_copy, capability="8.9")
    note = open_backend(open_bundle(bundle_copy)).notes[0]
    assert note.startswith("onnxruntime-cpu: nothing faster can run here, engines tensorrt-rtx-sm89: they are for")
    assert "vcut build" in note
    machine.gpu = None
    assert "no NVIDIA driver is installed" in choose(open_bundle(bundle_copy)).reason


def test_auto_without_engines_says_so(machine: Machine, bundle_copy: Path) -> None:
    bundle = open_bundle(bundle_copy)
    assert choose(bundle).reason == "nothing faster can run here, the bundle has no engines"
    assert open_backend(bundle).notes == [f"onnxruntime-cpu: {choose(bundle).reason}"]
    assert open_backend(bundle, "onnxruntime-cpu").notes == []


@pytest.mark.parametrize("engines", [False, True])
def test_a_bundle_that_nothing_can_run_gives_both_reasons(machine: Machine, bundle_copy: Path, engines: bool) -> None:
    machine.cpu_refuses = "a bf16 bundle needs a GPU"
    if engines:
        add_fake_engines(bundle_copy, capability="8.9")
    message = refused(bundle_copy, "auto", VcutError)
    assert message.endswith("a bf16 bundle needs a GPU")
    assert ("engines tensorrt-rtx-sm89: they are for compute capability 8.9" in message) == engines
    assert message.count("bf16") == 1


def test_bf16_graphs_are_refused_on_the_cpu(
    machine: Machine, edit_manifest: Callable[[Callable[[dict], object]], Path]
) -> None:
    bundle = edit_manifest(lambda manifest: manifest.update(precision="bf16"))
    add_fake_engines(bundle, capability="8.9")
    message = refused(bundle, "auto", VcutError)
    assert "Fake A10 has 8.6" in message
    assert "bf16 bundle needs a GPU" in message
    assert "bf16 bundle needs a GPU" in refused(bundle, "onnxruntime-cpu")
    add_fake_engines(bundle, capability="8.6")
    assert choose(open_bundle(bundle)).name == "tensorrt-rtx"


def test_verdicts_on_all_backends(machine: Machine, bundle_copy: Path) -> None:
    add_fake_engines(bundle_copy)
    told = verdicts(open_bundle(bundle_copy))
    assert list(told) == list(BACKENDS)
    assert told["tensorrt"].startswith("no: the bundle has no tensorrt engines")
    assert told["tensorrt-rtx"].startswith("yes: engines tensorrt-rtx-sm86 fit")
    assert told["onnxruntime-cuda"] == f"no: backend onnxruntime-cuda is not available here: {NO_CUDA}"
    assert told["onnxruntime-cpu"] == "yes: runs anywhere"
    machine.onnxruntime_cuda, machine.cpu_refuses = True, "not here"
    told = verdicts(open_bundle(bundle_copy))
    assert told["onnxruntime-cuda"].startswith("yes: ")
    assert told["onnxruntime-cpu"] == "no: not here"


def test_options_reach_the_engines(machine: Machine, bundle_copy: Path) -> None:
    add_fake_engines(bundle_copy)
    bundle = open_bundle(bundle_copy)
    plain: Any = open_backend(bundle)
    assert (plain.low_memory, plain._cuda_graphs) == (False, True)
    low: Any = open_backend(bundle, "auto", BackendOptions(low_memory=True))
    assert low.low_memory
    eager: Any = open_backend(bundle, "tensorrt-rtx", BackendOptions(cuda_graphs=False))
    assert (eager.low_memory, eager._cuda_graphs) == (False, False)
    through: Any = Pipeline.load(bundle_copy, low_memory=True, cuda_graphs=False).backend
    assert (through.name, through.low_memory, through._cuda_graphs) == ("tensorrt-rtx", True, False)


def test_options_reach_onnxruntime(machine: Machine, bundle_copy: Path) -> None:
    backend: Any = open_backend(open_bundle(bundle_copy), "onnxruntime-cpu", BackendOptions(threads=3))
    assert backend._threads == 3
    through: Any = Pipeline.load(bundle_copy, threads=2).backend
    assert (through.name, through._threads) == ("onnxruntime-cpu", 2)


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["auto", "onnxruntime-cpu", "onnxruntime-cuda"])
@pytest.mark.parametrize("file", ["onnx/decode.onnx", "onnx/unet.weights"])
def test_graphs_are_hashed_before_any_is_loaded(
    machine: Machine, bundle_copy: Path, name: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a graph of a bad bundle was loaded")

    monkeypatch.setattr(onnxruntime, "InferenceSession", loaded)
    machine.onnxruntime_cuda = name == "onnxruntime-cuda"
    bundle = open_bundle(bundle_copy)
    spoil(bundle_copy / file)
    with pytest.raises(BundleError, match=f"{file} does not match its sha256"):
        open_backend(bundle, name)


def test_choosing_reads_no_large_file(machine: Machine, bundle_copy: Path) -> None:
    target = add_fake_engines(bundle_copy)
    bundle = open_bundle(bundle_copy)
    for path in (*bundle_copy.glob("onnx/*.weights"), *(bundle_copy / "engines" / target).iterdir()):
        path.chmod(0o644)
        size = path.stat().st_size
        path.write_bytes(b"\0" * size)
    verdicts(bundle)
    assert choose(bundle).name == "tensorrt-rtx"


def test_each_engine_is_hashed_when_it_is_loaded(machine: Machine, bundle_copy: Path) -> None:
    target = add_fake_engines(bundle_copy)
    bundle = open_bundle(bundle_copy)
    backend = open_backend(bundle)
    spoil(bundle_copy / "engines" / target / "decode.engine")
    backend.load("condition")
    with pytest.raises(BundleError, match=r"decode\.engine.*sha256"):
        backend.load("decode")
