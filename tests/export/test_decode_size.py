"""A bundle whose decoder takes a fixed number of frames: exported, verified, run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vcut_engines.build import build
from vcut_export import export
from vcut_runtime import Pipeline, UsageError, open_bundle
from vcut_runtime.backends import open_backend

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chunked(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("chunked") / "bundle"
    result = export(
        str(small_checkpoint), bundle, precision="fp32", frames=9, decode_chunk=5, steps=2, low_memory=True, verify=True
    )
    assert max(result.errors.values()) < 1e-4
    return bundle


def test_the_manifest_says_so(chunked: Path) -> None:
    manifest = open_bundle(chunked).manifest
    assert (manifest.decode_chunk, manifest.decode_overlap, manifest.decode_frames) == (5, 1, 5)
    assert manifest.graphs["decode"].outputs[0].shape == (5, 32, 32, 3)


def test_frames_are_those_of_their_chunks(chunked: Path, photo: Image.Image) -> None:
    pipeline = Pipeline.load(chunked, "onnxruntime-cpu")
    last: list[np.ndarray] = []
    video = pipeline(photo, seed=1, callback=lambda step, latents: last.append(latents))
    backend = open_backend(pipeline.bundle, "onnxruntime-cpu")

    def decode(start: int) -> np.ndarray:
        inputs = {"latents": backend.upload(last[-1][0, start : start + 5])}
        return backend.download(backend.run("decode", inputs)["frames"])

    want = [decode(0)[:4], decode(3)[1:4], decode(4)[3:]]
    assert np.array_equal(video.frames, np.concatenate(want))
    plain = pipeline(photo, seed=1, decode_overlap=0).frames
    assert np.array_equal(plain[:5], decode(0))
    assert not np.array_equal(plain, video.frames)


def test_another_chunk_is_refused_with_what_to_do(chunked: Path, photo: Image.Image) -> None:
    with pytest.raises(UsageError, match="decodes 5 frames at a time: export it with --decode-chunk 3"):
        Pipeline.load(chunked, "onnxruntime-cpu")(photo, decode_chunk=3)
    with pytest.raises(UsageError, match="takes 5 frames at a time"):
        build(chunked, engines="tensorrt-rtx", decode_chunk=3)


def test_its_engine_has_no_free_dimension(chunked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setenv("VCUT_CACHE", str(tmp_path))
    copy = Path(shutil.copytree(chunked, tmp_path / "bundle"))
    engines = build(copy, engines="tensorrt-rtx").engines
    assert engines["decode"].profile == {}
    assert engines["decode"].inputs[0].shape[0] == 5
    open_bundle(copy)
