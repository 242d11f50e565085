"""Damaged and hostile bundles are refused by the C++ runtime with the words of the Python runtime."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import runpy
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from drills.graph_changes import large_expand
from fakes import add_fake_engines
from vcut_c import Bundle, Library, refusal
from vcut_runtime import BundleError, open_bundle

RUNTIME = Path(__file__).parents[1] / "runtime/bundle"
HOSTILE: dict[str, Any] = runpy.run_path(str(RUNTIME / "test_opening.py"))
CHECKS: dict[str, Any] = runpy.run_path(str(RUNTIME / "test_checks.py"))
Change = Callable[[dict[str, Any]], object]


def changes(module: dict[str, Any], test: str) -> list[Change]:
    """Return the changes to a manifest that a test of the Python runtime is run with."""
    (mark,) = (mark for mark in module[test].pytestmark if mark.name == "parametrize")
    return [case[0] for case in mark.args[1]]


def same_refusal(library: Library, folder: Path, *, hashes: bool = True) -> str | None:
    """Open a bundle with both runtimes, check that they agree, and return the refusal."""

    def opened() -> None:
        Bundle(library, folder, hashes=hashes).close()

    want = refusal(lambda: open_bundle(folder, hashes=hashes), [BundleError])
    got = refusal(opened)
    assert plain(got) == plain(want)
    assert got is None or "\n" not in got
    return got


def plain(message: str | None) -> str | None:
    """Return a message without the words of a JSON parser or of the system, which each runtime takes as they come."""
    if message is None:
        return None
    message = re.sub(r"(is not JSON|cannot be read) \(.*\)", r"\1", message)
    return re.sub(r"\d{19,}", "a large number", message)  # C++ holds sizes and counts up to 2^62


def compare(library: Library, folder: Path, cases: list[Change]) -> list[str | None]:
    """Return the refusals of a bundle after each change to its manifest that can be made there."""
    path, results = folder / "manifest.json", []
    before = path.read_bytes()
    for change in cases:
        manifest = json.loads(before)
        with suppress(IndexError):  # a row that this bundle's schedule does not have
            change(manifest)
        path.write_text(json.dumps(manifest))
        results.append(same_refusal(library, folder))
    path.write_bytes(before)
    return results


def test_manifests_that_the_python_runtime_refuses(library: Library, bundle_copy: Path) -> None:
    cases = changes(HOSTILE, "test_a_bad_manifest")
    results = compare(library, bundle_copy, cases)
    assert len(results) > 40
    assert all(results)
    assert same_refusal(library, bundle_copy) is None


def test_engines_that_the_python_runtime_refuses(library: Library, bundle_copy: Path) -> None:
    add_fake_engines(bundle_copy)
    assert same_refusal(library, bundle_copy) is None
    results = compare(library, bundle_copy, changes(HOSTILE, "test_a_bad_engine"))
    assert len(results) > 30
    assert all(results)


def test_bundles_with_shallow_steps_and_ranges(library: Library, dynamic_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(dynamic_bundle, tmp_path / "bundle"))
    cases = changes(HOSTILE, "test_deep_features_that_do_not_fit")
    cases += changes(HOSTILE, "test_a_manifest_that_its_ranges_do_not_fit")
    results = compare(library, folder, cases)
    assert sum(result is not None for result in results) > 8


def ranges() -> list[Change]:
    """Return the impossible ranges of the Python runtime's test."""
    (mark,) = (m for m in HOSTILE["test_a_bad_range"].pytestmark if m.name == "parametrize")

    def change(name: str, sizes: tuple[int, ...]) -> Change:
        given = dict(zip(("min", "max", "multiple"), sizes, strict=False))
        return lambda manifest: manifest.update(dynamic={name: given})

    return [change(name, sizes) for name, sizes, _ in mark.args[1]]


def test_impossible_ranges(library: Library, bundle_copy: Path) -> None:
    assert all(compare(library, bundle_copy, ranges()))


