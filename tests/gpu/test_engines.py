"""Engines on a real GPU against ONNX Runtime on the CPU: ``pytest -m gpu``. Weights are random, the depth is SVD's.

Every library that is installed and can build for this GPU takes part; a library that cannot is skipped with its reason.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import psnr
from vcut_runtime import Pipeline, VcutError, open_bundle
from vcut_runtime.backends import open_backend
from vcut_runtime.bundle.graph import GRAPHS, bundle_graphs, sized
from vcut_runtime.bundle.manifest import Manifest

pytestmark = pytest.mark.gpu
TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2}  # of the output's largest magnitude


@pytest.fixture(scope="module", params=["tensorrt-rtx", "tensorrt"])
def library(request: pytest.FixtureRequest) -> str:
    from vcut_engines import choose_target

    try:
        choose_target(request.param, "this")
    except VcutError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture(scope="module")
def compiled(tiny_bundle: Callable[[str], Path], library: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """svd-tiny in fp32, folded, with engines for this GPU."""
    return with_engines(tiny_bundle("fold"), library, tmp_path_factory)


@pytest.fixture(scope="module")
def compiled_fp16(tiny_checkpoint: Path, library: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_engines(in_fp16(tiny_checkpoint, tmp_path_factory), library, tmp_path_factory)


@pytest.fixture(scope="module")
def compiled_upcast(tiny_checkpoint: Path, library: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_engines(in_fp16(tiny_checkpoint, tmp_path_factory, upcast_attention=True), library, tmp_path_factory)


@pytest.fixture(scope="module")
def compiled_dynamic(slim_dynamic_bundle: Path, library: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_engines(slim_dynamic_bundle, library, tmp_path_factory)


def in_fp16(checkpoint: Path, folders: pytest.TempPathFactory, **options: Any) -> Path:
    from vcut_export import export

    return export(
        str(checkpoint), folders.mktemp("fp16") / "bundle", precision="fp16", tca="fold", deep_cache=True, **options
    ).bundle


def with_engines(bundle: Path, library: str, folders: pytest.TempPathFactory) -> Path:
    from vcut_engines import build

    copy = Path(shutil.copytree(bundle, folders.mktemp("engines") / "bundle"))
    build(copy, engines=library, gpu="this")
    return copy


@pytest.fixture(scope="module")
def video_inputs(compiled: Path, photo: Image.Image) -> dict[str, Any]:
    manifest, draw = open_bundle(compiled).manifest, np.random.default_rng(7)
    size = (manifest.width, manifest.height)
    return {
        "image": photo.resize(size, Image.Resampling.LANCZOS),
        "latents": draw.standard_normal((1, manifest.frames, *manifest.geometry.latent_shape()), dtype=np.float32),
        "noise": draw.standard_normal((1, 3, *size[::-1]), dtype=np.float32),
    }


@pytest.fixture(scope="module")
def want(compiled: Path, video_inputs: dict[str, Any]) -> np.ndarray:
    return Pipeline.load(compiled, "onnxruntime-cpu")(**video_inputs).frames


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_each_engine_agrees_with_onnxruntime(
    request: pytest.FixtureRequest, library: str, graph: str, precision: str
) -> None:
    bundle: Path = request.getfixturevalue("compiled" if precision == "fp32" else "compiled_fp16")
    opened = open_bundle(bundle)
    inputs = random_inputs(opened.manifest, graph)
    theirs, ours = (run(open_backend(opened, name), graph, inputs) for name in ("onnxruntime-cpu", library))
    for name, expected in theirs.items():
        difference = np.abs(ours[name].astype(np.float64) - expected.astype(np.float64)).max()
        if expected.dtype == np.uint8:
            assert difference <= (1 if precision == "fp32" else 8), name
        else:
            assert difference <= TOLERANCE[precision] * np.abs(expected).max(), name


@pytest.mark.parametrize("graph", [name for name, graph in GRAPHS.items() if graph.is_step])
def test_fp16_attention_need_not_be_upcast(
    compiled: Path, compiled_fp16: Path, compiled_upcast: Path, library: str, graph: str
) -> None:
    """If this fails, the library adds up in fp16, and ``--upcast-attention`` must become the default for it."""

    def denoised(folder: Path, backend: str) -> np.ndarray:
        bundle = open_bundle(folder)
        return run(open_backend(bundle, backend), graph, random_inputs(bundle.manifest, graph))["denoised"]

    exact = denoised(compiled, "onnxruntime-cpu")
    errors = [np.abs(denoised(folder, library) - exact).max() for folder in (compiled_fp16, compiled_upcast)]
    assert errors[0] <= 1.5 * errors[1]


def test_the_pipeline_agrees_with_onnxruntime(
    compiled: Path, library: str, video_inputs: dict[str, Any], want: np.ndarray
) -> None:
    pipeline = Pipeline.load(compiled, library)
    first, again = (pipeline(**video_inputs).frames for _ in range(2))
    assert want.std() > 10
    assert psnr(first, want) >= 40
    assert psnr(again, first) >= 60  # buffers were reused, and nothing of the first video is left in them


def test_auto_chooses_the_engines(compiled: Path, library: str) -> None:
    backend = Pipeline.load(compiled).backend
    assert backend.name == library
    assert library in backend.notes[0]


def test_the_switch_at_the_cut_step(
    compiled: Path, library: str, video_inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline.load(compiled, library)
    ran: list[str] = []
    run_graph = pipeline.backend.run
    monkeypatch.setattr(pipeline.backend, "run", lambda graph, inputs: (ran.append(graph), run_graph(graph, inputs))[1])
    cut = pipeline(**video_inputs, num_inference_steps=6, cut_step=4).frames
    steps = [graph for graph in ran if graph not in ("condition", "decode")]
    assert steps == ["semantic_binding"] * 3 + ["quality_improvement"] * 3
    cpu = Pipeline.load(compiled, "onnxruntime-cpu")
    assert psnr(cut, cpu(**video_inputs, num_inference_steps=6, cut_step=4).frames) >= 40
    uncut = cpu(**video_inputs, num_inference_steps=6, cut_step="none").frames
    assert psnr(cut, uncut) < psnr(cut, cpu(**video_inputs, num_inference_steps=6, cut_step=4).frames)


def test_cuda_graphs_change_nothing(
    compiled: Path, library: str, video_inputs: dict[str, Any], want: np.ndarray
) -> None:
    graphs = Pipeline.load(compiled, library, cuda_graphs=True)
    eager = Pipeline.load(compiled, library, cuda_graphs=False)
    captured = graphs(**video_inputs).frames
    assert psnr(captured, eager(**video_inputs).frames) >= 60
    assert graphs.backend.notes == [], "a step could not be captured"


@pytest.mark.parametrize("options", [{}, {"cuda_graphs": False}, {"low_memory": True}], ids=["plain", "eager", "low"])
def test_shallow_steps_agree_with_onnxruntime(
    compiled: Path, library: str, video_inputs: dict[str, Any], want: np.ndarray, options: dict[str, Any]
) -> None:
    pipeline, cpu = Pipeline.load(compiled, library, **options), Pipeline.load(compiled, "onnxruntime-cpu")
    cached = cpu(**video_inputs, cache_interval=3).frames
    first, again = (pipeline(**video_inputs, cache_interval=3).frames for _ in range(2))
    assert psnr(first, cached) >= 40
    assert psnr(again, first) >= 60
    assert psnr(first, want) < psnr(first, cached)


def test_low_memory_changes_nothing_but_memory(compiled: Path, library: str, video_inputs: dict[str, Any]) -> None:
    plain = Pipeline.load(compiled, library, low_memory=False)
    usual = plain(**video_inputs)
    del plain
    gc.collect()
    low = Pipeline.load(compiled, library, low_memory=True)
    sparing = [low(**video_inputs) for _ in range(2)]
    assert psnr(sparing[0].frames, usual.frames) >= 60
    assert psnr(sparing[1].frames, usual.frames) >= 60
    assert usual.peak_memory is not None
    assert sparing[1].peak_memory is not None
    assert sparing[1].peak_memory <= usual.peak_memory


def test_a_second_video_takes_no_more_memory_and_a_dropped_pipeline_gives_it_back(
    compiled: Path, library: str, video_inputs: dict[str, Any]
) -> None:
    from vcut_runtime.backends.cuda import Cuda

    cuda = Cuda()
    before = cuda.memory()[0]
    pipeline = Pipeline.load(compiled, library)
    pipeline(**video_inputs)
    during = cuda.memory()[0]
    for seed in range(3):
        pipeline(video_inputs["image"], seed=seed)
    assert cuda.memory()[0] >= during - (8 << 20)
    del pipeline
    gc.collect()
    assert cuda.memory()[0] >= before - (256 << 20)  # the library keeps its kernels


def test_timings_come_from_the_gpu(compiled: Path, library: str, video_inputs: dict[str, Any]) -> None:
    import time

    pipeline = Pipeline.load(compiled, library)
    pipeline(**video_inputs)
    start = time.perf_counter()
    video = pipeline(**video_inputs)
    wall = time.perf_counter() - start
    stages = {"condition", "semantic_binding", "quality_improvement", "decode"}
    assert stages <= set(video.timings)
    assert all(video.timings[stage] > 0 for stage in stages)
    assert sum(video.timings.values()) <= wall
    assert video.peak_memory is not None
    assert video.peak_memory > 0


def test_compiled_kernels_are_kept(
    compiled: Path, library: str, video_inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library != "tensorrt-rtx":
        pytest.skip("TensorRT compiles when it builds")
    monkeypatch.setenv("VCUT_CACHE", str(tmp_path))
    first = Pipeline.load(compiled, library)(**video_inputs)
    files = sorted((tmp_path / "kernels").iterdir())
    assert len(files) == 4
    second = Pipeline.load(compiled, library)(**video_inputs)
    assert psnr(second.frames, first.frames) >= 60
    assert sorted((tmp_path / "kernels").iterdir()) == files


def test_decode_takes_every_number_of_frames_up_to_its_chunk(compiled: Path, library: str) -> None:
    opened = open_bundle(compiled)
    engine, cpu = open_backend(opened, library), open_backend(opened, "onnxruntime-cpu")
    for frames in (1, 2, opened.manifest.decode_chunk):
        latents = np.random.default_rng(frames).standard_normal((frames, *opened.manifest.geometry.latent_shape()))
        inputs = {"latents": latents.astype(np.float32)}
        ours, theirs = (run(backend, "decode", inputs)["frames"] for backend in (engine, cpu))
        assert ours.shape == theirs.shape
        assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_videos_of_every_size_agree_with_onnxruntime(compiled_dynamic: Path, library: str, photo: Image.Image) -> None:
    pipeline, cpu = Pipeline.load(compiled_dynamic, library), Pipeline.load(compiled_dynamic, "onnxruntime-cpu")
    geometry = cpu.manifest.geometry
    for frames, height, width in (geometry.smallest, geometry.largest, geometry.sizes, geometry.smallest):
        options: Any = {"num_frames": frames, "height": height, "width": width, "num_inference_steps": 4}
        ours, theirs = (player(photo, seed=3, **options).frames for player in (pipeline, cpu))
        assert ours.shape == (frames, height, width, 3)
        assert psnr(ours, theirs) >= 40


def run(backend: Any, graph: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    outputs = backend.run(graph, {name: backend.upload(value) for name, value in inputs.items()})
    return {name: backend.download(value) for name, value in outputs.items()}


def random_inputs(manifest: Manifest, graph: str) -> dict[str, np.ndarray]:
    """Inputs of a plausible size for each tensor."""
    tensors = bundle_graphs(manifest)
    values = manifest.geometry.values(manifest.sizes, manifest.decode_chunk)
    draw = np.random.default_rng(11)
    fixed = {
        "sigma": [14.0],
        "coefficients": [9.0 / 14.0, 1 - 9.0 / 14.0 + 0.25, -0.25],
        "added_time_ids": [[6.0, 127.0, 0.02]],
        "noise_aug_strength": [0.02],
        "guidance_scale": np.linspace(1.0, 3.0, manifest.frames),
    }
    inputs = {}
    for spec in tensors[graph].inputs:
        shape = sized(spec.shape, values)
        value = fixed.get(spec.name)
        if value is None:
            value = draw.random(shape) if spec.name == "image" else draw.standard_normal(shape)
            if spec.name == "latents" and graph != "decode":
                value = value * 14.0
        inputs[spec.name] = np.asarray(value, dtype=spec.dtype)
    return inputs
