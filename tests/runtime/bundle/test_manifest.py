"""Manifests that are read, and manifests that are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import to_builtins
from msgspec.structs import fields

from vcut_runtime.manifest import (
    GRAPHS,
    SCHEMA_VERSION,
    BiasSlice,
    EngineEntry,
    EngineSet,
    FileEntry,
    GraphEntry,
    Guidance,
    Manifest,
    Model,
    Profile,
    Scheduler,
    SizeRange,
    TensorSpec,
    decode,
    describe_sizes,
    encode,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def engines(graphs: dict[str, GraphEntry]) -> EngineSet:
    """The engines of ``graphs``, of which decode takes 1 to 4 frames."""
    profile = Profile((1, 4, 8, 12), (4, 4, 8, 12), (4, 4, 8, 12))
    return EngineSet(
        library="tensorrt-rtx",
        version="1.7.1.116",
        compute_capability=None,
        gpu="NVIDIA A10G",
        engines={
            name: EngineEntry(
                file=f"engines/{name}.engine",
                bytes=2**33,
                sha256="ef" * 32,
                key="key",
                graph=graph.sha256,
                weights="cd" * 32,
                inputs=graph.inputs,
                outputs=graph.outputs,
                profile={"latents": profile} if name == "decode" else {},
                activation_bytes=2**30,
                weight_bytes=2**32,
                layers=1,
                build_seconds=12.5,
            )
            for name, graph in graphs.items()
        },
    )


def example() -> Manifest:
    """A bundle of 14 frames of 64x96 with engines, whose shapes fit together."""
    image, latents, video = (1, 3, 64, 96), (1, 4, 8, 12), (1, 14, 4, 8, 12)
    step = {"latents": video, "image_latents": latents, "sigma": (1,), "sigma_next": (1,), "added_time_ids": (1, 3)}
    sides: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "condition": (
            {"image": image, "noise": image, "noise_aug_strength": (1,)},
            {"image_latents": latents, "sca_bias": (2, 96)},
        ),
        "semantic_binding": ({**step, "sca_bias": (2, 96), "guidance_scale": (14,)}, {"next_latents": video}),
        "quality_improvement": ({**step, "sca_bias": (1, 96)}, {"next_latents": video}),
        "decode": ({"latents": ("n", 4, 8, 12)}, {"frames": ("n", 64, 96, 3)}),
    }
    graphs = {}
    for name in GRAPHS:
        inputs, outputs = (
            tuple(TensorSpec(key, "uint8" if key == "frames" else "float32", shape) for key, shape in side.items())
            for side in sides[name]
        )
        graphs[name] = GraphEntry(f"{name}.onnx", 1000, "ab" * 32, "unet", "key", inputs, outputs)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        vcut_version="0.1.0",
        model=Model(
            id="Stable Vidéo 动画",
            revision=None,
            random_weights=True,
            seed=0,
            configs={"unet": {"num_attention_heads": [5, 10], "deep": {"scaling_factor": 0.18215, "none": None}}},
        ),
        height=64,
        width=96,
        frames=14,
        latent_channels=4,
        vae_scale_factor=8,
        precision="fp32",
        tca="remove",
        steps=25,
        cut_step=17,
        guidance=Guidance(min=1.0, max=3.0),
        scheduler=Scheduler(0.002, 700.0, 7.0, 0.0, (700.0**2 + 1) ** 0.5),
        decode_chunk=4,
        sca_bias=(BiasSlice("down.0", "sca", 0, 64), BiasSlice("mid", "tca", 64, 32)),
        graphs=graphs,
        weights={"unet": FileEntry("unet.bin", 2**40, "cd" * 32)},
        engines={"tensorrt-rtx-portable": engines(graphs)},
    )


def plain() -> dict[str, Any]:
    """The example as parsed JSON, to be spoilt."""
    return json.loads(encode(example()))


def refusal(value: Any) -> str:
    """The one-line message that ``value``, bytes or JSON, is refused with."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(ValueError, match=r"^manifest\.json ") as caught:
        decode(data)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON tree."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in [(value, key), *places(inner)]]


def read_or_refused(data: bytes) -> None:
    """Anything but a manifest or a ValueError fails the test."""
    try:
        manifest = decode(data)
    except ValueError:
        return
    assert decode(encode(manifest)) == manifest


