"""``--verify`` compares every graph with torch and catches one that is off."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

from conftest import DYNAMIC
from exporting import again, state
from vcut_export import export
from vcut_runtime import VcutError


def test_the_least_sizes_are_verified_too(
    small_checkpoint: Path, dynamic_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vcut_export.verify as verify

    errors, seen = verify._errors, []
    monkeypatch.setattr(verify, "_errors", lambda *inputs: (seen.append(inputs[2]), errors(*inputs))[1])
    bundle = Path(shutil.copytree(dynamic_bundle, tmp_path / "bundle"))
    result = export(str(small_checkpoint), bundle, verify=True, **DYNAMIC)
    assert result.rebuilt == ()
    assert seen == [(4, 40, 28), (2, 24, 24)]
    assert 0 < max(result.errors.values()) <= 1e-4


def test_a_graph_beyond_its_tolerance_fails_the_export(
    small_checkpoint: Path, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vcut_export.verify as verify

    monkeypatch.setattr(verify, "TOLERANCE", {"fp32": 1e-12})
    before = state(bundle_copy)
    with pytest.raises(VcutError, match="more than 1e-12 for fp32"):
        again(small_checkpoint, bundle_copy, verify=True)
    with pytest.raises(VcutError, match="more than 1e-12 for fp32"):
        again(small_checkpoint, bundle_copy, steps=5, verify=True)
    assert state(bundle_copy) == before


def test_a_wrong_graph_is_caught(small_checkpoint: Path, bundle_copy: Path) -> None:
    """Zero a weight and vouch for it in the manifest: only the comparison with torch can tell."""
    from vcut_runtime.bundle import sha256

    model = onnx.load(bundle_copy / "onnx/semantic_binding.onnx", load_external_data=False)
    places = {t.name: {e.key: e.value for e in t.external_data} for t in model.graph.initializer if t.external_data}
    name = next(n for n in places if n.endswith("conv_in.weight"))
    weights = bundle_copy / "onnx/unet.weights"
    content = bytearray(weights.read_bytes())
    start, length = int(places[name]["offset"]), int(places[name]["length"])
    content[start : start + length] = bytes(length)
    weights.write_bytes(content)
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["weights"]["unet.weights"]["sha256"] = sha256(weights)
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(VcutError, match="graph semantic_binding is off by"):
        again(small_checkpoint, bundle_copy, verify=True)
