"""The GPU's wrapper on host memory and without a GPU, and the names that it uses of the real bindings."""

from __future__ import annotations

import ast
import gc
import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import vcut_runtime.backends.cuda as module
from fakes import FakeCuda, Result
from vcut_runtime import UsageError, VcutError
from vcut_runtime.backends.cuda import Cuda


class Absent(FakeCuda):
    """A machine without a driver: CUDA returns the code of an old driver, and version 0."""

    driver = 0

    def cudaGetDeviceCount(self) -> tuple:
        return Result.old_driver, 0

    def cudaDriverGetVersion(self) -> tuple:
        return Result.success, self.driver


class Old(Absent):
    driver = 12040


class Deviceless(FakeCuda):
    def cudaGetDeviceCount(self) -> tuple:
        return Result.no_device, 0


class Hidden(FakeCuda):
    """A driver that reports success and no GPU, as with an empty ``CUDA_VISIBLE_DEVICES``."""

    def cudaGetDeviceCount(self) -> tuple:
        return Result.success, 0


class Sick(FakeCuda):
    def cudaGetDeviceCount(self) -> tuple:
        return Result.capture_failed, 0


def failing(name: str, code: Result = Result.invalid) -> FakeCuda:
    """Return a GPU on which the function ``name`` fails."""
    gpu: Any = FakeCuda()
    setattr(gpu, name, lambda *_: (code, None))
    return gpu


