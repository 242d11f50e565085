"""The records of graphs, and what they become in a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from example_manifest import example
from vcut_runtime.bundle import open_bundle
from vcut_runtime.bundle.graph import FEATURES, GRAPHS, SYMBOLS, bind, bundle_graphs, share_stage, sized
from vcut_runtime.bundle.manifest import TensorSpec, graph_files
from vcut_runtime.bundle.onnx_scan import scan_graph
from vcut_runtime.bundle.operators import OPERATORS

DTYPES = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.UINT8: "uint8"}
STEPS = [name for name, graph in GRAPHS.items() if graph.is_step]


def in_file(model: onnx.ModelProto) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Return the inputs and outputs of an ONNX graph as the onnx package reads them."""

    def spec(value: onnx.ValueInfoProto) -> TensorSpec:
        tensor = value.type.tensor_type
        shape = tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
        return TensorSpec(value.name, DTYPES[tensor.elem_type], shape)  # pyright: ignore[reportArgumentType]

    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [spec(value) for value in model.graph.input if value.name not in initializers]
    return inputs, [spec(value) for value in model.graph.output]


@pytest.fixture(params=["small_bundle", "deep_bundle", "dynamic_bundle"])
def bundle(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def test_every_graph_of_a_bundle_takes_and_gives_what_its_record_says(bundle: Path) -> None:
    opened = open_bundle(bundle)
    records = bundle_graphs(opened.manifest)
    assert list(opened.manifest.graphs) == list(records)
    for name, entry in opened.manifest.graphs.items():
        inputs, outputs = in_file(onnx.load(opened.path(entry), load_external_data=False))
        assert inputs == list(entry.inputs) == list(records[name].inputs), name
        assert outputs == list(entry.outputs) == list(records[name].outputs), name
        assert entry.weights == GRAPHS[name].weights


def test_the_records_fit_shapes_written_by_hand() -> None:
    for deep in (False, True):
        manifest = example(deep=deep)
        records = bundle_graphs(manifest)
        assert records.keys() == manifest.graphs.keys()
        for name, entry in manifest.graphs.items():
            assert set(records[name].inputs) == set(entry.inputs), name
            assert set(records[name].outputs) == set(entry.outputs), name


def test_every_symbol_is_explained() -> None:
    tensors = [t for graph in GRAPHS.values() for t in (*graph.inputs, *graph.outputs)]
    used = {d for tensor in tensors for d in tensor.shape if isinstance(d, str)}
    assert used == SYMBOLS.keys()
    assert all(tensor.about for tensor in tensors)
    assert all(graph.about.endswith(".") for graph in GRAPHS.values())


@pytest.mark.parametrize("name", STEPS)
def test_a_shallow_step_takes_the_features_that_its_full_step_gives(name: str) -> None:
    graph = GRAPHS[name]
    if graph.full is None:
        assert graph.stage == name
        assert FEATURES in {tensor.name for tensor in graph.outputs}
        return
    full = GRAPHS[graph.full]
    assert (graph.stage, graph.rows, graph.weights) == (full.name, full.rows, full.weights)
    (given,) = (tensor for tensor in full.outputs if tensor.name == FEATURES)
    (taken,) = (tensor for tensor in graph.inputs if tensor.name == FEATURES)
    assert taken == given
    assert [t for t in graph.inputs if t != taken] == list(full.inputs)
    assert [t for t in full.outputs if t != given] == list(graph.outputs)


@pytest.mark.parametrize("name", STEPS)
def test_guided_steps_have_two_rows(name: str) -> None:
    inputs = {tensor.name: tensor for tensor in GRAPHS[name].inputs}
    guided = name.startswith("semantic_binding")
    assert GRAPHS[name].rows == inputs["sca_bias"].shape[0] == (2 if guided else 1)
    assert ("guidance_scale" in inputs) == guided


def test_graphs_share_a_stage_with_themselves_and_their_shallow_step() -> None:
    for name in GRAPHS:
        partners = {other for other in GRAPHS if share_stage(name, other)}
        stage = name.removesuffix("_shallow")
        assert partners == ({stage, f"{stage}_shallow"} if name in STEPS else {name})


def test_symbols_without_a_value_stay_free() -> None:
    graphs = bind({"C": 4, "N": 96, "D": 0, "S": 224}, "fp32")
    condition, decode = graphs["condition"], graphs["decode"]
    assert condition.inputs[0] == TensorSpec("image", "float32", (1, 3, "H", "W"))
    assert {tensor.name for tensor in condition.inputs} >= {"resize_rows", "resize_columns"}
    assert decode.outputs == (TensorSpec("frames", "uint8", ("n", "H", "W", 3)),)
    assert graphs.keys() == {"condition", "semantic_binding", "quality_improvement", "decode"}
    with pytest.raises(KeyError):
        sized(("n", "H"), {"n": 1})


def test_resize_matrices_are_inputs_only_if_height_or_width_is_free() -> None:
    for bound, free in (({"H": 64, "W": 96}, False), ({"H": 64}, True), ({"W": 96}, True), ({}, True)):
        inputs = {tensor.name for tensor in bind({**bound, "D": 0}, "fp32")["condition"].inputs}
        assert ({"resize_rows", "resize_columns"} <= inputs) == free
        assert ("resize_rows" in inputs) == free


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "float32"), ("fp16", "float16")])
def test_deep_features_have_the_precision_of_the_networks(precision: str, dtype: str) -> None:
    manifest = example(deep=True)
    graphs = bind({**manifest.geometry.bound(), "N": 96}, precision)  # pyright: ignore[reportArgumentType]
    assert graphs["semantic_binding"].outputs[-1] == TensorSpec(FEATURES, dtype, (2, 14, 32, 8, 12))  # pyright: ignore
    others = [t for g in graphs.values() for t in (*g.inputs, *g.outputs) if t.name != FEATURES]
    assert {tensor.dtype for tensor in others} == {"float32", "uint8"}


def test_an_input_added_to_a_record_is_one_of_the_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = GRAPHS["decode"]
    extra = replace(decode.inputs[0], name="extra", shape=("n", "F"), default=2.0)
    monkeypatch.setitem(GRAPHS, "decode", replace(decode, inputs=(*decode.inputs, extra)))  # pyright: ignore
    assert bundle_graphs(example())["decode"].inputs[-1] == TensorSpec("extra", "float32", ("n", 14))


def test_every_operator_that_may_be_in_a_graph_is_exported(
    small_bundle: Path, deep_bundle: Path, dynamic_bundle: Path
) -> None:
    """Opening these bundles has shown that no other is exported. More than these are those of half precision."""
    exported: set[str] = set()
    for root in (small_bundle, deep_bundle, dynamic_bundle):
        bundle = open_bundle(root, hashes=False)
        for file in graph_files(*bundle.manifest.graphs.values()):
            exported |= scan_graph(bundle.path(file).read_bytes()).operators
    assert exported < OPERATORS
    assert OPERATORS - exported == {"GroupNormalization", "Split", "Tile"}