def test_decoding_returns_what_was_encoded() -> None:
    assert decode(encode(example())) == example()


def test_encoding_is_stable_indented_json() -> None:
    data = encode(example())
    assert encode(decode(data)) == data
    assert data == json.dumps(json.loads(data), indent=2, ensure_ascii=False).encode() + b"\n"


def test_sizes_follow_from_the_manifest() -> None:
    manifest = example()
    assert manifest.latent_shape == (4, 8, 12)
    assert manifest.bias_channels == 96
    onnx = [*(f"{name}.onnx" for name in GRAPHS), "unet.bin"]
    built = [f"engines/{name}.engine" for name in GRAPHS]
    assert [entry.file for entry in manifest.onnx_files()] == onnx
    assert [entry.file for entry in manifest.engine_files()] == built
    assert [entry.file for entry in manifest.files()] == [*onnx, *built]


def test_ranges_give_the_least_and_the_most() -> None:
    ranges = {"frames": SizeRange(2, 25, 1), "width": SizeRange(64, 128, 32)}
    manifest = decode(json.dumps({**plain(), "dynamic": to_builtins(ranges)}).encode())
    assert manifest.dynamic == ranges
    assert manifest.sizes == (14, 64, 96)
    assert (manifest.smallest, manifest.largest) == ((2, 64, 64), (25, 64, 128))
    assert manifest.latent_shape_of(manifest.largest) == (4, 8, 16)
    assert decode(encode(manifest)) == manifest
    assert describe_sizes(manifest.sizes, manifest.dynamic) == {
        "frames": "2..25",
        "height": "64",
        "width": "64..128 in steps of 32",
    }


def test_a_range_contains_its_multiples() -> None:
    found = SizeRange(64, 128, 32)
    assert [size for size in range(200) if size in found] == [64, 96, 128]


@pytest.mark.parametrize("found", [{}, {"min": 1, "max": 2}, {"min": "1", "max": 2, "multiple": 1}, [1, 2, 1], 3, None])
def test_a_range_of_another_form_is_refused(found: Any) -> None:
    assert "damaged" in refusal({**plain(), "dynamic": {"frames": found}})


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_manifests_without_engines_are_read(version: int) -> None:
    value = {**plain(), "schema_version": version}
    del value["engines"]
    manifest = decode(json.dumps(value).encode())
    assert manifest.engines == {}
    assert manifest.schema_version == version
    assert manifest.files() == manifest.onnx_files()


def test_the_schema_version_that_is_written() -> None:
    assert json.loads(encode(example()))["schema_version"] == SCHEMA_VERSION == 4


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 999, 2**70])
def test_newer_schema_is_refused_whatever_else_it_says(version: int) -> None:
    for value in ({"schema_version": version}, {**plain(), "schema_version": version, "new": 1}):
        assert refusal(value).endswith(
            f"schema version {version}, this vcut reads up to {SCHEMA_VERSION}: upgrade vcut"
        )


@pytest.mark.parametrize("version", [0, -1])
def test_impossible_schema_is_refused(version: int) -> None:
    message = refusal({**plain(), "schema_version": version})
    assert f"impossible schema version {version}" in message
    assert message.endswith("export the bundle again with --force")


def test_missing_schema_version_is_refused() -> None:
    value = plain()
    del value["schema_version"]
    for foreign in (value, {}, [], [1], 1, "1", None):
        assert refusal(foreign) == "manifest.json has no schema_version, so this is not a vcut bundle: check the path"


@pytest.mark.parametrize("version", ["1", 1.5, None, True, [1]])
def test_schema_version_of_another_type_is_refused(version: Any) -> None:
    assert "schema_version" in refusal({**plain(), "schema_version": version})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"not json",
        b"{",
        b"{'schema_version': 1}",
        b'{"schema_version": 1,}',
        b"PK\x03\x04",
        b"\x00",
        b"\xff",
    ],
)
def test_what_is_not_json_is_refused(data: bytes) -> None:
    message = refusal(data)
    assert "is not JSON" in message
    assert message.endswith("export the bundle again with --force")


@pytest.mark.parametrize("size", [1, 100, -3])
def test_truncated_manifest_is_refused(size: int) -> None:
    assert "is not JSON" in refusal(encode(example())[:size])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_other_encodings_are_refused(encoding: str) -> None:
    message = refusal(encode(example()).decode().encode(encoding))
    assert "is not JSON" in message
    assert message.endswith("export the bundle again with --force")


