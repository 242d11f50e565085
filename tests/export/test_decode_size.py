"""How many frames are decoded at a time, and bundles whose decoder takes a fixed number of frames."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import models
from conftest import FP32, Once
from models import planned
from vcut_engines import build
from vcut_export import export, resolve
from vcut_export.decode_size import decode_context, default_decode_chunk
from vcut_export.graphs.maker import frames_at_once
from vcut_runtime import Pipeline, UsageError, open_bundle
from vcut_runtime.backends import open_backend
from vcut_runtime.decoding import decode_chunks


@pytest.mark.parametrize(
    ("model", "size", "small_gpu", "chunk", "overlap", "exactly"),
    [
        ("svd-xt", (576, 1024), False, 11, 2, True),
        ("svd-xt", (576, 1024), True, 7, 2, True),
        ("svd-xt", (1152, 2048), False, 11, 2, True),
        ("svd", (576, 1024), False, 6, 1, True),
        ("svd-xt", (64, 96), False, 25, 0, False),
    ],
)
def test_decoding_stays_below_the_unet_by_default(
    model: str, size: tuple[int, int], small_gpu: bool, chunk: int, overlap: int, exactly: bool
) -> None:
    checkpoint = resolve(model, random_weights=True)
    plan = planned(checkpoint, height=size[0], width=size[1], small_gpu=small_gpu)
    assert (plan.geometry.decode_chunk, plan.decode_overlap) == (chunk, overlap)
    assert plan.geometry.decode_frames == (chunk if exactly else None)


@given(frames=st.integers(1, 200), pixels=st.integers(64, 1 << 22), small=st.booleans())
def test_chunks_by_default_have_their_context_and_are_no_larger_than_need_be(
    frames: int, pixels: int, small: bool
) -> None:
    chunk = default_decode_chunk(pixels, frames, "fp16", small)
    assert 1 <= chunk <= frames
    if chunk < frames:
        context = decode_context(chunk)
        count = len(decode_chunks(frames, chunk, context))
        if chunk - 1 > 2 * context:
            assert len(decode_chunks(frames, chunk - 1, context)) > count


def test_a_given_decode_chunk() -> None:
    tiny = models.tiny()
    plan = planned(tiny, decode_chunk=5)
    assert (plan.geometry.decode_frames, plan.decode_overlap, frames_at_once(plan)) == (5, 1, 1)
    assert planned(tiny, decode_chunk=14).geometry.decode_frames is None
    with pytest.raises(UsageError, match=r"1\.\.14"):
        planned(tiny, decode_chunk=15)
    with pytest.raises(UsageError, match="at least 1"):
        planned(tiny, decode_chunk=0)


def test_a_decoder_in_chunks_serves_the_shortest_video_too() -> None:
    checkpoint = resolve("svd-xt", random_weights=True)
    plans = [planned(checkpoint, dynamic={"frames": (least, 25)}) for least in (14, 5, 1)]
    assert [(p.geometry.decode_frames, p.decode_overlap) for p in plans] == [(11, 2), (5, 1), (1, 0)]
    free = {"height": (64, 576), "width": (128, 1024)}
    small = planned(checkpoint, height=64, width=128, dynamic=free).geometry
    assert small.decode_frames == 10  # for the largest, whose decoder takes more with height and width free
    assert planned(checkpoint, dynamic={"frames": (14, 25), **free}).geometry.decode_frames == 10


@pytest.fixture(scope="module")
def chunked(small_checkpoint: Path, once: Once) -> Path:
    """A bundle that decodes 5 of 9 frames at a time."""
    options: dict[str, Any] = {**FP32, "frames": 9, "decode_chunk": 5, "steps": 2, "small_gpu": True}

    def write(bundle: Path) -> None:
        result = export(str(small_checkpoint), bundle, verify=True, **options)
        assert max(result.errors.values()) < 1e-4

    return once("bundles/chunked", write)


@pytest.mark.slow
def test_the_manifest_gives_the_chunk(chunked: Path) -> None:
    manifest = open_bundle(chunked).manifest
    assert (manifest.decode_chunk, manifest.decode_overlap, manifest.geometry.decode_frames) == (5, 1, 5)
    assert manifest.graphs["decode"].outputs[0].shape == (5, 32, 32, 3)


@pytest.mark.slow
def test_frames_are_those_of_their_chunks(chunked: Path, photo: Image.Image) -> None:
    pipeline = Pipeline.load(chunked, "onnxruntime-cpu")
    last: list[np.ndarray] = []
    video = pipeline(photo, seed=1, callback=lambda number, step, latents: last.append(latents))
    backend = open_backend(pipeline.bundle, "onnxruntime-cpu")

    def decode(start: int) -> np.ndarray:
        inputs = {"latents": backend.upload(last[-1][0, start : start + 5])}
        return backend.download(backend.run("decode", inputs)["frames"])

    expected = [decode(0)[:4], decode(3)[1:4], decode(4)[3:]]
    assert np.array_equal(video.frames, np.concatenate(expected))
    plain = pipeline(photo, seed=1, decode_overlap=0).frames
    assert np.array_equal(plain[:5], decode(0))
    assert not np.array_equal(plain, video.frames)


@pytest.mark.slow
def test_another_chunk_is_refused_with_what_to_do(chunked: Path, photo: Image.Image) -> None:
    with pytest.raises(UsageError, match="decodes 5 frames at a time: export it with --decode-chunk 3"):
        Pipeline.load(chunked, "onnxruntime-cpu")(photo, decode_chunk_size=3)
    with pytest.raises(UsageError, match="takes 5 frames at a time"):
        build(chunked, engines="tensorrt-rtx", decode_chunk=3)


@pytest.mark.slow
def test_its_engine_has_no_free_dimension(chunked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VCUT_CACHE", str(tmp_path))
    bundle = Path(shutil.copytree(chunked, tmp_path / "bundle"))
    engines = build(bundle, engines="tensorrt-rtx").engines
    assert engines["decode"].profile == {}
    assert engines["decode"].inputs[0].shape[0] == 5
    open_bundle(bundle)
