"""Damaged, foreign and hostile bundles are refused on one line, before any graph is loaded."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from drills.graph_changes import large_expand
from fakes import add_fake_engines
from places import close
from vcut_runtime import BundleError, Pipeline, open_bundle
from vcut_runtime.bundle import sha256


def refused(bundle: Path, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that loading ``bundle`` fails on one line that contains ``says``, and creates no session."""
    import onnxruntime

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a graph of a bad bundle was loaded")

    monkeypatch.setattr(onnxruntime, "InferenceSession", loaded)
    with pytest.raises(BundleError, match=says) as caught:
        Pipeline.load(bundle)
    assert "\n" not in str(caught.value)
    assert str(bundle) in str(caught.value)


def test_a_good_bundle_opens(small_bundle: Path) -> None:
    bundle = open_bundle(small_bundle)
    assert bundle.manifest.bias_channels == sum(entry.channels for entry in bundle.manifest.sca_bias)


def test_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(tmp_path / "nothing", "no bundle at", monkeypatch)


def test_no_manifest(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bundle_copy / "manifest.json").unlink()
    refused(bundle_copy, "has no manifest.json", monkeypatch)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"graphs: yaml", b'{"schema_version": 1'])
def test_not_json(bundle_copy: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    (bundle_copy / "manifest.json").write_bytes(content)
    refused(bundle_copy, "not JSON|not a vcut bundle", monkeypatch)


@pytest.mark.parametrize("content", ["[]", "3", "null", "{}", '{"model_type": "bert"}', '{"schema_version": "one"}'])
def test_a_foreign_manifest(bundle_copy: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (bundle_copy / "manifest.json").write_text(content)
    refused(bundle_copy, "not a vcut bundle", monkeypatch)


def set_value(path: str, value: object) -> Callable[[dict], None]:
    def change(manifest: dict) -> None:
        *parents, last = path.split("/")
        for parent in parents:
            manifest = manifest[parent]
        manifest[last] = value

    return change


def delete(path: str) -> Callable[[dict], None]:
    def change(manifest: dict) -> None:
        *parents, last = path.split("/")
        for parent in parents:
            manifest = manifest[parent]
        del manifest[last]

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (set_value("schema_version", 6), "schema version 6, this vcut reads 5: upgrade"),
        (set_value("schema_version", 4), "schema version 4, this vcut reads 5: export the bundle again with --force"),
        (set_value("schema_version", 0), "schema version 0, this vcut reads 5: export the bundle again with --force"),
        (set_value("extra", 1), "damaged"),
        (delete("scheduler"), "damaged"),
        (set_value("height", "tall"), "damaged"),
        (set_value("precision", "fp8"), "damaged"),
        (set_value("operators", "tpu"), "damaged"),
        (delete("operators"), "damaged"),
        (delete("graphs/decode"), "lacks the graph decode"),
        (set_value("graphs/decode/file", "/etc/passwd"), "outside the bundle"),
        (set_value("graphs/decode/file", "../decode.onnx"), "outside the bundle"),
        (set_value("graphs/decode/file", "onnx/../../decode.onnx"), "outside the bundle"),
        (set_value("graphs/decode/file", "C:\\decode.onnx"), "outside the bundle"),
        (set_value("graphs/decode/file", ""), "outside the bundle"),
        (set_value("weights/unet.weights/file", "/dev/zero"), "outside the bundle"),
        (set_value("graphs/decode/file", "onnx/\0"), "cannot be read|is missing"),
        (set_value("graphs/decode/file", "onnx/" + "x" * 300), "cannot be read|is missing"),
        (set_value("scheduler/rho", 0), "scheduler constants are impossible"),
        (set_value("scheduler/sigma_min", -1.0), "scheduler constants are impossible"),
        (set_value("scheduler/sigma_max", 1e39), "scheduler constants are impossible"),
        (set_value("scheduler/rho", 0.01), "scheduler constants are impossible"),
        (set_value("scheduler/rho", 1e30), "scheduler constants are impossible"),
        (set_value("scheduler/final_sigma", -1.0), "scheduler constants are impossible"),
        (set_value("scheduler/final_sigma", 0.01), "scheduler constants are impossible"),
        (set_value("scheduler/initial_noise_scale", 0.0), "scheduler constants are impossible"),
        (set_value("guidance/max", 1e39), "1e\\+39, which is not finite in float32"),
        (set_value("model/seed", 10**20), "100000000000000000000, which is too large"),
        (lambda m: m["model"]["configs"].update(unet={"layers_per_block": 10**9}), "UNet is impossible"),
        (lambda m: m["model"]["configs"].update(vae={"deep": json.loads("[" * 50 + "]" * 50)}), "too deeply"),
        (set_value("graphs/decode/bytes", 8 * 10**9), "8000000000 bytes, more than 16777216"),
        (set_value("latent_channels", 2**40), "a size that is too large"),
        (set_value("height", 2**40), "a size that is too large"),
        (set_value("dynamic", {"frames": {"min": 1, "max": 10**9, "multiple": 1}}), "a size that is too large"),
        (
            lambda m: m["schedules"].update(
                long=[{**row, "sigma": s} for s in range(1001, 0, -1) for row in m["schedules"]["vcut"][:1]]
            ),
            "it has 1001 steps",
        ),
        (lambda m: m["schedules"]["vcut"][1].update(sigma=m["schedules"]["vcut"][0]["sigma"] * (1 - 1e-9)), "not fall"),
        (set_value("graphs/decode/sha256", "0" * 64), "does not match its sha256"),
        (set_value("graphs/decode/sha256", "none"), "no sha256"),
        (set_value("weights/unet.weights/sha256", "0" * 64), "does not match its sha256"),
        (set_value("graphs/decode/weights", "other"), "unlisted weights"),
        (set_value("graphs/decode/weights", "unet.weights"), "which the manifest does not list"),
        (set_value("cut_step", 6), "damaged"),  # of format 4
        (delete("schedules/vcut"), "lacks the schedule 'vcut'"),
        (set_value("schedules/vcut", []), "schedule 'vcut' is impossible, it has no step"),
        (lambda m: m["schedules"]["exact"][1].update(sigma=1e39), "schedule 'exact' is impossible, step 2 has"),
        (lambda m: m["schedules"]["vcut"][1].update(sigma=1e9), "sigma does not fall at step 2"),
        (lambda m: m["schedules"]["vcut"][1].update(noise=-0.5), "step 2 has an impossible"),
        (lambda m: m["schedules"]["vcut"][1].update(graph="upscale"), "'upscale', which is not a step graph"),
        (lambda m: m["schedules"]["vcut"][3].update(bias="both"), "'both' to quality_improvement"),
        (lambda m: m["schedules"]["vcut"][1].update(graph="semantic_binding_shallow"), "not a step graph"),
        (lambda m: m["graphs"].update(upscale=m["graphs"]["decode"]), "has an unknown graph upscale"),
        (set_value("frames", 0), "below 1"),
        (set_value("frames", 4), "does not fit its sizes"),
        (set_value("height", 64), "does not fit its sizes"),
        (set_value("decode_chunk", 0), "below 1"),
        (set_value("deep_features", 32), "lacks the graph semantic_binding_shallow"),
        (lambda m: m["sca_bias"][0].update(offset=32), "do not follow each other"),
        (lambda m: m["sca_bias"].pop(), "does not fit its sizes"),
        (lambda m: m["graphs"]["condition"]["inputs"].pop(), "does not fit its sizes"),
    ],
)
def test_a_bad_manifest(
    change: Callable[[dict], object],
    says: str,
    edit_manifest: Callable[[Callable[[dict], object]], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused(edit_manifest(change), says, monkeypatch)


@pytest.mark.parametrize("file", ["onnx/condition.onnx", "onnx/unet.weights"])
def test_a_missing_file(bundle_copy: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (bundle_copy / file).unlink()
    refused(bundle_copy, f"{file} is missing", monkeypatch)


def test_truncated_weights(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = bundle_copy / "onnx/unet.weights"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(bundle_copy, "instead of", monkeypatch)


def test_one_flipped_bit(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = bundle_copy / "onnx/unet.weights"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    refused(bundle_copy, "does not match its sha256", monkeypatch)


def test_a_link_out_of_the_bundle(bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = bundle_copy / "onnx/unet.weights"
    outside = tmp_path / "unet.weights"
    shutil.move(weights, outside)
    weights.symlink_to(outside)
    refused(bundle_copy, r"unet\.weights is a link, or lies in one: put the file itself there", monkeypatch)


def test_a_link_to_itself(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = bundle_copy / "onnx/unet.weights"
    weights.unlink()
    weights.symlink_to(weights)
    refused(bundle_copy, "cannot be read|is missing", monkeypatch)


def test_a_linked_bundle_opens(small_bundle: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(small_bundle)
    assert open_bundle(link).manifest.frames == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (set_value("deep_features", 0), "has an unknown graph semantic_binding_shallow"),
        (set_value("deep_features", 64), "shape of 'deep_features' in graph semantic_binding does not fit its sizes"),
        (set_value("deep_features", -32), "below 0"),
        (delete("graphs/quality_improvement_shallow"), "lacks the graph quality_improvement_shallow"),
        (
            lambda m: m["schedules"]["vcut"][0].update(graph="semantic_binding_shallow"),
            "step 1 is shallow, and no semantic_binding step comes before it",
        ),
        (
            lambda m: m["schedules"]["vcut"][4].update(graph="quality_improvement_shallow"),
            "step 5 is shallow, and no quality_improvement step comes before it",
        ),
        (set_value("precision", "fp16"), "shape of 'deep_features' in graph semantic_binding does not fit its sizes"),
    ],
)
def test_deep_features_that_do_not_fit(
    deep_bundle: Path, tmp_path: Path, change: Callable[[dict], object], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Path(shutil.copytree(deep_bundle, tmp_path / "bundle"))
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    refused(bundle, says, monkeypatch)


ENGINES = "engines/tensorrt-rtx-sm86"
DECODE = f"{ENGINES}/engines/decode"


def engine_of_another_graph(manifest: dict) -> None:
    """List the engine of a conditional step as that of a guided one; its hashes and profile are right."""
    engines = manifest["engines"]["tensorrt-rtx-sm86"]["engines"]
    engines["semantic_binding"] = engines["quality_improvement"]


def first_input(**change: object) -> Callable[[dict], None]:
    def apply(manifest: dict) -> None:
        manifest["engines"]["tensorrt-rtx-sm86"]["engines"]["condition"]["inputs"][0].update(change)

    return apply


def profile(low: int, mid: int, high: int, rest: tuple[int, ...] = (4, 8, 8)) -> dict:
    return {side: [size, *rest] for side, size in (("min", low), ("opt", mid), ("max", high))}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (set_value(f"{DECODE}/file", "/etc/passwd"), "outside the bundle"),
        (set_value(f"{DECODE}/file", "../decode.engine"), "outside the bundle"),
        (set_value(f"{DECODE}/file", "engines/../../decode.engine"), "outside the bundle"),
        (set_value(f"{DECODE}/file", "C:\\decode.engine"), "outside the bundle"),
        (set_value(f"{DECODE}/file", ""), "outside the bundle"),
        (set_value(f"{DECODE}/file", "engines/none.engine"), "engines/none.engine is missing"),
        (set_value(f"{DECODE}/file", "engines"), "is missing"),
        (set_value(f"{DECODE}/sha256", "0" * 64), "does not match its sha256"),
        (set_value(f"{DECODE}/sha256", "none"), "no sha256"),
        (set_value(f"{DECODE}/bytes", 1), "instead of 1"),
        (set_value(f"{DECODE}/bytes", -1), "instead of -1"),
        (set_value(f"{DECODE}/extra", 1), "damaged"),
        (set_value(f"{DECODE}/layers", "many"), "damaged"),
        (delete(f"{DECODE}/profile"), "damaged"),
        (set_value(f"{ENGINES}/library", "openvino"), "damaged"),
        (set_value(f"{ENGINES}/engines/encode", {}), "damaged"),
        (
            lambda m: m["engines"]["tensorrt-rtx-sm86"]["engines"].update(
                encode=m["engines"]["tensorrt-rtx-sm86"]["engines"]["decode"]
            ),
            "unknown graph 'encode'",
        ),
        (set_value(f"{DECODE}/graph", "0" * 64), "built from another graph"),
        (set_value(f"{DECODE}/weights", "0" * 64), "built from another graph"),
        (engine_of_another_graph, "built from another graph"),
        (set_value(f"{DECODE}/inputs", []), "profile of engine decode"),
        (set_value(f"{DECODE}/outputs", []), "shape of 'frames' in engine decode.*does not fit"),
        (lambda m: m["engines"]["tensorrt-rtx-sm86"]["engines"]["condition"]["inputs"].pop(), "does not fit its sizes"),
        (first_input(shape=[1, 3, 10**6, 10**6]), "shape of 'image' in engine condition.*does not fit its sizes"),
        (first_input(dtype="uint8"), "shape of 'image' in engine condition.*does not fit its sizes"),
        (set_value(f"{DECODE}/profile", {}), "profile of engine decode"),
        (set_value(f"{DECODE}/profile/noise", profile(1, 2, 2)), "profile of engine decode"),
        (set_value(f"{ENGINES}/engines/condition/profile", {"image": profile(1, 1, 1)}), "profile of engine condition"),
        (set_value(f"{DECODE}/profile/latents", profile(0, 1, 2)), "profile of engine decode"),
        (set_value(f"{DECODE}/profile/latents", profile(2, 1, 2)), "profile of engine decode"),
        (set_value(f"{DECODE}/profile/latents", profile(1, 3, 2)), "profile of engine decode"),
        (set_value(f"{DECODE}/profile/latents", profile(-1, -1, -1)), "profile of engine decode"),
        (set_value(f"{DECODE}/profile/latents", profile(1, 2, 2, (4, 8))), "profile of engine decode"),
        (set_value(f"{DECODE}/profile/latents", profile(1, 2, 2, (4, 9, 8))), "profile of engine decode"),
        (set_value(f"{DECODE}/activation_bytes", -1), "negative size"),
        (set_value(f"{DECODE}/weight_bytes", -(10**12)), "negative size"),
    ],
)
def test_a_bad_engine(
    bundle_copy: Path,
    change: Callable[[dict], object],
    says: str,
    edit_manifest: Callable[[Callable[[dict], object]], Path],
) -> None:
    add_fake_engines(bundle_copy)
    open_bundle(bundle_copy)
    edit_manifest(change)
    with pytest.raises(BundleError) as caught:
        open_bundle(bundle_copy)
    message = str(caught.value)
    assert re.search(says, message)
    assert len(message.splitlines()) == 1
    assert message.startswith(str(bundle_copy))


@pytest.mark.parametrize("how", ["gone", "short", "changed", "linked"])
def test_a_bad_engine_file(bundle_copy: Path, tmp_path: Path, how: str) -> None:
    target = add_fake_engines(bundle_copy)
    path = bundle_copy / "engines" / target / "decode.engine"
    data = path.read_bytes()
    path.unlink()
    if how == "short":
        path.write_bytes(data[:-1])
    elif how == "changed":
        path.write_bytes(data[:-1] + b" ")
    elif how == "linked":
        (tmp_path / "outside").write_bytes(data)
        path.symlink_to(tmp_path / "outside")
    says = {"gone": "is missing", "short": "bytes instead of", "changed": "sha256", "linked": "is a link"}
    with pytest.raises(BundleError, match=says[how]) as caught:
        open_bundle(bundle_copy)
    assert "decode.engine" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    if how == "changed":
        open_bundle(bundle_copy, hashes=False)  # reads no large file


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret.weights", "other.weights", "decode.weights/../x"])
def test_a_graph_that_reads_another_file(bundle_copy: Path, location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest has the graph's hash, but the graph names another file."""
    path = bundle_copy / "onnx/decode.onnx"
    model = onnx.load(path, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.external_data)
    next(entry for entry in tensor.external_data if entry.key == "location").value = location
    path.write_bytes(model.SerializeToString())
    (bundle_copy / "onnx/other.weights").write_bytes(b"secret")
    vouch(bundle_copy, "decode")
    refused(bundle_copy, "which the manifest does not list", monkeypatch)


def test_a_large_manifest_is_not_read(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (bundle_copy / "manifest.json").open("r+b") as file:
        file.truncate(3 << 30)  # takes no room on the disk
    refused(bundle_copy, "manifest.json has more than 16777216 bytes", monkeypatch)


@pytest.mark.parametrize(("operator", "domain"), [("Loop", ""), ("If", ""), ("PyOp", "hostile"), ("Add", "hostile")])
def test_an_operator_that_is_never_exported(
    bundle_copy: Path, operator: str, domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endless Loop would ignore an interrupt."""
    path = bundle_copy / "onnx/decode.onnx"
    model = onnx.load(path, load_external_data=False)
    model.graph.node[0].op_type, model.graph.node[0].domain = operator, domain
    path.write_bytes(model.SerializeToString())
    vouch(bundle_copy, "decode")
    name = f"{domain}::{operator}" if domain else operator
    refused(bundle_copy, f"decode.onnx has the operator '{name}', which vcut never exports", monkeypatch)


def test_a_size_that_no_video_needs(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bundle_copy / "onnx/decode.onnx"
    model = onnx.load(path, load_external_data=False)
    large_expand(model, random.Random(0))
    path.write_bytes(model.SerializeToString())
    vouch(bundle_copy, "decode")
    refused(bundle_copy, "which no video of this bundle needs", monkeypatch)


def test_a_link_inside_the_bundle(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime would refuse it only when the graph is loaded."""
    weights = bundle_copy / "onnx/unet.weights"
    weights.rename(bundle_copy / "elsewhere")
    weights.symlink_to(bundle_copy / "elsewhere")
    refused(bundle_copy, "unet.weights is a link", monkeypatch)


@pytest.mark.parametrize("name", ["x" * 300, "closed/bundle"])
def test_a_place_that_cannot_be_looked_at(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    close(tmp_path / "closed", monkeypatch)
    refused(tmp_path / name, r"cannot be read \((File name too long|Permission denied)\): check the path", monkeypatch)


def test_a_graph_that_is_no_onnx(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bundle_copy / "onnx/decode.onnx").write_bytes(b"\x80\x04\x95pickle")
    vouch(bundle_copy, "decode")
    refused(bundle_copy, "is not an ONNX graph", monkeypatch)


def vouch(bundle: Path, graph: str) -> None:
    """Make the manifest agree with a changed graph file. The author of a hostile bundle can do that."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    file = bundle / manifest["graphs"][graph]["file"]
    manifest["graphs"][graph].update(bytes=file.stat().st_size, sha256=sha256(file))
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("name", "sizes", "says"),
    [
        ("frames", (0, 3, 1), "range of frames is impossible"),
        ("frames", (4, 3, 1), "range of frames is impossible"),
        ("frames", (-(2**70), 2**70, 1), "too large"),
        ("frames", (1, 2, 1), "frames is outside its own range"),
        ("frames", (1, 3, 0), "range of frames is impossible"),
        ("frames", (1, 3, -1), "range of frames is impossible"),
        ("height", (30, 32, 4), "range of height is impossible"),
        ("height", (31, 33, 1), "range of height is impossible"),  # half a latent pixel
        ("width", (36, 64, 4), "width is outside its own range"),
        ("depth", (1, 2, 1), "damaged"),
        ("frames", (1, 3), "damaged"),
        ("frames", (3, 64, 1), "shape of .* does not fit its sizes"),  # the graphs take only 3 frames
        ("height", (16, 64, 4), "shape of .* does not fit its sizes"),
    ],
)
def test_a_bad_range(
    name: str,
    sizes: tuple[int, ...],
    says: str,
    edit_manifest: Callable[[Callable[[dict], object]], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = dict(zip(("min", "max", "multiple"), sizes, strict=False))
    refused(edit_manifest(set_value("dynamic", {name: given})), says, monkeypatch)


def without_ranges(manifest: dict) -> None:
    manifest.update(dynamic={}, decode_chunk=manifest["frames"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without_ranges, "does not fit its sizes"),
        (set_value("model/configs/image_encoder/image_size", "224"), "no size of the image encoder"),
        (set_value("model/configs/image_encoder/image_size", 225), "shape of 'resize_rows'"),
        (set_value("decode_chunk", 6), "decode_chunk is longer than its videos"),
        (delete("dynamic/width"), "does not fit its sizes"),
    ],
)
def test_a_manifest_that_its_ranges_do_not_fit(
    dynamic_bundle: Path, tmp_path: Path, change: Callable[[dict], object], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(dynamic_bundle, tmp_path / "bundle"))
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    refused(copy, says, monkeypatch)
