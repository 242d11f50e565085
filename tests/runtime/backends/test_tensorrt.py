"""The TensorRT backend on a GPU and a library made of host memory, against ONNX Runtime."""

from __future__ import annotations

import gc
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fakes import FakeCuda, Machine
from vcut_runtime import BundleError, Pipeline, UsageError, VcutError, open_bundle

LIBRARIES = ("tensorrt-rtx", "tensorrt")
IN_EVERY_WAY = pytest.mark.parametrize(
    "options", [{}, {"cuda_graphs": False}, {"low_memory": True}], ids=["plain", "eager", "low"]
)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VCUT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def want(small_bundle: Path, photo: Image.Image) -> np.ndarray:
    return Pipeline.load(small_bundle, "onnxruntime-cpu")(photo, seed=5).frames


@pytest.mark.parametrize("library", LIBRARIES)
@IN_EVERY_WAY
def test_the_same_video_as_onnxruntime_twice(
    bundle_copy: Path, photo: Image.Image, want: np.ndarray, library: str, options: dict
) -> None:
    pipeline = Machine(bundle_copy, library).pipeline(**options)
    for _ in range(2):
        assert np.array_equal(pipeline(photo, seed=5).frames, want)
    other = pipeline(photo, seed=6).frames
    assert not np.array_equal(other, want)
    assert np.array_equal(pipeline(photo, seed=5).frames, want)


def test_the_switch_happens_at_the_cut_step(bundle_copy: Path, photo: Image.Image) -> None:
    machine = Machine(bundle_copy)
    machine.pipeline()(photo, seed=0, num_inference_steps=5, cut_step=4, decode_chunk_size=2)
    steps = ["semantic_binding"] * 3 + ["quality_improvement"] * 2
    assert machine.trt.ran == ["condition", *steps, "decode", "decode"]


@pytest.fixture
def deep_copy(deep_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(deep_bundle, tmp_path / "bundle"))


@pytest.mark.parametrize("library", LIBRARIES)
@IN_EVERY_WAY
def test_shallow_steps_take_the_deep_features_of_their_stage(
    deep_bundle: Path, deep_copy: Path, photo: Image.Image, library: str, options: dict
) -> None:
    want = Pipeline.load(deep_bundle, "onnxruntime-cpu")(photo, seed=5, cache_interval=2).frames
    machine = Machine(deep_copy, library)
    pipeline = machine.pipeline(**options)
    assert np.array_equal(pipeline(photo, seed=5, cache_interval=2).frames, want)
    both = ["semantic_binding", "semantic_binding_shallow"]
    rest = ["quality_improvement", "quality_improvement_shallow", "quality_improvement"]
    assert machine.trt.ran[1:8] == [*both, *both, *rest]
    assert not np.array_equal(pipeline(photo, seed=5).frames, want)
    assert np.array_equal(pipeline(photo, seed=5, cache_interval=2).frames, want)


