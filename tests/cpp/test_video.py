"""The C++ runtime makes the video that the Python runtime makes."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vcut_c
from odd_images import CASES
from vcut_c import CError, Library, OnLatents, OnStep, Pipeline, Progress, refusal
from vcut_runtime import BundleError, UsageError, VcutError
from vcut_runtime import Pipeline as PythonPipeline

FAILED, USAGE, BUNDLE, CANCELLED = 1, 2, 3, 4


@pytest.fixture(scope="module")
def small(library: Library, small_bundle: Path) -> Iterator[Pipeline]:
    pipeline = Pipeline(library, small_bundle)
    yield pipeline
    pipeline.close()


@pytest.fixture(scope="module")
def python(small_bundle: Path) -> PythonPipeline:
    return PythonPipeline.load(small_bundle, "onnxruntime-cpu")


def difference(a: np.ndarray, b: np.ndarray) -> int:
    """Return the largest difference of two videos in levels."""
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"schedule": "exact"},
        {"schedule": "fast"},
        {"schedule": "balanced", "seed": 2**63 - 1},
        {"solver": "dpmpp-2m", "sigmas": "ays", "guide_from": 2, "cut_step": 6, "quality_bias": "cond"},
        {"solver": "lcm"},
        {"guidance": "triangle", "max_guidance_scale": 5.0, "decode_chunk_size": 2},
        {
            "max_guidance_scale": 1.0,
            "fps": 12.5,
            "output_fps": 29.97,
            "motion_bucket_id": 20.5,
            "noise_aug_strength": 0.3,
        },
        {"fit": "crop"},
        {"fit": "pad"},
    ],
)
def test_the_video_is_pythons(
    small: Pipeline, python: PythonPipeline, photo: Image.Image, tmp_path: Path, options: dict[str, Any]
) -> None:
    path, options = tmp_path / "photo.png", {"seed": 1, **options}
    photo.crop((0, 0, 400, 300)).save(path)
    options = {key: value for key, value in options.items() if key != "decode_chunk_size"}
    want = python(path, **options)
    got = small(path, **options)
    assert want.frames.std() > 10
    assert difference(got, want.frames) <= 1
    assert small.last["seed"] == want.seed
    assert small.last["fps"] == want.fps
    assert tuple(small.said) == want.notes
    assert small.last["seconds"]["decode"] > 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cache_interval": 2},
        {"cache_interval": 3, "num_inference_steps": 7, "cut_step": 5, "guide_from": 2},
        {"num_frames": 2, "height": 24, "width": 48},
        {"num_frames": 5, "height": 48, "width": 24, "decode_chunk_size": 3, "decode_overlap": 1, "fit": "crop"},
        {"size": "auto"},
    ],
)
def test_shallow_steps_and_free_sizes(
    library: Library, dynamic_bundle: Path, photo: Image.Image, options: dict[str, Any]
) -> None:
    pixels, pipeline = np.asarray(photo)[:300], Pipeline(library, dynamic_bundle)
    got = pipeline(pixels, seed=4, **options)
    pipeline.close()
    want = PythonPipeline.load(dynamic_bundle, "onnxruntime-cpu")(pixels, seed=4, **options)
    assert difference(got, want.frames) <= 1


def test_injected_arrays_and_own_steps(small: Pipeline, python: PythonPipeline, photo: Image.Image) -> None:
    draw, pixels = np.random.default_rng(0), np.asarray(photo)
    shape = (1, 3, *python.manifest.geometry.latent_shape())
    arrays: dict[str, Any] = {
        "latents": draw.standard_normal(shape, dtype=np.float32),
        "noise": draw.standard_normal((1, 3, 32, 32), dtype=np.float32),
    }
    rows = python.manifest.schedules["exact"][:3]
    want = python(pixels, schedule=rows, **arrays)
    assert difference(small(pixels, schedule=rows, **arrays), want.frames) <= 1
    assert small.last["seed"] is None
    message = refusal(lambda: small(pixels, latents=arrays["latents"][:, :2]))
    assert (
        message
        == f"latents has {arrays['latents'].size // 3 * 2} numbers, this bundle needs {list(shape)} for each video"
    )


def test_numbers_that_are_not_finite_are_refused(small: Pipeline, python: PythonPipeline, photo: Image.Image) -> None:
    pixels, shape = np.asarray(photo), (1, 3, *python.manifest.geometry.latent_shape())
    cases: list[dict[str, Any]] = [
        {"latents": np.full(shape, np.nan, np.float32)},
        {"latents": np.full(shape, 3e38, np.float32)},
        {"noise": np.full((1, 3, 32, 32), np.inf, np.float32)},
        {"noise_aug_strength": 3e38, "seed": 0},
        {"max_guidance_scale": 3e38, "seed": 0},
    ]
    for options in cases:
        with pytest.raises(VcutError) as caught:
            python(pixels, **options)
        assert refusal(lambda options=options: small(pixels, **options)) == str(caught.value)


def test_a_callback_may_change_the_latents(small: Pipeline, python: PythonPipeline, photo: Image.Image) -> None:
    def change(_: Any, number: int, step: Any, latents: Any, count: int) -> int:
        values = np.ctypeslib.as_array(latents, (count,))
        values *= 0.5 if number == 2 else 1.0
        return 0

    pixels = np.asarray(photo)
    want = python(pixels, seed=3, callback=lambda number, _, latents: latents * 0.5 if number == 2 else None)
    got = small(pixels, seed=3, on_latents=OnLatents(change))
    assert difference(got, want.frames) <= 1
    assert difference(got, small(pixels, seed=3)) > 1


def test_a_seed_is_drawn_if_none_is_given(small: Pipeline, photo: Image.Image) -> None:
    pixels = np.asarray(photo)
    first = small(pixels)
    seed = small.last["seed"]
    assert np.array_equal(small(pixels, seed=seed), first)
    assert not np.array_equal(small(pixels), first)


def test_callbacks_see_each_step_and_can_stop_the_video(small: Pipeline, photo: Image.Image) -> None:
    pixels, said, steps = np.asarray(photo), [], []

    def progress(_: Any, stage: bytes, done: int, total: int) -> int:
        said.append((stage.decode(), done, total))
        return 0

    def after_step(_: Any, number: int, step: Any, latents: Any, count: int) -> int:
        steps.append((number, step.contents.graph.decode(), np.ctypeslib.as_array(latents, (count,)).std()))
        return int(number == 3)

    small(pixels, seed=0, on_progress=Progress(progress))
    assert said[:2] == [("condition", 0, 1), ("condition", 1, 1)]
    assert said[-1] == ("decode", 3, 3)
    with pytest.raises(CError, match="the video was cancelled") as caught:
        small(pixels, seed=0, on_step=OnStep(after_step))
    assert caught.value.code == CANCELLED
    assert [step[:2] for step in steps] == [
        *((1, "semantic_binding"), (2, "semantic_binding"), (3, "quality_improvement")),
    ]
    assert steps[0][2] > steps[2][2]
    with pytest.raises(CError) as caught:
        small(pixels, on_progress=Progress(lambda *_: 1))
    assert caught.value.code == CANCELLED


def test_another_thread_cancels(library: Library, small: Pipeline, photo: Image.Image) -> None:
    token, started = ctypes.c_void_p(), threading.Event()
    library.cancel_create(ctypes.byref(token))

    def after_step(*_: Any) -> int:
        started.set()
        return 0

    thread = threading.Thread(target=lambda: (started.wait(), library.cancel_request(token)))
    thread.start()
    with pytest.raises(CError) as caught:
        small(np.asarray(photo), num_inference_steps=1000, on_step=OnStep(after_step), cancel=token)
    thread.join()
    assert caught.value.code == CANCELLED
    library.cancel_destroy(token)


def test_threads_share_a_pipeline(small: Pipeline, photo: Image.Image) -> None:
    pixels, results = np.asarray(photo), {}
    alone = [small(pixels, seed=seed) for seed in range(3)]

    def make(seed: int) -> None:
        structure, _keep = vcut_c.run_options(small.library, seed=seed)
        image, video = vcut_c.image_of(small.library, pixels), ctypes.c_void_p()
        small.library.pipeline_run(small.handle, *map(ctypes.byref, (image, structure, video)))
        results[seed] = np.ctypeslib.as_array(small.library.video_frames(video), alone[0].shape).copy()
        small.library.video_destroy(video)

    threads = [threading.Thread(target=make, args=[seed]) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(results[seed], alone[seed]) for seed in range(3))


def test_the_caller_may_bring_the_buffer(small: Pipeline, photo: Image.Image) -> None:
    pixels, buffer = np.asarray(photo), np.zeros((3, 32, 32, 3), np.uint8)
    frames = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    got = small(pixels, seed=0, frames=frames, frames_bytes=buffer.nbytes)
    assert np.array_equal(got, buffer)
    assert np.array_equal(small(pixels, seed=0), buffer)
    message = refusal(lambda: small(pixels, frames=frames, frames_bytes=buffer.nbytes - 1))
    assert message == "the buffer for frames has 9215 bytes, the video needs 9216"


def test_refusals_have_a_code_and_pythons_words(
    library: Library, small: Pipeline, python: PythonPipeline, small_bundle: Path, photo: Image.Image, tmp_path: Path
) -> None:
    pixels = np.asarray(photo)
    with pytest.raises(CError) as caught:
        small(pixels, height=64)
    assert caught.value.code == USAGE
    with pytest.raises(UsageError) as theirs:
        python(pixels, height=64)
    assert str(caught.value) == str(theirs.value)
    with pytest.raises(CError) as caught:
        Pipeline(library, tmp_path)
    assert caught.value.code == BUNDLE
    message = refusal(lambda: Pipeline(library, small_bundle, backend=b"onnx"))
    assert message == "unknown backend 'onnx': choose auto, tensorrt, tensorrt-rtx, onnxruntime-cpu"
    assert refusal(lambda: Pipeline(library, small_bundle, threads=-1)) == "threads is -1: give at least 1"
    assert refusal(lambda: Pipeline(library, small_bundle, threads=1025)) == "threads is 1025: give at most 1024"
    message = refusal(lambda: Pipeline(library, small_bundle, backend=b"tensorrt")) or ""
    assert "TensorRT" in message
    message = refusal(lambda: Pipeline(library, small_bundle, onnxruntime_library=b"/nothing/libonnxruntime.so")) or ""
    assert message.startswith(("ONNX Runtime does not load (/nothing", "this process uses ONNX Runtime from "))
    small(pixels, seed=0)  # and the pipeline still works


def test_a_graph_that_gives_another_shape_is_refused(library: Library, bundle_copy: Path, photo: Image.Image) -> None:
    """The manifest has the graph's hash and the right shapes, but the graph gives other ones."""
    import json

    import onnx

    from vcut_runtime.bundle import sha256

    path = bundle_copy / "manifest.json"
    manifest = json.loads(path.read_text())
    for entry in filter(None, (manifest["graphs"]["decode"], manifest["graphs"]["decode"]["contrib"])):
        file = bundle_copy / entry["file"]
        model = onnx.load(file, load_external_data=False)
        (output,) = model.graph.output
        for node in model.graph.node:
            node.output[:] = ["inner" if name == "frames" else name for name in node.output]
        slicing = [onnx.numpy_helper.from_array(np.array([v]), f"slice{v}") for v in (0, 1)]
        model.graph.initializer.extend(slicing)
        model.graph.node.append(onnx.helper.make_node("Slice", ["inner", "slice0", "slice1", "slice0"], ["frames"]))
        output.type.tensor_type.shape.dim[0].dim_value = 1
        file.write_bytes(model.SerializeToString())
        entry.update(bytes=file.stat().st_size, sha256=sha256(file))
    path.write_text(json.dumps(manifest))
    pipeline = Pipeline(library, bundle_copy)
    message = refusal(lambda: pipeline(np.asarray(photo)))
    pipeline.close()
    with pytest.raises(BundleError, match="does not have the 'frames' that the manifest gives decode") as caught:
        PythonPipeline.load(bundle_copy, "onnxruntime-cpu")(np.asarray(photo))
    assert message == str(caught.value)


@pytest.mark.parametrize("name", ["cmyk-without-profile.jpg", "adobe-rgb-by-exif.jpg", "display-p3.png"])
def test_colours_that_are_not_certain_are_noted(
    small: Pipeline, python: PythonPipeline, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(CASES[name].make())
    small(path, num_inference_steps=1, seed=0, fit="crop")
    if name.startswith("display"):
        assert small.said == [
            "the image has a colour profile other than sRGB, which is not used here: its colours differ"
        ]
    else:
        assert tuple(small.said) == python.notes(path, fit="crop")


def test_many_videos_take_no_more_memory(small: Pipeline, photo: Image.Image) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    pixels = np.asarray(photo)

    def make(count: int) -> int:
        for _ in range(count):
            small(pixels, num_inference_steps=1, seed=0)
        return resident()

    before = make(20)
    assert make(60) - before < 4 << 20