def test_hostile_schedules(library: Library, bundle_copy: Path) -> None:
    """The changes of the checks' own test, which were written for a longer schedule."""
    cases = changes(CHECKS, "test_a_hostile_schedule_is_refused_and_the_row_is_named")
    results = compare(library, bundle_copy, cases)
    assert sum(result is not None for result in results) > 8


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"graphs: yaml", b"[]", b"3", b"{}", b'{"schema_version": 1']
)
def test_manifests_that_are_none(library: Library, bundle_copy: Path, content: bytes) -> None:
    (bundle_copy / "manifest.json").write_bytes(content)
    assert same_refusal(library, bundle_copy)


@pytest.mark.parametrize(
    "damage", ["gone", "short", "changed", "linked out", "linked in", "linked to itself", "no graph", "folder"]
)
def test_damaged_files(library: Library, bundle_copy: Path, tmp_path: Path, damage: str) -> None:
    weights, graph = bundle_copy / "onnx/unet.weights", bundle_copy / "onnx/decode.onnx"
    content = weights.read_bytes()
    if damage == "no graph":
        graph.write_bytes(b"\x80\x04\x95pickle")
        HOSTILE["vouch"](bundle_copy, "decode")
    elif damage == "changed":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert same_refusal(library, bundle_copy, hashes=False) is None
    else:
        weights.unlink()
        if damage == "short":
            weights.write_bytes(content[:-100])
        elif damage == "linked out":
            (tmp_path / "outside").write_bytes(content)
            weights.symlink_to(tmp_path / "outside")
        elif damage == "linked in":
            (bundle_copy / "elsewhere").write_bytes(content)
            weights.symlink_to(bundle_copy / "elsewhere")
        elif damage == "linked to itself":
            weights.symlink_to(weights)
        elif damage == "folder":
            weights.mkdir()
    assert same_refusal(library, bundle_copy)


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret.weights", "other.weights", "decode.weights/../x"])
def test_a_graph_that_reads_another_file(library: Library, bundle_copy: Path, location: str) -> None:
    import onnx

    path = bundle_copy / "onnx/decode.onnx"
    model = onnx.load(path, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.external_data)
    next(entry for entry in tensor.external_data if entry.key == "location").value = location
    path.write_bytes(model.SerializeToString())
    HOSTILE["vouch"](bundle_copy, "decode")
    assert "which the manifest does not list" in (same_refusal(library, bundle_copy) or "")


@pytest.mark.parametrize(("operator", "domain"), [("Loop", ""), ("If", ""), ("Add", "hostile"), ("\x1b[2J", "")])
def test_an_operator_that_is_never_exported(library: Library, bundle_copy: Path, operator: str, domain: str) -> None:
    import onnx

    path = bundle_copy / "onnx/decode.onnx"
    model = onnx.load(path, load_external_data=False)
    model.graph.node[0].op_type, model.graph.node[0].domain = operator, domain
    path.write_bytes(model.SerializeToString())
    HOSTILE["vouch"](bundle_copy, "decode")
    assert "which vcut never exports" in (same_refusal(library, bundle_copy) or "")


def test_a_size_that_no_video_needs(library: Library, bundle_copy: Path) -> None:
    import onnx

    path = bundle_copy / "onnx/decode.onnx"
    model = onnx.load(path, load_external_data=False)
    large_expand(model, random.Random(0))
    path.write_bytes(model.SerializeToString())
    HOSTILE["vouch"](bundle_copy, "decode")
    assert "which no video of this bundle needs" in (same_refusal(library, bundle_copy) or "")