@pytest.mark.parametrize("field", [f.name for f in fields(Manifest) if f.required and f.name != "schema_version"])
def test_missing_field_is_named(field: str) -> None:
    value = plain()
    del value[field]
    message = refusal(value)
    assert f"missing required field `{field}`" in message
    assert message.endswith("export the bundle again with --force")


def test_missing_field_of_a_graph_is_named_with_its_place() -> None:
    value = plain()
    del value["graphs"]["decode"]["inputs"][0]["dtype"]
    message = refusal(value)
    assert "missing required field `dtype`" in message
    assert "$.graphs[...].inputs[0]" in message


@pytest.mark.parametrize("field", list(plain()["engines"]["tensorrt-rtx-portable"]["engines"]["decode"]))
def test_missing_field_of_an_engine_is_named(field: str) -> None:
    value = plain()
    del value["engines"]["tensorrt-rtx-portable"]["engines"]["decode"][field]
    message = refusal(value)
    assert f"missing required field `{field}`" in message
    assert "$.engines[...].engines[...]" in message


@pytest.mark.parametrize("field", ["library", "version", "compute_capability", "gpu", "engines"])
def test_missing_field_of_a_target_is_named(field: str) -> None:
    value = plain()
    del value["engines"]["tensorrt-rtx-portable"][field]
    assert f"missing required field `{field}`" in refusal(value)


@pytest.mark.parametrize(
    "record",
    [
        (),
        ("model",),
        ("scheduler",),
        ("guidance",),
        ("graphs", "decode"),
        ("sca_bias", 0),
        ("engines", "tensorrt-rtx-portable"),
        ("engines", "tensorrt-rtx-portable", "engines", "decode"),
        ("engines", "tensorrt-rtx-portable", "engines", "decode", "profile", "latents"),
    ],
)
def test_unknown_field_is_named(record: tuple[str | int, ...]) -> None:
    value = plain()
    inner: Any = value
    for key in record:
        inner = inner[key]
    inner["surprise"] = 1
    message = refusal(value)
    assert "unknown field `surprise`" in message
    assert message.endswith("export the bundle again with --force")


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("height", "64"),
        ("height", 64.5),
        ("height", True),
        ("width", None),
        ("steps", [25]),
        ("precision", "fp8"),
        ("tca", "keep"),
        ("vcut_version", 1),
        ("guidance", [1, 3]),
        ("scheduler", "karras"),
        ("sca_bias", {}),
        ("graphs", []),
        ("weights", {"unet": "unet.bin"}),
        ("engines", []),
        ("engines", {"tensorrt-rtx-portable": None}),
        ("engines", {"tensorrt-rtx-portable": {"library": "openvino"}}),
        ("model", None),
    ],
)
def test_wrong_type_is_named_with_its_place(field: str, wrong: Any) -> None:
    message = refusal({**plain(), field: wrong})
    assert f"at `$.{field}" in message
    assert message.endswith("export the bundle again with --force")


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode(data)


@settings(deadline=None)
@given(JSON)
def test_random_json_is_refused(value: Any) -> None:
    refusal(value)


@settings(deadline=None)
@given(st.data(), JSON)
def test_random_json_in_any_place_is_read_or_refused(data: st.DataObject, replacement: Any) -> None:
    value = plain()
    container, key = data.draw(st.sampled_from(places(value)))
    container[key] = replacement
    read_or_refused(json.dumps(value).encode())


@settings(deadline=None)
@given(st.data(), st.binary(min_size=1, max_size=4))
def test_random_bytes_in_any_place_are_read_or_refused(data: st.DataObject, replacement: bytes) -> None:
    valid = encode(example())
    at = data.draw(st.integers(0, len(valid)))
    read_or_refused(valid[:at] + replacement + valid[at + len(replacement) :])


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":' * 100_000,
        b'{"schema_version":1,"x":' + b"[" * 100_000,
        b'{"schema_version": 1, "vcut_version":"\xff"}',
        b'{"schema_version":1,"a\\nb":1}',
    ],
)
def test_hostile_json_is_refused_on_one_line(data: bytes) -> None:
    assert "export the bundle again" in refusal(data)