@pytest.mark.parametrize("library", LIBRARIES)
def test_deep_features_have_one_memory_and_stay_in_it(
    deep_copy: Path, photo: Image.Image, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(deep_copy, library)
    pipeline = machine.pipeline()
    size = 2 * 3 * 32 * 16 * 16 * 4  # of a guided step
    copies: list[int] = []
    copy = machine.gpu.cudaMemcpyAsync
    monkeypatch.setattr(machine.gpu, "cudaMemcpyAsync", lambda *i: (copies.append(i[2]), copy(*i))[1])
    pipeline(photo, seed=5, cache_interval=2)
    assert list(machine.gpu.sizes.values()).count(size) == 1
    assert size not in copies
    assert size // 2 not in copies


@pytest.mark.parametrize("library", LIBRARIES)
def test_deep_features_from_elsewhere_are_copied_whoever_wrote_last(
    deep_bundle: Path, deep_copy: Path, library: str
) -> None:
    full, shallow = "quality_improvement", "quality_improvement_shallow"
    cpu, draw = Pipeline.load(deep_bundle, "onnxruntime-cpu").backend, np.random.default_rng(0)
    tensors = open_bundle(deep_bundle).manifest.graphs[shallow].inputs
    arrays: Any = {tensor.name: draw.random(tensor.shape, dtype=np.float32) for tensor in tensors}  # pyright: ignore
    ours = Machine(deep_copy, library).pipeline().backend
    theirs, inputs = ({name: b.upload(value) for name, value in arrays.items()} for b in (cpu, ours))
    want = cpu.download(cpu.run(shallow, theirs)["next_latents"])
    for _ in range(3):
        np.testing.assert_array_equal(ours.download(ours.run(shallow, inputs)["next_latents"]), want)
        ours.run(full, inputs)


def test_low_memory_keeps_a_step_and_its_shallow_one(deep_copy: Path, photo: Image.Image) -> None:
    machine = Machine(deep_copy)
    machine.pipeline(low_memory=True)(photo, seed=0, cache_interval=2)
    assert machine.trt.most_resident == 2
    assert machine.count("load_weights", "semantic_binding") == 1


def test_engines_without_shallow_steps_are_named(deep_copy: Path) -> None:
    machine = Machine(deep_copy)
    path = deep_copy / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["engines"][machine.target]["engines"]["semantic_binding_shallow"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="lack semantic_binding_shallow: run 'vcut build"):
        machine.pipeline()


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_second_video_allocates_nothing(bundle_copy: Path, photo: Image.Image, library: str) -> None:
    machine = Machine(bundle_copy, library)
    pipeline = machine.pipeline()
    pipeline(photo, seed=0)
    before = machine.gpu.allocations
    pipeline(photo, seed=1)
    assert machine.gpu.allocations == before
    assert machine.count("deserialize") == 4


def test_one_activation_memory_for_all_engines(bundle_copy: Path, photo: Image.Image) -> None:
    machine = Machine(bundle_copy, activation_bytes=3 << 20)
    pipeline = machine.pipeline()
    pipeline(photo, seed=0)
    assert [size for size in machine.gpu.sizes.values() if size >= 3 << 20] == [6 << 20]  # decode's


def test_memory_is_given_back_with_the_pipeline(bundle_copy: Path, photo: Image.Image) -> None:
    machine = Machine(bundle_copy)
    pipeline = machine.pipeline()
    video = pipeline(photo, seed=0)
    assert machine.gpu.used > 0
    assert video.peak_memory == machine.gpu.used
    del pipeline
    gc.collect()
    assert machine.gpu.used == 0


def test_steps_are_captured_once_and_launched_from_then_on(
    bundle_copy: Path, photo: Image.Image, want: np.ndarray
) -> None:
    machine = Machine(bundle_copy, "tensorrt")
    pipeline = machine.pipeline()
    assert np.array_equal(pipeline(photo, seed=5).frames, want)  # two steps of each stage
    assert machine.gpu.launches == 2
    pipeline(photo, seed=5)
    assert machine.gpu.launches == 6
    assert machine.count("enqueue", "semantic_binding") == 2  # eager once, captured once
    assert pipeline.backend.notes == []


def test_a_step_that_cannot_be_captured_runs_without_and_says_so(
    bundle_copy: Path, photo: Image.Image, want: np.ndarray
) -> None:
    machine = Machine(bundle_copy, "tensorrt")
    machine.gpu.capture_works = False
    pipeline = machine.pipeline()
    assert np.array_equal(pipeline(photo, seed=5).frames, want)
    assert machine.gpu.launches == 0
    assert len(pipeline.backend.notes) == 2
    assert "could not be captured" in pipeline.backend.notes[0]


def test_tensorrt_rtx_captures_by_itself(bundle_copy: Path, photo: Image.Image) -> None:
    machine = Machine(bundle_copy)
    backend: Any = machine.pipeline().backend
    for graph in ("condition", "semantic_binding", "quality_improvement", "decode"):
        backend.load(graph)
        strategy = backend._loaded[graph].context.config.cuda_graph_strategy
        assert (strategy == "whole graph") == (graph in ("semantic_binding", "quality_improvement"))
    off: Any = machine.pipeline(cuda_graphs=False).backend
    off.load("semantic_binding")
    assert off._loaded["semantic_binding"].context.config.cuda_graph_strategy == "disabled"


def test_kernels_of_free_sizes_are_specialised_before_they_are_kept(bundle_copy: Path) -> None:
    backend: Any = Machine(bundle_copy).pipeline().backend
    for graph, strategy in (("decode", "eager"), ("semantic_binding", "lazy")):  # decode takes any number of frames
        backend.load(graph)
        config = backend._loaded[graph].context.config
        assert config.dynamic_shapes_kernel_specialization_strategy == strategy


@pytest.mark.parametrize("library", LIBRARIES)
def test_threads_that_share_a_pipeline_get_their_own_videos(
    library: str, bundle_copy: Path, photo: Image.Image
) -> None:
    pipeline = Machine(bundle_copy, library).pipeline()
    expected = [pipeline(photo, seed=seed).frames for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        videos = list(pool.map(lambda seed: pipeline(photo, seed=seed), range(4)))
    for video, frames in zip(videos, expected, strict=True):
        assert np.array_equal(video.frames, frames)


def test_low_memory_keeps_one_engines_weights_and_every_context(bundle_copy: Path, photo: Image.Image) -> None:
    machine = Machine(bundle_copy)
    pipeline = machine.pipeline(low_memory=True)
    pipeline(photo, seed=0)
    pipeline(photo, seed=1)
    assert machine.trt.most_resident == 1
    assert machine.count("deserialize") == 4  # contexts, and the kernels compiled for them, stay
    assert machine.count("unload_weights") == 7


def test_low_memory_without_unloading_opens_engines_again(bundle_copy: Path, photo: Image.Image) -> None:
    machine = Machine(bundle_copy, "tensorrt")
    pipeline = machine.pipeline(low_memory=True)
    pipeline(photo, seed=0)
    pipeline(photo, seed=1)
    assert machine.trt.most_resident == 1
    assert machine.count("deserialize") == 8


def test_low_memory_is_chosen_where_not_all_fit(bundle_copy: Path) -> None:
    room = (1 << 30) + (512 << 20)
    machine = Machine(bundle_copy, gpu=FakeCuda(total=room), weight_bytes=300 << 20)
    backend: Any = machine.pipeline().backend
    assert backend.low_memory
    assert "low memory mode" in " ".join(backend.notes)
    backend = Machine(bundle_copy, gpu=FakeCuda(total=2 * room), weight_bytes=300 << 20).pipeline().backend
    assert not backend.low_memory
    assert backend.notes == []


def test_memory_for_a_stage_counts_its_shallow_step_and_the_features(deep_copy: Path) -> None:
    weights, activations, reserve = 300 << 20, 2 << 20, 512 << 20
    features = 2 * 3 * 32 * 16 * 16 * 4
    gpu = FakeCuda(total=reserve + 2 * weights + activations + features)  # all but the small buffers
    machine = Machine(deep_copy, gpu=gpu, weight_bytes=weights)
    with pytest.raises(VcutError, match="of GPU memory"):
        machine.pipeline()
    gpu.total += 2 * features
    assert any("low memory mode" in note for note in machine.pipeline().backend.notes)


def test_a_gpu_too_small_for_one_engine_is_refused(bundle_copy: Path) -> None:
    machine = Machine(bundle_copy, gpu=FakeCuda(total=1 << 30), weight_bytes=900 << 20)
    with pytest.raises(VcutError, match=r"need .* GB of GPU memory, .* GB are free on Fake A10") as caught:
        machine.pipeline()
    assert "\n" not in str(caught.value)


def test_memory_that_runs_out_is_one_line(bundle_copy: Path) -> None:
    machine = Machine(bundle_copy)
    pipeline = machine.pipeline()
    machine.gpu.total = machine.gpu.used + (1 << 20)  # another program took the rest
    with pytest.raises(VcutError, match=r"out of memory for activations .*--low-memory"):
        pipeline.backend.load("decode")


def test_an_exchanged_engine_is_refused_before_it_is_loaded(bundle_copy: Path, photo: Image.Image) -> None:
    machine = Machine(bundle_copy)
    pipeline = machine.pipeline()
    file = bundle_copy / "engines" / machine.target / "semantic_binding.engine"
    file.write_bytes(file.read_bytes().replace(b"semantic", b"Semantic"))
    with pytest.raises(BundleError, match="sha256"):
        pipeline(photo, seed=0)
    assert machine.count("deserialize", "semantic_binding") == 0
    assert machine.count("deserialize", "Semantic_binding") == 0


def test_an_engine_with_other_tensors_than_the_manifests_is_refused(bundle_copy: Path, photo: Image.Image) -> None:
    machine = Machine(bundle_copy, outputs=[{"name": "frames", "dtype": "float32", "shape": [1]}])
    with pytest.raises(BundleError, match="does not have the"):
        machine.pipeline()(photo, seed=0)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("CUDA out of memory", "--low-memory"),
        ("engine header version mismatch", "vcut build"),
        ("unsupported_cc: no kernels", "--gpu this"),
        ("CUDA driver insufficient", "driver"),
        ("something else", "--force"),
    ],
)
def test_what_the_library_refuses_is_one_line_with_advice(
    bundle_copy: Path, photo: Image.Image, said: str, advice: str
) -> None:
    machine = Machine(bundle_copy, refuse=said)
    with pytest.raises(VcutError, match=said) as caught:
        machine.pipeline()(photo, seed=0)
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failing_step_names_its_graph(bundle_copy: Path, photo: Image.Image) -> None:
    machine = Machine(bundle_copy)
    machine.trt.fail_in, machine.trt.fail_with = "quality_improvement", "Error Code 1:\n Cuda Runtime"
    with pytest.raises(VcutError, match=r"TensorRT-RTX failed in quality_improvement \(Error Code 1: Cuda Runtime\)"):
        machine.pipeline()(photo, seed=0)


