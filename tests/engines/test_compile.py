"""One graph to one engine, in this process, by the real TensorRT-RTX; it needs no GPU for that."""

from __future__ import annotations

import gc
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from vcut_engines.build_log import BuildLog
from vcut_engines.compile import EngineJob, compile_graph
from vcut_engines.recipe import Recipe
from vcut_runtime import UsageError, VcutError
from vcut_runtime.backends.tensorrt_library import load_library
from vcut_runtime.bundle.manifest import Profile

VERSION = load_library("tensorrt-rtx").version


@pytest.fixture(autouse=True)
def _alone() -> None:
    """The library keeps the first logger for as long as a builder lives, and a caught error keeps its builder."""
    gc.collect()


def floats(name: str, *shape: int | str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def write(
    folder: Path, nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], weights: Sequence[Any] = ()
) -> Path:
    """Write an ONNX graph of opset 23."""
    domains = {node.domain for node in nodes} - {""}
    opsets = [helper.make_opsetid("", 23), *(helper.make_opsetid(domain, 1) for domain in domains)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    path = folder / "graph.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    return path


def addition(folder: Path) -> Path:
    nodes = [helper.make_node("Add", ["a", "b"], ["c"], name="sum")]
    return write(folder, nodes, [floats("a", 2, 3), floats("b", 2, 3)], [floats("c", 2, 3)])


def product(folder: Path, rows: int | str = "n") -> Path:
    """64 numbers of each row by a matrix of 16 kB, then a softmax."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [64, 64], [i / 4096 for i in range(4096)])
    nodes = [
        helper.make_node("MatMul", ["a", "w"], ["x"], name="product"),
        helper.make_node("Softmax", ["x"], ["c"], name="softmax"),
    ]
    return write(folder, nodes, [floats("a", rows, 64)], [floats("c", rows, 64)], [weight])


def job(onnx: Path, **changes: Any) -> EngineJob:
    recipe = {
        "library": "tensorrt-rtx",
        "version": VERSION,
        "compute_capability": None,
        "precision": "fp16",
        "profile": {},
        "workspace": None,
    }
    recipe |= {key: changes.pop(key) for key in list(changes) if key in recipe}
    folder = onnx.parent
    fields = {
        "graph": "decode",
        "onnx": str(onnx),
        "output": str(folder / "out.engine"),
        "log": str(folder / "build.log"),
        "timing_cache": None,
    }
    return EngineJob(Recipe(**recipe), **{**fields, **changes})


def silent(phase: str, done: int, total: int) -> None:
    pass


def refusal(task: EngineJob, kind: type[VcutError] = VcutError) -> str:
    """The one line that a build fails with; nothing looks like an engine afterwards."""
    with pytest.raises(kind) as caught:
        compile_graph(task, silent)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert not Path(task.output).exists()
    return message


def test_an_engine_is_written_and_the_library_reads_it(tmp_path: Path) -> None:
    task = job(addition(tmp_path))
    compiled = compile_graph(task, silent)
    assert compiled.layers >= 1
    library = load_library("tensorrt-rtx")
    runtime: Any = library.module.Runtime(library.logger(lambda severity, message: None))
    validity, diagnostics = runtime.get_engine_validity(Path(task.output).read_bytes()[:4096])
    wrong = library.module.EngineInvalidityDiagnostics
    here = int(diagnostics)
    if validity == library.module.EngineValidity.INVALID:  # without a GPU it is, but for no fault of the engine
        assert not here & (int(wrong.VERSION_MISMATCH.value) | int(wrong.MALFORMED_ENGINE.value))


def test_memory_is_what_the_builder_reports(tmp_path: Path) -> None:
    """A fixed input of n x 64 floats, a matrix of 64 x 64: weights of 16 kB and some, whatever n."""
    compiled = compile_graph(job(product(tmp_path, 4)), silent)
    assert 64 * 64 * 4 <= compiled.weight_bytes < 2 * 64 * 64 * 4
    log = (tmp_path / "build.log").read_text()
    assert f"Total Activation Memory: {compiled.activation_bytes} bytes" in log
    assert f"Total Weights Memory: {compiled.weight_bytes} bytes" in log


def test_a_dynamic_input_takes_its_profile(tmp_path: Path) -> None:
    task = job(product(tmp_path), profile={"a": Profile((1, 64), (4, 64), (8, 64))})
    compiled = compile_graph(task, silent)
    assert compiled.activation_bytes > 0
    assert Path(task.output).stat().st_size > 0


def test_phases_are_reported_with_their_steps(tmp_path: Path) -> None:
    phases: list[tuple[str, int, int]] = []
    compile_graph(job(addition(tmp_path)), lambda *phase: phases.append(phase))
    names = [name for name, *_ in phases]
    assert len(set(names)) >= 3
    assert all(name.strip() for name in names)
    assert all(0 <= done <= total for _, done, total in phases)
    assert phases[0][1] == 0
    assert any(done == total > 0 for _, done, total in phases)


def test_the_log_holds_everything_with_its_severity(tmp_path: Path) -> None:
    compile_graph(job(addition(tmp_path)), silent)
    log = (tmp_path / "build.log").read_text()
    assert "[VERBOSE] " in log
    assert "[INFO] " in log
    assert "sum" in log


@pytest.mark.parametrize("capability", ["7.5", "8.6", "12.0"])
def test_another_gpu_is_another_engine(tmp_path: Path, capability: str) -> None:
    onnx = addition(tmp_path)
    compile_graph(job(onnx), silent)
    portable = (tmp_path / "out.engine").read_bytes()
    compile_graph(job(onnx, compute_capability=capability), silent)
    assert (tmp_path / "out.engine").read_bytes() != portable


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_tf32_is_cleared_in_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    trt = load_library("tensorrt-rtx").module
    cleared: list[Any] = []

    class Config:
        """The real configuration, with an eye on one call."""

        def __init__(self, config: Any) -> None:
            self.__dict__["real"] = config

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def __setattr__(self, name: str, value: Any) -> None:
            setattr(self.real, name, value)

        def clear_flag(self, flag: Any) -> None:
            cleared.append(flag)
            self.real.clear_flag(flag)

    class Builder:
        def __init__(self, logger: Any) -> None:
            self.real = trt.Builder(logger)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def create_builder_config(self) -> Config:
            return Config(self.real.create_builder_config())

        def build_serialized_network(self, network: Any, config: Config) -> Any:
            return self.real.build_serialized_network(network, config.real)

    class Module:
        def __getattr__(self, name: str) -> Any:
            return Builder if name == "Builder" else getattr(trt, name)

    import vcut_engines.compile as module

    library = load_library("tensorrt-rtx")
    fake = type(library)(library.name, Module(), library.version)
    monkeypatch.setattr(module, "load_library", lambda name: fake)
    compile_graph(job(addition(tmp_path), precision=precision), silent)
    assert cleared == ([trt.BuilderFlag.TF32] if precision == "fp32" else [])


def test_an_operator_of_nobodys_names_node_operator_and_log(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["a"], ["x"], name="before"),
        helper.make_node("Frobnicate", ["x"], ["c"], name="the/node", domain="acme"),
    ]
    message = refusal(job(write(tmp_path, nodes, [floats("a", 2, 3)], [floats("c", 2, 3)])))
    assert message.startswith(f"TensorRT-RTX {VERSION} does not support the node the/node (Frobnicate) of decode: ")
    assert str(tmp_path / "build.log") in message
    assert "Frobnicate" in (tmp_path / "build.log").read_text()


def test_a_gpu_that_cannot_run_an_operation_names_it(tmp_path: Path) -> None:
    message = refusal(job(product(tmp_path, 4), compute_capability="7.5"))  # Turing multiplies no fp32 matrices
    assert "'product'" in message
    assert "SM75" in message
    assert "--precision" in message


def test_an_operator_that_the_library_lacks_names_node_operator_and_log(tmp_path: Path) -> None:
    nodes = [helper.make_node("Det", ["a"], ["c"], name="volume")]
    message = refusal(job(write(tmp_path, nodes, [floats("a", 3, 3)], [floats("c")])))
    assert "the node volume (Det) of decode" in message
    assert str(tmp_path / "build.log") in message


def test_shapes_that_do_not_fit_name_the_node(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["a", "b"], ["c"], name="odd")]
    message = refusal(job(write(tmp_path, nodes, [floats("a", 2, 3), floats("b", 2, 3)], [floats("c", 2, 3)])))
    assert "the node odd (MatMul)" in message
    assert "3" in message


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95pickle", b"\x00" * 1000, b"ONNX" * 1000])
def test_a_file_that_is_no_onnx(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "graph.onnx").write_bytes(content)
    message = refusal(job(tmp_path / "graph.onnx"))
    assert "decode" in message
    assert str(tmp_path / "build.log") in message


def test_a_truncated_graph(tmp_path: Path) -> None:
    onnx = product(tmp_path)
    onnx.write_bytes(onnx.read_bytes()[:-500])
    assert "decode" in refusal(job(onnx))


def test_a_graph_that_is_not_there(tmp_path: Path) -> None:
    assert "missing.onnx" in refusal(job(tmp_path / "missing.onnx"))


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    """External data beside the graph, as a bundle has it, but gone."""
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [64, 64], [0.0] * 4096)
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="gone.weights")
    nodes = [helper.make_node("MatMul", ["a", "w"], ["c"], name="product")]
    message = refusal(job(write(tmp_path, nodes, [floats("a", 4, 64)], [floats("c", 4, 64)], [tensor])))
    assert "decode" in message
    assert "gone.weights" in (tmp_path / "build.log").read_text()


@pytest.mark.parametrize("where", ["nowhere/out.engine", "graph.onnx/out.engine", "."])
def test_an_output_that_cannot_be_written(tmp_path: Path, where: str) -> None:
    with pytest.raises(VcutError, match="cannot write the engine decode") as caught:
        compile_graph(job(addition(tmp_path), output=str(tmp_path / where)), silent)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        ({}, "no optimization profile"),
        ({"a": Profile((4, 64), (2, 64), (1, 64))}, "MIN<=OPT<=MAX"),
        ({"a": Profile((1, 64, 1), (4, 64, 1), (4, 64, 1))}, "dimensions"),
        ({"a": Profile((1, 32), (4, 32), (4, 32))}, "tensor a"),
    ],
    ids=["none", "min over max", "rank", "fixed dimension"],
)
def test_an_impossible_profile(tmp_path: Path, profile: dict[str, Profile], says: str) -> None:
    message = refusal(job(product(tmp_path), profile=profile))
    assert says in message
    assert "decode" in message
    assert str(tmp_path / "build.log") in message
    assert "driver" not in message  # that this machine may lack one is not why


def test_a_library_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vcut_runtime.backends.tensorrt_library as module

    monkeypatch.setitem(module.MODULES, "tensorrt", "no_such_tensorrt")
    assert "TensorRT is not installed" in refusal(job(addition(tmp_path), library="tensorrt"), UsageError)


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_a_timing_cache_is_kept_and_used_again(tmp_path: Path) -> None:
    """TensorRT-RTX times nothing but takes one all the same."""
    cache = tmp_path / "new" / "timing.cache"
    task = job(addition(tmp_path), timing_cache=str(cache))
    compile_graph(task, silent)
    assert cache.stat().st_size > 0
    cache.write_bytes(b"of another version")
    compile_graph(task, silent)
    assert cache.read_bytes() != b"of another version"
    assert [path.name for path in cache.parent.iterdir()] == ["timing.cache"]


def test_a_workspace_and_no_allocation_at_run_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vcut_engines.compile as module

    seen: list[Any] = []
    configure = module._configure

    def spy(trt: Any, builder: Any, network: Any, config: Any, task: EngineJob) -> None:
        configure(trt, builder, network, config, task)
        limit = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
        seen.append((limit, config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)))

    monkeypatch.setattr(module, "_configure", spy)
    compile_graph(job(addition(tmp_path), workspace=64 << 20), silent)
    assert seen == [(64 << 20, True)]


def test_weights_that_the_log_does_not_tell_are_bounded_by_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = BuildLog.__call__

    def silent_about_weights(self: BuildLog, severity: str, message: str) -> None:
        call(self, severity, re.sub("Total Weights Memory", "", message))

    monkeypatch.setattr(BuildLog, "__call__", silent_about_weights)
    task = job(addition(tmp_path))
    assert compile_graph(task, silent).weight_bytes == Path(task.output).stat().st_size


def test_a_warning_comes_back_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = BuildLog.__call__

    def talkative(self: BuildLog, severity: str, message: str) -> None:
        call(self, severity, message)
        if re.search("Total (Activation|Weights)", message):
            call(self, "WARNING", "half of the values overflow")

    monkeypatch.setattr(BuildLog, "__call__", talkative)
    warnings = compile_graph(job(addition(tmp_path)), silent).warnings
    assert warnings.count("half of the values overflow") == 1