UNETS: list[dict[str, Any]] = [
    {},
    {"layers_per_block": 2.0},
    {"layers_per_block": [1, 2, 3, 0]},
    {"layers_per_block": [1, 2]},
    {"transformer_layers_per_block": 65},
    {"num_attention_heads": []},
    {"num_attention_heads": None, "in_channels": "8"},
    {"block_out_channels": []},
    {"block_out_channels": [8] * 9},
    {"block_out_channels": [8, 2**70, 8, 8]},
    {"block_out_channels": 320},
    {"block_out_channels": [320]},
    {"down_block_types": "x"},
    {"down_block_types": ["a", 3]},
    {"up_block_types": ["a"]},
    {"in_channels": -(2**70)},
    {"out_channels": True},
    {"projection_class_embeddings_input_dim": 2**17, "unknown": 2**17},
]


def test_configurations_of_a_unet(library: Library, bundle_copy: Path) -> None:
    def change(unet: dict[str, Any]) -> Change:
        return lambda manifest: manifest["model"]["configs"].update(unet=unet)

    results = compare(library, bundle_copy, [change(unet) for unet in UNETS])
    assert results[0] is None
    assert all(results[1:])


def changed(path: str, value: Any) -> Change:
    """Return the change of one value, whose keys are joined by ``/``."""
    return HOSTILE["set_value"](path, value)


EXTREMES = [
    changed("guidance/max", 2**70),  # a float, though a large one
    changed("model/seed", -(2**63)),
    changed("model/seed", -(2**63) + 1),
    changed("model/configs/vae", {"scale": 3.5e38}),
    changed("decode_overlap", 2**62),
    changed("latent_channels", -(2**70)),
    changed("sca_bias", [{"block": "a", "kind": "sca", "offset": 0, "channels": 2**63 - 1}] * 3),
    changed("graphs/decode/file", "onnx/\x1b[2J\u202e\n.onnx"),
    changed("graphs/decode/file", "onnx/" + "é" * 3000),
    changed("graphs/decode/weights", "\x07\xa0'"),
]


def test_extreme_numbers_and_names(library: Library, bundle_copy: Path) -> None:
    results = compare(library, bundle_copy, EXTREMES)
    assert sum(result is None for result in results) == 2


def test_a_large_manifest_is_not_read(library: Library, bundle_copy: Path) -> None:
    with (bundle_copy / "manifest.json").open("r+b") as file:
        file.truncate(3 << 30)  # takes no room on the disk
    assert "more than 16777216 bytes" in (same_refusal(library, bundle_copy) or "")


def test_no_bundle(library: Library, tmp_path: Path, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert same_refusal(library, tmp_path / "nothing")
    assert same_refusal(library, tmp_path)
    assert same_refusal(library, tmp_path / ("x" * 300))
    (tmp_path / "link").symlink_to(bundle_copy)
    assert same_refusal(library, tmp_path / "link") is None
    monkeypatch.chdir(bundle_copy)
    for name in (".", "../bundle/", os.fspath(bundle_copy) + "/"):
        Bundle(library, name).close()  # pyright: ignore[reportArgumentType]


VALUES: list[Any] = [None, True, 0, 1, -1, 3, 2**31, 2**70, 0.5, -0.5, 1e39, "", "x", "fp16", [], [1, 2], {}, {"a": 1}]


def mutated(manifest: Any, draw: random.Random) -> Any:
    """Return a copy with one value replaced, removed or added, anywhere."""
    result = copy.deepcopy(manifest)
    places: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            places.append((value, key))
            collect(inner)

    collect(result)
    container, key = draw.choice(places)
    kind = draw.randrange(4)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container["surprise"] = draw.choice(VALUES)
    else:
        container[key] = draw.choice(VALUES)
    return result


def test_random_changes_are_read_or_refused_alike(library: Library, dynamic_bundle: Path, tmp_path: Path) -> None:
    folder, draw = Path(shutil.copytree(dynamic_bundle, tmp_path / "bundle")), random.Random(0)
    add_fake_engines(folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    refused = 0
    for _ in range(int(os.environ.get("VCUT_MUTATIONS", "150"))):
        path.write_text(json.dumps(mutated(manifest, draw)))
        refused += same_refusal(library, folder, hashes=False) is not None
    assert refused > 75