def test_more_frames_than_the_decode_engine_takes(bundle_copy: Path, photo: Image.Image) -> None:
    pipeline = Machine(bundle_copy, decode_frames=2).pipeline()
    with pytest.raises(UsageError, match=r"takes up to 2 frames.*--decode-chunk 3"):
        pipeline(photo, decode_chunk_size=3)


def test_missing_engines_are_named(bundle_copy: Path) -> None:
    machine = Machine(bundle_copy)
    path = bundle_copy / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["engines"][machine.target]["engines"]["decode"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="lack decode: run 'vcut build"):
        machine.pipeline()


def test_compiled_kernels_are_kept_for_the_next_program(bundle_copy: Path, photo: Image.Image, tmp_path: Path) -> None:
    machine = Machine(bundle_copy)
    machine.pipeline()(photo, seed=0)
    assert machine.count("compile") == 4
    assert len(list((tmp_path / "cache/kernels").iterdir())) == 4
    machine.pipeline()(photo, seed=0)
    assert machine.count("compile") == 4
    elsewhere = Machine(bundle_copy, gpu=FakeCuda(name="Other A10"))
    elsewhere.pipeline()(photo, seed=0)
    assert elsewhere.count("compile") == 4


def test_a_cache_that_cannot_be_written_is_no_failure(
    bundle_copy: Path, photo: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VCUT_CACHE", str(tmp_path / "file"))
    pipeline = Machine(bundle_copy).pipeline()
    pipeline(photo, seed=0)
    assert "could not be kept" in pipeline.backend.notes[0]


def test_timings_are_the_gpus_and_progress_tells_of_finished_steps(bundle_copy: Path, photo: Image.Image) -> None:
    machine = Machine(bundle_copy)
    seen: list[tuple[str, int, int]] = []
    video = machine.pipeline()(photo, seed=0, progress=lambda *what: seen.append(what))
    assert set(video.timings) == {"load", "condition", "semantic_binding", "quality_improvement", "decode"}
    # The fake clock moves by a millisecond for each copy and run: the default of previous_denoised, eight inputs and
    # a run, then the four inputs that changed and a run.
    assert video.timings["semantic_binding"] == pytest.approx(0.015)
    steps = [what for what in seen if what[0] == "semantic_binding"]
    assert [done for _, done, _ in steps] == [0, 2]
    assert all(total == 2 for *_, total in steps)


def test_callback_sees_every_steps_latents(bundle_copy: Path, photo: Image.Image, small_bundle: Path) -> None:
    mine: list[np.ndarray] = []
    theirs: list[np.ndarray] = []
    Machine(bundle_copy, "tensorrt").pipeline()(photo, seed=3, callback=lambda number, step, x: mine.append(x))
    Pipeline.load(small_bundle, "onnxruntime-cpu")(photo, seed=3, callback=lambda number, step, x: theirs.append(x))
    assert len(mine) == 4
    assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.fixture
def dynamic_copy(dynamic_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dynamic_bundle, tmp_path / "dynamic"))


