"""An export rebuilds exactly the graphs that a change of options, weights or code affects."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import models
import vcut_export
from models import planned
from vcut_export import ExportOptions, resolve
from vcut_export.checkpoint import Checkpoint
from vcut_export.fingerprint import code_fingerprint
from vcut_export.options import ALL, STEPS
from vcut_runtime.bundle.graph import GRAPHS, Tensor

LORA = Path(__file__).parents[2] / "export/vcut_export/svd_tiny/unet/diffusion_pytorch_model.safetensors"  # any file
FULL_STEPS = {"semantic_binding", "quality_improvement"}
SHAPING = {f"{name}.py" for name in ("folders", "original", "original_names", "tensors", "weights")}
BEFORE: dict[str, Any] = {"width": 128, "operators": "gpu", "deep_cache": True}
CHANGED: dict[str, Any] = {
    "revision": "abc",
    "preset": "svd-xt",
    "unet": "fine-tune.safetensors",
    "random_weights": True,
    "seed": 1,
    "lora": (str(LORA),),
    "ignore_unexpected": True,
    "height": 128,
    "width": 192,
    "frames": 15,
    "dynamic": {"width": (64, 192)},
    "steps": 10,
    "cut_step": 20,
    "precision": "fp16",
    "operators": "cpu",
    "tca": "fold",
    "small_gpu": True,
    "deep_cache": False,
    "upcast_attention": True,
    "decode_chunk": 5,
}
NEEDED: dict[str, Any] = {"upcast_attention": {"precision": "fp16"}}


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return models.tiny()


def changed_keys(checkpoint: Checkpoint, before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Return the graphs that come, go or get another key."""
    old, new = planned(checkpoint, **before).keys, planned(checkpoint, **after).keys
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


@pytest.mark.parametrize("name", [field.name for field in fields(ExportOptions)])
def test_an_option_rebuilds_exactly_the_graphs_that_it_names(name: str, tiny: Checkpoint) -> None:
    (field,) = (field for field in fields(ExportOptions) if field.name == name)
    before = {**BEFORE, **NEEDED.get(name, {})}
    after = {**before, name: CHANGED[name]}
    assert getattr(planned(tiny, **after).options, name) != getattr(planned(tiny, **before).options, name)
    assert changed_keys(tiny, before, after) == set(field.metadata["rebuilds"])


@pytest.mark.parametrize(
    ("before", "after", "rebuilt"),
    [
        ({}, {"cut_step": "none"}, set()),
        ({}, {"cut_step": 17}, set()),  # the default
        ({}, {"height": 64, "frames": 14, "precision": "fp32"}, set()),  # the model's own
        ({}, {"decode_chunk": 14}, set()),  # the whole video, as by default
        ({}, {"dynamic": {"frames": (4, 14)}}, FULL_STEPS),  # a range of frames does not concern the image
        ({"dynamic": {"frames": (2, 14)}}, {"dynamic": {"frames": (2, 15)}}, FULL_STEPS),
        ({}, {"width": 128, "dynamic": {"width": (64, 128)}}, FULL_STEPS | {"condition", "decode"}),
        ({}, {"deep_cache": True}, set(STEPS)),
    ],
)
def test_an_option_counts_as_the_graphs_see_it(before: Any, after: Any, rebuilt: set[str], tiny: Checkpoint) -> None:
    assert changed_keys(tiny, before, after) == rebuilt


@pytest.mark.parametrize(
    ("before", "after", "chunks"),
    [
        ({"frames": 25}, {"frames": 20}, (11, 8)),
        ({"frames": 26}, {"frames": 27}, (10, 10)),
        ({"small_gpu": False}, {"small_gpu": True}, (11, 7)),
    ],
)
def test_the_decoder_is_rebuilt_too_if_the_default_chunk_changes(
    before: Any, after: Any, chunks: tuple[int, int]
) -> None:
    checkpoint = resolve("svd-xt", random_weights=True)
    assert tuple(planned(checkpoint, **options).geometry.decode_chunk for options in (before, after)) == chunks
    decode = {"decode"} if chunks[0] != chunks[1] else set()
    assert changed_keys(checkpoint, before, after) == FULL_STEPS | decode


def test_other_weights_rebuild_everything(tiny: Checkpoint) -> None:
    before, after = planned(tiny).keys, planned(models.tiny(seed=1)).keys
    assert all(before[name] != after[name] for name in before)


@pytest.mark.parametrize("name", ALL)
def test_another_input_rebuilds_its_graph_alone(name: str, tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    before, record = planned(tiny, deep_cache=True).keys, GRAPHS[name]
    monkeypatch.setitem(GRAPHS, name, replace(record, inputs=(*record.inputs, Tensor("dummy", (1,)))))  # pyright: ignore
    after = planned(tiny, deep_cache=True).keys
    assert {graph for graph in before if before[graph] != after[graph]} == {name}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package's code."""
    source = Path(vcut_export.__file__).parent
    return Path(shutil.copytree(source, tmp_path / "vcut_export", ignore=shutil.ignore_patterns("svd_tiny", "__*")))


def test_only_code_that_shapes_graphs_counts(package: Path) -> None:
    before = code_fingerprint(package)
    for path in package.rglob("*.py"):
        shaping = bool({"graphs", "lora"} & {*path.parts}) or path.name in SHAPING
        original = path.read_text("utf-8")
        path.write_text(f"{original}\n_EDITED = 1\n", "utf-8")
        assert (code_fingerprint(package) != before) == shaping, path
        path.write_text(original, "utf-8")
    assert code_fingerprint(package) == before


LAYER = '''"""A module's docstring."""


class Layer:
    """A class's docstring."""

    def forward(self, x):  # a comment
        """A function's docstring."""
        return x * 2
'''


def test_texts_and_layout_do_not_count(package: Path) -> None:
    layer = package / "graphs/rewrites/layer.py"
    layer.write_text(LAYER, "utf-8")
    before = code_fingerprint(package)
    layer.write_text(LAYER.replace("docstring", "text").replace("a comment", "a remark").replace("x * 2", "(x * 2)"))
    assert code_fingerprint(package) == before
    for old, new in (("x * 2", "x * 3"), ("Layer", "Other"), ("self, x", "self, x, y=1")):
        layer.write_text(LAYER.replace(old, new), "utf-8")
        assert code_fingerprint(package) != before, new


def test_new_and_renamed_modules_count(package: Path) -> None:
    before, folder = code_fingerprint(package), package / "graphs/rewrites"
    (folder / "more").mkdir()
    (folder / "more/layers.py").write_text("x = 1\n")
    added = code_fingerprint(package)
    (folder / "more/layers.py").rename(folder / "layers.py")
    assert len({before, added, code_fingerprint(package)}) == 3
