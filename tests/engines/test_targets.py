"""What ``--engines`` and ``--gpu`` decide, on machines with and without a GPU and with either library or none."""

from __future__ import annotations

import itertools
import re
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from vcut_engines import Target, choose_target, targets
from vcut_engines.gpus import COMPUTE_CAPABILITIES
from vcut_engines.targets import rtx_capabilities
from vcut_runtime import UsageError, VcutError
from vcut_runtime.backends.tensorrt_library import Library, load_library
from vcut_runtime.bundle.manifest import EngineLibrary, Precision

RTX = ("7.5", "8.0", "8.6", "8.9", "12.0")
MEMORY = 24 << 30
NO_GPU = "no NVIDIA GPU is visible: check nvidia-smi"


class Machine:
    """A machine whose libraries and GPU a test chooses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.libraries: set[str] = {"tensorrt", "tensorrt-rtx"}
        self.gpu: tuple[str, str] | None = ("8.6", "Fake A10")
        self.broken: set[str] = set()  # installed, but do not load
        monkeypatch.setattr(targets, "is_installed", lambda name: name in self.libraries)
        monkeypatch.setattr(targets, "load_library", self.load)
        monkeypatch.setattr(targets, "Cuda", self.cuda)

    def load(self, name: EngineLibrary) -> Library:
        if name not in self.libraries:
            raise UsageError(f"{name} is not installed")
        if name in self.broken:
            raise UsageError(f"{name} is installed but does not load")
        members = {"NONE": 0, "CURRENT": 1, **{f"SM{c.replace('.', '')}": 2 for c in RTX}}
        module: Any = SimpleNamespace(ComputeCapability=SimpleNamespace(__members__=members))
        return Library(name, module, "1.2.3")

    def cuda(self) -> Any:
        if self.gpu is None:
            raise UsageError(NO_GPU)
        return SimpleNamespace(compute_capability=self.gpu[0], name=self.gpu[1], memory=lambda: (MEMORY // 2, MEMORY))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def chosen(*arguments: Any) -> Target:
    target = choose_target(*arguments)
    assert isinstance(target, Target)
    return target


def refused(says: str, *arguments: Any) -> str:
    """The one line that these options are refused with."""
    with pytest.raises(UsageError, match=says) as caught:
        choose_target(*arguments)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("library", "capability", "name"),
    [
        ("tensorrt-rtx", None, "tensorrt-rtx-portable"),
        ("tensorrt-rtx", "8.6", "tensorrt-rtx-sm86"),
        ("tensorrt-rtx", "12.0", "tensorrt-rtx-sm120"),
        ("tensorrt", "9.0", "tensorrt-sm90"),
        ("tensorrt", None, "tensorrt-portable"),
    ],
)
def test_a_targets_name(library: EngineLibrary, capability: str | None, name: str) -> None:
    assert Target(library, "1.2.3", capability, "any").name == name


@pytest.mark.parametrize("gpu", [None, "portable", "Portable"])
def test_tensorrt_rtx_is_portable_by_default(machine: Machine, gpu: str | None) -> None:
    machine.gpu = None
    assert chosen("tensorrt-rtx", gpu) == Target("tensorrt-rtx", "1.2.3", None, None)


@pytest.mark.parametrize(
    ("gpu", "capability"), [("a10", "8.6"), ("RTX 4090", "8.9"), ("8.9", "8.9"), ("sm120", "12.0"), ("T4", "7.5")]
)
def test_tensorrt_rtx_builds_for_a_gpu_that_is_not_here(machine: Machine, gpu: str, capability: str) -> None:
    machine.gpu = None
    assert chosen("tensorrt-rtx", gpu) == Target("tensorrt-rtx", "1.2.3", capability, gpu)


def test_tensorrt_rtx_builds_for_the_gpu_at_hand(machine: Machine) -> None:
    assert chosen("tensorrt-rtx", "this") == Target("tensorrt-rtx", "1.2.3", "8.6", "Fake A10")
    machine.gpu = ("12.0", "Fake 5090")
    assert chosen("tensorrt-rtx", "This").compute_capability == "12.0"


def test_this_needs_a_gpu(machine: Machine) -> None:
    machine.gpu = None
    message = refused("--gpu this needs a GPU", "tensorrt-rtx", "this")
    assert NO_GPU in message
    assert "portable" in message


@pytest.mark.parametrize("gpu", ["h100", "9.0", "sm90", "b200", "v100"])
def test_tensorrt_rtx_refuses_what_it_does_not_know_and_names_what_does(machine: Machine, gpu: str) -> None:
    message = refused(f"cannot build for compute capability .*{gpu}", "tensorrt-rtx", gpu)
    assert ", ".join(RTX) in message
    assert "--engines tensorrt " in message
    assert "onnxruntime-cuda" in message


def test_tensorrt_rtx_refuses_a_gpu_at_hand_that_it_does_not_know(machine: Machine) -> None:
    machine.gpu = ("9.0", "Fake H100")
    assert "Fake H100" in refused("capability 9.0", "tensorrt-rtx", "this")


@pytest.mark.parametrize("gpu", [None, "this", "THIS", "a10", "RTX 3090", "8.6", "sm_86"])
def test_tensorrt_builds_for_the_gpu_at_hand(machine: Machine, gpu: str | None) -> None:
    assert chosen("tensorrt", gpu) == Target("tensorrt", "1.2.3", "8.6", "Fake A10", MEMORY)


def test_tensorrt_builds_portably_on_the_gpu_at_hand(machine: Machine) -> None:
    assert chosen("tensorrt", "portable") == Target("tensorrt", "1.2.3", None, "Fake A10", MEMORY)


@pytest.mark.parametrize("gpu", [None, "this", "portable", "a10"])
def test_tensorrt_needs_a_gpu_and_the_other_library_does_not(machine: Machine, gpu: str | None) -> None:
    machine.gpu = None
    message = refused("there is none here", "tensorrt", gpu)
    assert NO_GPU in message
    assert "--engines tensorrt-rtx" in message


@pytest.mark.parametrize("gpu", ["h100", "8.9", "rtx4090"])
def test_tensorrt_refuses_another_gpu(machine: Machine, gpu: str) -> None:
    message = refused(f"not for {gpu}", "tensorrt", gpu)
    assert "Fake A10 (8.6)" in message
    assert "--engines tensorrt-rtx" in message


@pytest.mark.parametrize("engines", ["auto", "tensorrt", "tensorrt-rtx"])
def test_a_misspelt_gpu_is_refused_by_all(machine: Machine, engines: str) -> None:
    refused("unknown GPU 'a11', did you mean", engines, "a11")
    machine.libraries = {"tensorrt-rtx"} if engines != "tensorrt" else {"tensorrt"}
    refused("unknown GPU 'a11', did you mean", engines, "a11")


def test_auto_with_a_misspelt_gpu_is_misuse_even_with_nothing_installed(machine: Machine) -> None:
    machine.libraries = set()
    refused("unknown GPU 'a11'", "auto", "a11")


@pytest.mark.parametrize("gpu", [None, "this", "a10", "portable"])
def test_auto_prefers_tensorrt_where_the_gpu_is_here(machine: Machine, gpu: str | None) -> None:
    assert chosen("auto", gpu) == choose_target("tensorrt", gpu)
    assert chosen("auto", gpu).library == "tensorrt"


@pytest.mark.parametrize("gpu", [None, "a10", "portable"])
def test_auto_takes_tensorrt_rtx_where_there_is_no_gpu(machine: Machine, gpu: str | None) -> None:
    machine.gpu = None
    assert chosen("auto", gpu) == choose_target("tensorrt-rtx", gpu)


def test_auto_takes_tensorrt_rtx_for_another_gpu(machine: Machine) -> None:
    assert chosen("auto", "rtx4090") == Target("tensorrt-rtx", "1.2.3", "8.9", "rtx4090")


@pytest.mark.parametrize("gpu", [None, "this"])
def test_auto_takes_tensorrt_rtx_where_tensorrt_is_missing_or_broken(machine: Machine, gpu: str | None) -> None:
    machine.broken = {"tensorrt"}
    assert chosen("auto", gpu).library == "tensorrt-rtx"
    machine.libraries = {"tensorrt-rtx"}
    assert chosen("auto", gpu).library == "tensorrt-rtx"


def test_auto_refuses_what_neither_can_build_for(machine: Machine) -> None:
    refused("cannot build for compute capability 9.0", "auto", "h100")
    machine.gpu = None
    refused("--gpu this needs a GPU", "auto", "this")


def test_auto_with_nothing_installed_builds_nothing_and_says_what_to_install(machine: Machine) -> None:
    machine.libraries = set()
    reason = choose_target("auto")
    assert isinstance(reason, str)
    assert "pip install 'vcut[tensorrt-rtx]'" in reason
    assert "vcut build" in reason
    assert len(reason.splitlines()) == 1


def test_auto_with_tensorrt_alone_and_no_gpu_builds_nothing(machine: Machine) -> None:
    machine.libraries, machine.gpu = {"tensorrt"}, None
    assert isinstance(choose_target("auto"), str)


@pytest.mark.parametrize("gpu", ["a10", "portable", "this"])
def test_auto_with_nothing_installed_refuses_a_gpu(machine: Machine, gpu: str) -> None:
    machine.libraries = set()
    message = refused(f"engines for {gpu} need TensorRT-RTX: pip install", "auto", gpu)
    assert "TensorRT is not installed" in message


def test_auto_says_why_the_tensorrt_that_is_there_will_not_do(machine: Machine) -> None:
    machine.libraries = {"tensorrt"}
    assert "builds for the GPU of this machine, Fake A10" in refused("need TensorRT-RTX", "auto", "rtx4090")


@pytest.mark.parametrize("engines", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("gpu", [None, "a10"])
def test_a_named_library_that_is_not_installed_is_refused(machine: Machine, engines: str, gpu: str | None) -> None:
    machine.libraries = {"tensorrt", "tensorrt-rtx"} - {engines}
    refused(f"{engines} is not installed", engines, gpu)


def test_none_builds_nothing(machine: Machine) -> None:
    machine.libraries = set()
    assert choose_target("none") == "no engines were asked for"


@pytest.mark.parametrize("gpu", ["a10", "portable", "this"])
def test_none_contradicts_a_gpu(machine: Machine, gpu: str) -> None:
    assert "--engines none" in refused(f"--gpu {gpu} is given", "none", gpu)


@pytest.mark.parametrize("engines", ["", "TensorRT", "trt", "rtx", "onnx"])
def test_an_unknown_library_is_told_which_there_are(machine: Machine, engines: str) -> None:
    assert "choose auto, tensorrt-rtx, tensorrt, none" in refused(f"unknown engines {engines!r}", engines)


def test_bf16_needs_ampere(machine: Machine) -> None:
    for gpu in ("t4", "sm75"):
        assert "--precision fp16" in refused("has no bf16", "tensorrt-rtx", gpu, "bf16")
    assert chosen("tensorrt-rtx", "t4", "fp16").compute_capability == "7.5"
    refused("multiplies no fp32 matrices", "tensorrt-rtx", "t4", "fp32")
    assert chosen("tensorrt-rtx", "a10", "bf16").compute_capability == "8.6"
    assert chosen("tensorrt-rtx", "rtx5090", "bf16").compute_capability == "12.0"  # 12 is no less than 8
    assert chosen("tensorrt-rtx", None, "bf16").compute_capability is None
    machine.gpu = ("7.5", "Fake T4")
    assert chosen("tensorrt", None, "fp32").compute_capability == "7.5"
    assert "Fake T4 (compute capability 7.5)" in refused("has no bf16", "tensorrt", None, "bf16")
    refused("has no bf16", "tensorrt-rtx", "this", "bf16")
    refused("has no bf16", "auto", "this", "bf16")
    assert chosen("tensorrt", None, "fp32").compute_capability == "7.5"


@pytest.mark.parametrize("libraries", [(), ("tensorrt",), ("tensorrt-rtx",), ("tensorrt", "tensorrt-rtx")])
@pytest.mark.parametrize("here", [None, ("7.5", "T4"), ("8.6", "A10"), ("9.0", "H100")])
@pytest.mark.parametrize("engines", ["auto", "tensorrt", "tensorrt-rtx", "none"])
def test_any_combination_gives_what_machine_and_options_allow_or_one_line(
    machine: Machine, libraries: tuple[str, ...], here: tuple[str, str] | None, engines: Any
) -> None:
    machine.libraries, machine.gpu = set(libraries), here
    gpus = (None, "portable", "this", "a10", "h100", "t4", "rocm")
    for gpu, precision in itertools.product(gpus, get_args(Precision)):
        case, target, refusal = (gpu, precision), None, ""
        try:
            target = choose_target(engines, gpu, precision)
        except UsageError as error:
            refusal = str(error)
        if target is None:
            assert len(refusal.splitlines()) == 1, case
        elif isinstance(target, str):
            assert engines in ("none", "auto"), case
            assert engines == "none" or "tensorrt-rtx" not in libraries, case
            assert gpu is None, case
        else:
            assert target.library in libraries, case
            assert engines in ("auto", target.library), case
            possible = RTX if target.library == "tensorrt-rtx" else here[:1] if here else ()
            assert target.compute_capability in (None, *possible), case
            assert (target.compute_capability, precision) != ("7.5", "bf16"), case
            wanted = {"portable": (None,), "this": here, "a10": ("8.6",), "h100": ("9.0",), "t4": ("7.5",), "rocm": ()}
            assert gpu is None or target.compute_capability in (wanted[gpu] or ()), case


def test_the_installed_tensorrt_rtx() -> None:
    """The real library: what it says it can build for, and what is chosen from that."""
    library = load_library("tensorrt-rtx")
    known = rtx_capabilities(library)
    assert {"7.5", "8.0", "8.6", "8.9", "12.0"} <= set(known)
    assert all(re.fullmatch(r"\d{1,2}\.\d", capability) for capability in known)
    assert set(known) <= set(COMPUTE_CAPABILITIES)
    assert chosen("tensorrt-rtx") == Target("tensorrt-rtx", library.version, None, None)
    assert chosen("tensorrt-rtx", "a10") == Target("tensorrt-rtx", library.version, "8.6", "a10")
    assert chosen("tensorrt-rtx", "a10").name == "tensorrt-rtx-sm86"
    assert "only for" in refused("compute capability 9.0", "tensorrt-rtx", "h100")
    for capability in known:
        assert chosen("tensorrt-rtx", capability).compute_capability == capability


def test_this_on_a_machine_without_a_gpu() -> None:
    """The real bindings: one line, whatever the machine lacks."""
    from vcut_runtime.backends.cuda import Cuda

    try:
        Cuda()
    except VcutError:
        refused("--gpu this needs a GPU", "tensorrt-rtx", "this")
    else:
        pytest.skip("a GPU is here")
