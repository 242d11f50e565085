"""Manifests that are read, and manifests that are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import fields

from example_manifest import TARGET, example
from vcut_runtime.bundle.manifest import SCHEMA_VERSION, Manifest, decode, encode

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def plain() -> dict[str, Any]:
    """Return the example as parsed JSON, for tests to damage."""
    return json.loads(encode(example()))


def refusal(value: Any) -> str:
    """Return the message, on one line, that ``value`` (bytes or JSON) is refused with."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(ValueError, match=r"^manifest\.json ") as caught:
        decode(data)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) in a JSON tree."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in [(value, key), *places(inner)]]


def read_or_refused(data: bytes) -> None:
    """Fail the test unless ``data`` is a manifest or is refused with a ValueError."""
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


def test_files_are_the_graphs_the_weights_and_the_engines() -> None:
    manifest = example()
    assert manifest.bias_channels == 96
    graphs = ["condition", "semantic_binding", "quality_improvement", "decode"]
    onnx = [*(f"{name}.onnx" for name in graphs), "unet.bin"]
    built = [f"engines/{name}.engine" for name in graphs]
    assert [entry.file for entry in manifest.onnx_files()] == onnx
    assert [entry.file for entry in manifest.engine_files()] == built
    assert [entry.file for entry in manifest.files()] == [*onnx, *built]
    assert manifest.sources("decode") == ("ab" * 32, "cd" * 32)


def test_steps_and_cut_step_are_those_of_the_schedule_vcut() -> None:
    manifest = example()
    assert (manifest.steps, manifest.cut_step) == (25, 17)
    assert manifest.schedule == manifest.schedules["vcut"]
    first = json.loads(encode(manifest))["schedules"]["vcut"][0]
    assert set(first) == {"sigma", "graph", "bias", "coefficients", "noise"}
    never = decode(json.dumps({**plain(), "schedules": {"vcut": plain()["schedules"]["exact"]}}).encode())
    assert (never.steps, never.cut_step) == (25, 26)


@pytest.mark.parametrize("row", [{}, {"sigma": 1.0}, [], 3, None])
def test_a_row_of_another_form_is_refused(row: Any) -> None:
    assert "damaged" in refusal({**plain(), "schedules": {"vcut": [row]}})


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("sigma", "1"),
        ("sigma", None),
        ("graph", 3),
        ("bias", "median"),
        ("coefficients", [1.0, 0.0]),
        ("coefficients", [1.0, 0.0, 0.0, 0.0]),
        ("noise", "some"),
        ("surprise", 1),
    ],
)
def test_a_wrong_field_of_a_row_is_refused_with_its_place(field: str, wrong: Any) -> None:
    value = plain()
    value["schedules"]["vcut"][3][field] = wrong
    message = refusal(value)
    assert "$.schedules[...][3]" in message
    assert message.endswith("export the bundle again with --force")


@pytest.mark.parametrize("wrong", [{}, {"min": 1, "max": 2}, {"min": "1", "max": 2, "multiple": 1}, [1, 2, 1], 3, None])
def test_a_range_of_another_form_is_refused(wrong: Any) -> None:
    assert "damaged" in refusal({**plain(), "dynamic": {"frames": wrong}})


def test_the_schema_version_that_is_written() -> None:
    assert json.loads(encode(example()))["schema_version"] == SCHEMA_VERSION == 5


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 999, 2**70])
def test_newer_schema_is_refused_whatever_else_it_says(version: int) -> None:
    for value in ({"schema_version": version}, {**plain(), "schema_version": version, "new": 1}):
        assert refusal(value).endswith(f"schema version {version}, this vcut reads {SCHEMA_VERSION}: upgrade vcut")


@pytest.mark.parametrize("version", [*range(-1, SCHEMA_VERSION)])
def test_older_schema_is_refused_whatever_else_it_says(version: int) -> None:
    for value in ({"schema_version": version}, {**plain(), "schema_version": version}):
        message = refusal(value)
        assert f"schema version {version}, this vcut reads {SCHEMA_VERSION}: " in message
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
        b"{'schema_version': 5}",
        b'{"schema_version": 5,}',
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


@pytest.mark.parametrize("field", [f.name for f in fields(Manifest) if f.name != "schema_version"])
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


@pytest.mark.parametrize("field", list(plain()["engines"][TARGET]["engines"]["decode"]))
def test_missing_field_of_an_engine_is_named(field: str) -> None:
    value = plain()
    del value["engines"][TARGET]["engines"]["decode"][field]
    message = refusal(value)
    assert f"missing required field `{field}`" in message
    assert "$.engines[...].engines[...]" in message


@pytest.mark.parametrize("field", ["library", "version", "compute_capability", "gpu", "engines"])
def test_missing_field_of_a_target_is_named(field: str) -> None:
    value = plain()
    del value["engines"][TARGET][field]
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
        ("engines", TARGET),
        ("engines", TARGET, "engines", "decode"),
        ("engines", TARGET, "engines", "decode", "profile", "latents"),
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
        ("schedules", [25]),
        ("schedules", {"vcut": 25}),
        ("precision", "fp8"),
        ("operators", "tpu"),
        ("operators", None),
        ("tca", "keep"),
        ("vcut_version", 1),
        ("guidance", [1, 3]),
        ("scheduler", "karras"),
        ("sca_bias", {}),
        ("graphs", []),
        ("weights", {"unet": "unet.bin"}),
        ("engines", []),
        ("engines", {TARGET: None}),
        ("engines", {TARGET: {"library": "openvino"}}),
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
        b'{"schema_version":5,"x":' + b"[" * 100_000,
        b'{"schema_version": 5, "vcut_version":"\xff"}',
        b'{"schema_version":5,"a\\nb":1}',
    ],
)
def test_hostile_json_is_refused_on_one_line(data: bytes) -> None:
    assert "export the bundle again" in refusal(data)