def message_of(kind: type[VcutError], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_a_gpu_describes_itself() -> None:
    cuda = Cuda(FakeCuda("12.0", 32 << 30, "Fake 5090"))
    assert (cuda.compute_capability, cuda.name, cuda.driver) == ("12.0", "Fake 5090", "13.0")
    assert cuda.memory() == (32 << 30, 32 << 30)


def test_a_name_in_text_is_as_good_as_one_in_bytes() -> None:
    gpu: Any = FakeCuda()
    gpu.cudaGetDeviceProperties = lambda device: (Result.success, SimpleNamespace(name="Textual"))
    gpu.cudaDriverGetVersion = lambda: (Result.success, 12080)
    cuda = Cuda(gpu)
    assert (cuda.name, cuda.driver) == ("Textual", "12.8")


def test_no_driver() -> None:
    message = message_of(UsageError, lambda: Cuda(Absent()))
    assert message.startswith("no NVIDIA driver is installed")
    assert "--backend onnxruntime-cpu" in message


def test_an_old_driver_is_told_both_ways_out() -> None:
    message = message_of(UsageError, lambda: Cuda(Old()))
    assert "it runs CUDA 12.4 and cuda-bindings needs 13.5" in message
    assert "update the driver" in message
    assert "pip install 'cuda-bindings<13'" in message


@pytest.mark.parametrize("gpu", [Deviceless(), Hidden()], ids=["error", "zero"])
def test_no_gpu(gpu: FakeCuda) -> None:
    message = message_of(UsageError, lambda: Cuda(gpu))
    assert message.startswith("no NVIDIA GPU is visible")
    assert "CUDA_VISIBLE_DEVICES" in message


def test_a_driver_that_does_not_start() -> None:
    assert "CUDA does not start (capture_failed): check nvidia-smi" in message_of(UsageError, lambda: Cuda(Sick()))


def test_bindings_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(module.importlib, "import_module", missing)
    message = message_of(UsageError, Cuda)
    assert "need cuda-python (No module named 'cuda.bindings.runtime')" in message
    assert "pip install cuda-bindings" in message


def test_the_real_bindings_without_a_gpu_say_so_on_message_of() -> None:
    runtime = importlib.import_module("cuda.bindings.runtime")
    result, *count = runtime.cudaGetDeviceCount()
    if int(result) == 0 and count[0] > 0:
        pytest.skip("a GPU is here")
    message = message_of(UsageError, Cuda)
    assert any(words in message for words in ("no NVIDIA driver", "too old", "no NVIDIA GPU", "does not start"))


def test_the_real_bindings_have_everything_that_is_used() -> None:
    """Names that are written out, and names that are passed as text."""
    runtime = importlib.import_module("cuda.bindings.runtime")
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    functions, constants = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("cuda"):
            if node.value.isidentifier():
                functions.add(node.value)
        elif isinstance(node, ast.Attribute) and node.attr.startswith("cuda"):
            owner = ast.unparse(node.value)
            if owner == "self._rt":
                functions.add(node.attr)
            else:  # the enumeration itself, or a local name for it
                constants.add((owner.removeprefix("self._rt."), node.attr))
    functions.discard("cuda")
    assert len(functions) >= 25, functions
    assert [name for name in sorted(functions) if not hasattr(runtime, name)] == []
    assert len(constants) == 6, constants
    for owner, member in constants:
        holder = "cudaDeviceAttr" if owner == "attribute" else owner
        assert hasattr(getattr(runtime, holder), member), member
    for code, name in (
        (module._OUT_OF_MEMORY, "cudaErrorMemoryAllocation"),
        (module._OLD_DRIVER, "cudaErrorInsufficientDriver"),
        (module._NO_DEVICE, "cudaErrorNoDevice"),
    ):
        assert int(getattr(runtime.cudaError_t, name)) == code


def test_the_fake_has_what_the_real_bindings_have() -> None:
    runtime = importlib.import_module("cuda.bindings.runtime")
    names = {name for name in vars(FakeCuda) if name.startswith("cuda")}
    assert {name for name in names if not hasattr(runtime, name)} == set()


@pytest.mark.parametrize(
    "name",
    [
        "cudaSetDevice",
        "cudaDeviceGetAttribute",
        "cudaGetDeviceProperties",
        "cudaDriverGetVersion",
        "cudaStreamCreate",
    ],
)
def test_a_failure_while_starting_names_the_function(name: str) -> None:
    message = message_of(VcutError, lambda: Cuda(failing(name)))
    assert f"CUDA failed in {name} (invalid)" in message
    assert "nvidia-smi" in message


def test_a_failure_at_work_names_the_function() -> None:
    def attempt(name: str, call: Callable[[Cuda], object]) -> None:
        cuda = Cuda(failing(name))
        assert f"CUDA failed in {name} (invalid)" in message_of(VcutError, lambda: call(cuda))

    array = np.zeros(4, np.float32)
    attempt("cudaMemGetInfo", lambda cuda: cuda.memory())
    attempt("cudaMalloc", lambda cuda: cuda.allocate(10, "x"))
    attempt("cudaMemcpyAsync", lambda cuda: cuda.copy_in(0, array))
    attempt("cudaMemcpyAsync", lambda cuda: cuda.copy_out(array, 0))
    attempt("cudaMemcpyAsync", lambda cuda: cuda.copy(0, 0, 1))
    attempt("cudaStreamSynchronize", lambda cuda: cuda.synchronize())
    attempt("cudaEventCreate", lambda cuda: cuda.event())
    attempt("cudaEventRecord", lambda cuda: cuda.event())
    attempt("cudaEventSynchronize", lambda cuda: cuda.wait(cuda.event()))
    attempt("cudaEventElapsedTime", lambda cuda: cuda.seconds(cuda.event(), cuda.event()))
    attempt("cudaGraphLaunch", lambda cuda: cuda.launch(SimpleNamespace(handle=[])))  # pyright: ignore


def test_a_full_gpu_says_for_what_and_how_much_is_free() -> None:
    gpu = FakeCuda(total=10 * 10**9)
    cuda = Cuda(gpu)
    kept = cuda.allocate(2 * 10**7, "weights")
    message = message_of(VcutError, lambda: cuda.allocate(20 * 10**9, "activations"))
    assert "out of memory for activations (20.00 GB), 9.98 of 10.00 GB are free" in message
    assert "--low-memory" in message
    assert kept.size == 2 * 10**7


def test_a_graph_that_finds_no_memory_is_told_without_a_size() -> None:
    cuda = Cuda(failing("cudaGraphInstantiate", Result.out_of_memory))

    def captured() -> None:
        with cuda.capture():
            pass

    assert "the GPU is out of memory, 24" not in message_of(VcutError, captured)
    assert "the GPU is out of memory, " in message_of(VcutError, captured)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int64"])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 1, 4, 4)])
def test_what_is_copied_in_comes_out_again(dtype: str, shape: tuple[int, ...]) -> None:
    gpu = FakeCuda()
    cuda = Cuda(gpu)
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    here, there = cuda.allocate(array.nbytes, "here"), cuda.allocate(array.nbytes, "there")
    assert here.address % 256 == there.address % 256 == 0
    cuda.copy_in(here.address, array)
    want = array.copy()
    array[:] = 0  # the device has its own copy
    cuda.copy(there.address, here.address, array.nbytes)
    result = np.empty_like(array)
    cuda.copy_out(result, there.address)
    assert np.array_equal(result, want)


def test_memory_is_given_back_with_its_object() -> None:
    gpu = FakeCuda()
    cuda = Cuda(gpu)
    memory = cuda.allocate(1000, "x")
    assert cuda.memory()[0] == gpu.total - 1000
    del memory
    gc.collect()
    assert cuda.memory()[0] == gpu.total
    assert gpu.live == {}


def test_no_bytes_are_memory_too() -> None:
    assert Cuda(FakeCuda()).allocate(0, "nothing").address != 0


def test_time_between_events() -> None:
    gpu = FakeCuda()
    cuda = Cuda(gpu)
    start = cuda.event()
    gpu.clock += 1.5
    end = cuda.event()
    assert cuda.seconds(start, end) == pytest.approx(1.5)
    cuda.wait(end)


def test_what_is_captured_is_done_at_each_launch_and_not_before() -> None:
    gpu = FakeCuda()
    cuda = Cuda(gpu)
    memory = cuda.allocate(16, "x")
    source, result = np.zeros(4, np.float32), np.empty(4, np.float32)
    cuda.copy_in(memory.address, source)
    with cuda.capture() as captured:
        cuda.copy_in(memory.address, source)
    source[:] = 7
    cuda.copy_out(result, memory.address)
    assert (result == 0).all()
    cuda.launch(captured)
    cuda.copy_out(result, memory.address)
    assert (result == 7).all()
    source[:] = 9
    cuda.launch(captured)
    cuda.copy_out(result, memory.address)
    assert (result == 9).all()
    assert gpu.launches == 2


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_a_body_that_raises_leaves_capture_mode(error: BaseException) -> None:
    gpu = FakeCuda()
    cuda = Cuda(gpu)
    modes: list[bool] = []

    def attempt() -> None:
        with cuda.capture():
            modes.append(gpu.capturing is not None)
            raise error

    with pytest.raises(type(error)) as caught:
        attempt()
    assert modes == [True]
    assert caught.value is error
    assert gpu.capturing is None
    cuda.synchronize()  # a capturing stream refuses it


def test_the_bodys_error_is_not_hidden_by_the_captures() -> None:
    gpu = FakeCuda()
    gpu.capture_works = False
    cuda = Cuda(gpu)
    with pytest.raises(ValueError, match="mine"), cuda.capture():
        raise ValueError("mine")
    assert gpu.capturing is None


def test_what_cannot_be_captured_is_message_of() -> None:
    gpu = FakeCuda()
    gpu.capture_works = False
    cuda = Cuda(gpu)

    def attempt() -> None:
        with cuda.capture():
            pass

    assert "CUDA failed in cudaStreamEndCapture (capture_failed)" in message_of(VcutError, attempt)


class Counting(FakeCuda):
    """A GPU that counts the handles that are destroyed."""

    def __init__(self) -> None:
        super().__init__()
        self.destroyed: list[str] = []

    def cudaEventDestroy(self, event: Any) -> tuple:
        self.destroyed.append("event")
        return (Result.success,)

    def cudaGraphDestroy(self, graph: list) -> tuple:
        self.destroyed.append("graph")
        return (Result.success,)

    def cudaGraphExecDestroy(self, graph: list) -> tuple:
        self.destroyed.append("executable")
        return (Result.success,)


def test_every_handle_is_destroyed_once() -> None:
    gpu = Counting()
    cuda = Cuda(gpu)
    event = cuda.event()
    with cuda.capture() as captured:
        pass
    assert gpu.destroyed == ["graph"]
    del captured
    del event
    gc.collect()
    assert sorted(gpu.destroyed) == ["event", "executable", "graph"]


def test_the_graph_goes_even_if_it_cannot_be_instantiated() -> None:
    gpu: Any = Counting()
    gpu.cudaGraphInstantiate = lambda graph, flags: (Result.invalid, None)
    cuda = Cuda(gpu)
    with pytest.raises(VcutError, match="cudaGraphInstantiate"), cuda.capture():
        pass
    gc.collect()
    assert gpu.destroyed == ["graph"]


@pytest.mark.parametrize("how", ["error", "exception", "out of memory", "gone"])
def test_finalizers_never_raise(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)
    gpu: Any = FakeCuda()
    cuda = Cuda(gpu)
    memory, event = cuda.allocate(10, "x"), cuda.event()
    with cuda.capture() as captured:
        pass

    def gone(*_: object) -> None:
        raise TypeError("'NoneType' object is not callable")

    for name in ("cudaFree", "cudaEventDestroy", "cudaGraphExecDestroy"):
        answer = (Result.out_of_memory if how == "out of memory" else Result.invalid,)
        setattr(gpu, name, gone if how in ("exception", "gone") else lambda *_, answer=answer: answer)
    if how == "gone":
        cuda._rt = None
    del memory, event, captured
    gc.collect()
    assert unraisable == []


def test_an_event_that_could_not_be_made_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)
    cuda = Cuda(failing("cudaEventCreate"))
    with pytest.raises(VcutError):
        cuda.event()
    gc.collect()
    assert unraisable == []