@pytest.mark.parametrize("library", LIBRARIES)
@IN_EVERY_WAY
def test_videos_of_every_size_on_the_same_engines(
    dynamic_copy: Path, photo: Image.Image, library: str, options: dict
) -> None:
    cpu = Pipeline.load(dynamic_copy, "onnxruntime-cpu")
    sizes: list[Any] = [{}, {"num_frames": 5, "height": 24, "width": 48}, {"num_frames": 2, "width": 24}]
    sizes += [{**size, "num_inference_steps": 8, "cache_interval": 2} for size in sizes]
    expected = [cpu(photo, seed=5, **size).frames for size in sizes]
    machine = Machine(dynamic_copy, library)
    pipeline = machine.pipeline(**options)
    for turn in range(2):
        before = machine.gpu.allocations
        for size, want in zip(sizes, expected, strict=True):
            assert np.array_equal(pipeline(photo, seed=5, **size).frames, want)
        if turn and not (options.get("low_memory") and library == "tensorrt"):  # it opens engines again
            assert machine.gpu.allocations == before


def test_buffers_are_made_for_the_largest_video(dynamic_copy: Path) -> None:
    machine = Machine(dynamic_copy)
    pipeline = machine.pipeline()
    pipeline.backend.load("semantic_binding")
    frame = 4 * 24 * 24 * 4  # bytes of one frame's latents
    sizes = list(machine.gpu.sizes.values())
    assert sizes.count(5 * frame) == 4  # latents, next_latents, previous_denoised, denoised
    assert sizes.count(frame) == 1  # image_latents


def test_a_step_is_captured_anew_for_another_size(dynamic_copy: Path, photo: Image.Image) -> None:
    machine = Machine(dynamic_copy, "tensorrt")
    pipeline = machine.pipeline()
    for launches, frames in ((2, 4), (4, 5), (8, 5)):  # two steps of each stage: run, then capture and launch
        pipeline(photo, seed=5, num_frames=frames)
        assert machine.gpu.launches == launches


def test_sizes_that_the_engines_were_not_built_for(dynamic_copy: Path, photo: Image.Image) -> None:
    machine = Machine(dynamic_copy)
    path = dynamic_copy / "manifest.json"
    manifest = json.loads(path.read_text())
    profile = manifest["engines"][machine.target]["engines"]["semantic_binding"]["profile"]["latents"]
    for side in ("opt", "max"):
        profile[side][1] = 3
    path.write_text(json.dumps(manifest))
    pipeline = machine.pipeline()
    pipeline(photo, seed=0, num_frames=3)
    with pytest.raises(UsageError, match=r"semantic_binding was built for latents from .* not") as caught:
        pipeline(photo, seed=0, num_frames=4)
    assert "\n" not in str(caught.value)
