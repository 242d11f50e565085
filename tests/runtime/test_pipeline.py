"""The compiled pipeline against diffusers' own, on the same checkpoint, latents and noise. Weights are random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

import reference
from conftest import psnr
from example_manifest import example
from fakes import Recorder
from vcut_runtime import Bundle, Pipeline, RunOptions, Step, UsageError
from vcut_runtime.bundle.graph import GRAPHS
from vcut_runtime.bundle.manifest import Manifest, TensorSpec
from vcut_runtime.noise import after_step, normal
from vcut_runtime.schedule import GRIDS, choose_sigmas

SHAPE = (14, 4, 8, 12)


@pytest.fixture(scope="module")
def image(photo: Image.Image) -> Image.Image:
    return photo.resize((96, 64), Image.Resampling.LANCZOS)


@pytest.fixture(scope="module")
def latents() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((1, *SHAPE), dtype=np.float32)


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(4).standard_normal((1, 3, 64, 96), dtype=np.float32)


@pytest.fixture(scope="module")
def folded(tiny_bundle: Callable[[str], Path]) -> Pipeline:
    return Pipeline.load(tiny_bundle("fold"))


@pytest.fixture(scope="module")
def removed(tiny_bundle: Callable[[str], Path]) -> Pipeline:
    return Pipeline.load(tiny_bundle("remove"))


@pytest.fixture(scope="module")
def small(small_bundle: Path) -> Pipeline:
    return Pipeline.load(small_bundle)


def diffusers_frames(pipeline: Any, image: Image.Image, latents: np.ndarray, **options: Any) -> np.ndarray:
    import torch

    result = pipeline(
        image,
        height=image.height,
        width=image.width,
        num_frames=latents.shape[1],
        latents=torch.from_numpy(latents),
        output_type="np",
        **options,
    )
    return reference.to_uint8(result.frames[0])


@pytest.mark.slow
def test_tca_folded_and_never_cut_is_diffusers_pipeline(
    folded: Pipeline,
    tiny_checkpoint: Path,
    image: Image.Image,
    latents: np.ndarray,
    noise: np.ndarray,
    monkeypatch: Any,
) -> None:
    theirs = reference.load(tiny_checkpoint)
    reference.inject(theirs, monkeypatch, noise)
    want = diffusers_frames(theirs, image, latents)
    got = folded(image, cut_step="none", latents=latents, noise=noise).frames
    assert want.std() > 10  # a flat picture would agree with anything
    assert psnr(got, want) >= 50


def test_options_mean_what_they_mean_in_diffusers(
    folded: Pipeline,
    tiny_checkpoint: Path,
    image: Image.Image,
    latents: np.ndarray,
    noise: np.ndarray,
    monkeypatch: Any,
) -> None:
    options = {
        "num_inference_steps": 4,
        "min_guidance_scale": 1.5,
        "max_guidance_scale": 4.0,
        "fps": 12,
        "motion_bucket_id": 30,
        "noise_aug_strength": 0.3,
    }
    theirs = reference.load(tiny_checkpoint)
    reference.inject(theirs, monkeypatch, noise)
    want = diffusers_frames(theirs, image, latents, decode_chunk_size=5, **options)
    got = folded(image, cut_step="none", latents=latents, noise=noise, decode_chunk_size=5, **options)
    assert psnr(got.frames, want) >= 50
    assert got.fps == 12
    plain = folded(image, cut_step="none", latents=latents, noise=noise, decode_chunk_size=5, num_inference_steps=4)
    assert psnr(plain.frames, want) < 45  # the options matter


def test_guidance_of_one_or_less_is_no_guidance_as_in_diffusers(
    folded: Pipeline,
    tiny_checkpoint: Path,
    image: Image.Image,
    latents: np.ndarray,
    noise: np.ndarray,
    monkeypatch: Any,
) -> None:
    options = {"num_inference_steps": 3, "min_guidance_scale": 0.5, "max_guidance_scale": 1.0}
    theirs = reference.load(tiny_checkpoint)
    reference.inject(theirs, monkeypatch, noise)
    want = diffusers_frames(theirs, image, latents, **options)
    got = folded(image, cut_step="none", latents=latents, noise=noise, **options)
    assert psnr(got.frames, want) >= 50


@pytest.mark.slow
def test_other_sizes_than_the_bundles_are_diffusers_too(
    slim_dynamic_bundle: Path, slim_checkpoint: Path, photo: Image.Image, monkeypatch: Any
) -> None:
    pipeline, draw = Pipeline.load(slim_dynamic_bundle), np.random.default_rng(5)
    for frames, height, width in ((5, 128, 64), (3, 72, 184), (4, 104, 88), (14, 64, 128)):
        image = photo.resize((width, height), Image.Resampling.LANCZOS)
        latents = draw.standard_normal((1, frames, 4, height // 8, width // 8), dtype=np.float32)
        noise = draw.standard_normal((1, 3, height, width), dtype=np.float32)
        theirs = reference.load(slim_checkpoint)
        reference.inject(theirs, monkeypatch, noise)
        want = diffusers_frames(theirs, image, latents, num_inference_steps=4)
        sizes: Any = {"num_frames": frames, "height": height, "width": width}
        got = pipeline(image, cut_step="none", num_inference_steps=4, latents=latents, noise=noise, **sizes).frames
        assert got.shape == (frames, height, width, 3)
        assert want.std() > 10
        assert psnr(got, want) >= 50


def test_a_dynamic_bundle_makes_the_video_of_a_fixed_one(
    dynamic_bundle: Path, small: Pipeline, photo: Image.Image
) -> None:
    dynamic, draw = Pipeline.load(dynamic_bundle), np.random.default_rng(6)
    frames, height, width = small.manifest.sizes
    latents = draw.standard_normal((1, frames, *small.manifest.geometry.latent_shape()), dtype=np.float32)
    noise = draw.standard_normal((1, 3, height, width), dtype=np.float32)
    want = small(photo, latents=latents, noise=noise).frames
    got = dynamic(photo, latents=latents, noise=noise, num_frames=frames, height=height, width=width).frames
    assert want.std() > 10
    assert psnr(got, want) >= 60


@pytest.mark.parametrize("sizes", [(4, 40, 28), (2, 24, 24), (5, 48, 48), (2, 48, 24), (3, 26, 46)])
def test_all_sizes_in_the_ranges_are_made(dynamic_bundle: Path, photo: Image.Image, sizes: tuple[int, ...]) -> None:
    frames, height, width = sizes
    pipeline = Pipeline.load(dynamic_bundle)
    progress: list[tuple[str, int, int]] = []
    video = pipeline(
        photo, seed=1, num_frames=frames, height=height, width=width, progress=lambda *event: progress.append(event)
    )
    assert video.frames.shape == (frames, height, width, 3)
    assert progress[-1] == ("decode", frames, frames)
    if sizes == pipeline.manifest.sizes:
        assert np.array_equal(video.frames, pipeline(photo, seed=1).frames)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"num_frames": 1}, r"num_frames is 1, this bundle makes 2\.\.5$"),
        ({"num_frames": 6}, r"num_frames is 6"),
        ({"height": 52}, r"height is 52, this bundle makes 24\.\.48 in steps of 2"),
        ({"width": 25}, r"width is 25"),
        ({"width": 0}, r"width is 0"),
        ({"height": 40, "width": -24}, r"width is -24"),
        ({"height": 24, "latents": np.zeros((1, 4, 4, 20, 14))}, "latents has shape"),
        ({"width": 48, "noise": np.zeros((1, 3, 40, 28))}, "noise has shape"),
    ],
)
def test_sizes_outside_the_ranges_are_refused_on_one_line(
    dynamic_bundle: Path, photo: Image.Image, sizes: Any, says: str
) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        Pipeline.load(dynamic_bundle)(photo, **sizes)
    assert "\n" not in str(caught.value)


def test_a_fixed_bundle_takes_its_own_sizes_alone(small: Pipeline, photo: Image.Image) -> None:
    frames, height, width = small.manifest.sizes
    video = small(photo, seed=2, num_frames=frames, height=height, width=width)
    assert np.array_equal(video.frames, small(photo, seed=2).frames)
    for name, size in (("frames", frames), ("height", height), ("width", width)):
        option = "num_frames" if name == "frames" else name
        with pytest.raises(UsageError, match=rf"{size} only: export it with --dynamic {name}=MIN:MAX"):
            small(photo, **dict[str, Any]([(option, size + 8)]))


@pytest.mark.slow
@pytest.mark.parametrize("tca", ["remove", "fold"])
def test_cut_at_17_is_sixteen_guided_and_nine_conditional_steps(
    tca: str,
    tiny_bundle: Callable[[str], Path],
    tiny_checkpoint: Path,
    image: Image.Image,
    latents: np.ndarray,
    noise: np.ndarray,
) -> None:
    theirs = reference.load(tiny_checkpoint)
    if tca == "remove":
        reference.take_out_tca(theirs.unet)
    want = reference.vcut_loop(theirs, image, latents, noise, cut_step=17)
    seen: list[tuple[int, Step]] = []
    got = Pipeline.load(tiny_bundle(tca))(
        image, latents=latents, noise=noise, callback=lambda number, step, _: seen.append((number, step))
    )
    assert [step.graph for _, step in seen] == ["semantic_binding"] * 16 + ["quality_improvement"] * 9
    assert [number for number, _ in seen] == list(range(1, 26))
    assert psnr(got.frames, want) >= 50


@pytest.mark.parametrize("interval", [2, 3])
def test_a_cache_interval_is_deepcache_on_diffusers(
    interval: int,
    folded: Pipeline,
    tiny_checkpoint: Path,
    image: Image.Image,
    latents: np.ndarray,
    noise: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reference is the package of DeepCache's authors, on unmodified diffusers."""
    from DeepCache import DeepCacheSDHelper

    theirs = reference.load(tiny_checkpoint)
    reference.inject(theirs, monkeypatch, noise)
    options: Any = {"num_inference_steps": 7}
    exact = diffusers_frames(theirs, image, latents, **options)
    helper = DeepCacheSDHelper(pipe=theirs)
    helper.set_params(cache_interval=interval, cache_branch_id=0)
    helper.enable()
    want = diffusers_frames(theirs, image, latents, **options)
    got = folded(image, latents=latents, noise=noise, cut_step="none", cache_interval=interval, **options)
    assert psnr(got.frames, want) >= 50
    assert psnr(exact, want) < 45  # it is another video


@pytest.mark.parametrize("cut_step", [1, 4, 5])
def test_each_stage_begins_with_all_layers(
    cut_step: int,
    folded: Pipeline,
    tiny_checkpoint: Path,
    image: Image.Image,
    latents: np.ndarray,
    noise: np.ndarray,
) -> None:
    options: Any = {"cut_step": cut_step, "cache_interval": 2}
    want = reference.vcut_loop(reference.load(tiny_checkpoint), image, latents, noise, steps=6, **options)
    seen: list[tuple[int, Step]] = []
    got = folded(
        image,
        latents=latents,
        noise=noise,
        num_inference_steps=6,
        callback=lambda number, step, _: seen.append((number, step)),
        **options,
    )
    assert psnr(got.frames, want) >= 50
    full = [number for number, step in seen if not step.graph.endswith("_shallow")]
    assert full == {1: [1, 3, 5], 4: [1, 3, 4, 6], 5: [1, 3, 5]}[cut_step]


def test_without_guidance_each_stage_still_begins_with_all_layers(
    deep_bundle: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline.load(deep_bundle)
    ran: list[str] = []
    run = pipeline.backend.run
    monkeypatch.setattr(pipeline.backend, "run", lambda graph, inputs: (ran.append(graph), run(graph, inputs))[1])
    pipeline(photo, seed=0, max_guidance_scale=1.0, num_inference_steps=6, cut_step=4, cache_interval=2)
    full, shallow = "quality_improvement", "quality_improvement_shallow"
    assert ran[1:7] == [full, shallow, full, full, shallow, full]


def test_images_of_a_list_do_not_share_deep_features(deep_bundle: Path, photo: Image.Image) -> None:
    pipeline, other = Pipeline.load(deep_bundle), photo.rotate(90)
    both = pipeline([photo, other], seed=0, cache_interval=3)
    assert np.array_equal(both[1].frames, pipeline(other, seed=1, cache_interval=3).frames)


def test_an_interval_of_one_is_no_cache(deep_bundle: Path, small_bundle: Path, photo: Image.Image) -> None:
    options: Any = {"seed": 0, "num_inference_steps": 4, "cut_step": 3}
    frames = Pipeline.load(deep_bundle)(photo, cache_interval=1, **options).frames
    assert np.array_equal(frames, Pipeline.load(small_bundle)(photo, **options).frames)


@pytest.mark.parametrize("quality_bias", ["mean", "cond"])
@pytest.mark.parametrize("cut_step", [1, 2, 4])
def test_every_cut_and_bias_follows_the_reference_loop(
    cut_step: int,
    quality_bias: Any,
    removed: Pipeline,
    tiny_checkpoint: Path,
    image: Image.Image,
    latents: np.ndarray,
    noise: np.ndarray,
) -> None:
    theirs = reference.load(tiny_checkpoint)
    reference.take_out_tca(theirs.unet)
    options: Any = {"cut_step": cut_step, "quality_bias": quality_bias}
    want = reference.vcut_loop(theirs, image, latents, noise, steps=3, **options)
    got = removed(image, latents=latents, noise=noise, num_inference_steps=3, **options)
    assert psnr(got.frames, want) >= 50


def test_the_cut_and_the_bias_change_the_video(removed: Pipeline, image: Image.Image) -> None:
    options: list[dict[str, Any]] = [
        {"cut_step": "none"},
        {"cut_step": 2},
        {"cut_step": 2, "quality_bias": "cond"},
        {"cut_step": 1},
    ]
    frames = [removed(image, seed=0, num_inference_steps=3, **chosen).frames for chosen in options]
    for first, second in combinations(frames, 2):
        assert psnr(first, second) < 60


def test_chunks_of_every_size_agree_with_diffusers_chunks(
    folded: Pipeline,
    tiny_checkpoint: Path,
    image: Image.Image,
    latents: np.ndarray,
    noise: np.ndarray,
    monkeypatch: Any,
) -> None:
    theirs = reference.load(tiny_checkpoint)
    reference.inject(theirs, monkeypatch, noise)
    for chunk in (1, 13, 14, 99):  # 13 leaves a chunk of a single frame
        want = diffusers_frames(theirs, image, latents, num_inference_steps=1, decode_chunk_size=chunk)
        got = folded(
            image, cut_step="none", num_inference_steps=1, latents=latents, noise=noise, decode_chunk_size=chunk
        )
        assert psnr(got.frames, want) >= 50


def test_the_same_seed_gives_the_same_video(small: Pipeline, photo: Image.Image) -> None:
    video, again, other = small(photo, seed=5), small(photo, seed=5), small(photo, seed=6)
    assert np.array_equal(video.frames, again.frames)
    assert not np.array_equal(video.frames, other.frames)
    assert video.seed == 5


def test_a_random_seed_is_reported_and_reproduces_the_video(small: Pipeline, photo: Image.Image) -> None:
    video = small(photo)
    assert video.seed is not None
    assert np.array_equal(small(photo, seed=video.seed).frames, video.frames)


def test_a_list_of_images_gives_a_list_with_counted_seeds(small: Pipeline, photo: Image.Image) -> None:
    flipped = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    both = small([photo, flipped], seed=8)
    assert [video.seed for video in both] == [8, 9]
    assert np.array_equal(both[1].frames, small(flipped, seed=9).frames)
    assert small([], seed=1) == []


def test_injected_arrays_serve_one_image_each_or_all(small: Pipeline, photo: Image.Image) -> None:
    draw = np.random.default_rng(0)
    shape, manifest = small.manifest.geometry.latent_shape(), small.manifest
    two = draw.standard_normal((2, manifest.frames, *shape), dtype=np.float32)
    noise = draw.standard_normal((1, 3, manifest.height, manifest.width), dtype=np.float32)
    both = small([photo, photo], latents=two, noise=noise)
    assert both[0].seed is None
    assert np.array_equal(both[1].frames, small(photo, latents=two[1:], noise=noise).frames)
    assert not np.array_equal(both[0].frames, both[1].frames)


def test_frames_timings_and_progress(small: Pipeline, photo: Image.Image) -> None:
    progress: list[tuple[str, int, int]] = []
    steps: list[tuple[int, Step, tuple[int, ...]]] = []
    video = small(
        photo,
        seed=0,
        callback=lambda number, step, latents: steps.append((number, step, latents.shape)),
        progress=lambda *event: progress.append(event),
    )
    manifest = small.manifest
    assert video.frames.shape == (manifest.frames, manifest.height, manifest.width, 3)
    assert video.frames.dtype == np.uint8
    assert set(video.timings) == {"load", "condition", "semantic_binding", "quality_improvement", "decode"}
    assert [shape for *_, shape in steps] == [(1, manifest.frames, *manifest.geometry.latent_shape())] * 4
    assert tuple(step for _, step, _ in steps) == manifest.schedule
    assert [number for number, *_ in steps] == [1, 2, 3, 4]
    assert steps[0][1].sigma == 700.0
    assert steps[-1][1].coefficients == (0.0, 1.0, 0.0)
    for stage, total in (("condition", 1), ("semantic_binding", 2), ("quality_improvement", 2), ("decode", 3)):
        events = [(done, of) for name, done, of in progress if name == stage]
        assert events[0] == (0, total)
        assert events[-1] == (total, total)


def test_a_failing_callback_stops_the_run(small: Pipeline, photo: Image.Image) -> None:
    def stop(number: int, step: Step, latents: np.ndarray) -> None:
        raise KeyboardInterrupt

    expected = small(photo, seed=0).frames
    with pytest.raises(KeyboardInterrupt):
        small(photo, seed=0, callback=stop)
    assert np.array_equal(small(photo, seed=0).frames, expected)  # and leaves the pipeline as it was


def test_a_callback_cannot_use_its_own_pipeline(small: Pipeline, photo: Image.Image) -> None:
    with pytest.raises(UsageError, match="do it afterwards"):
        small(photo, seed=0, callback=lambda *_: small(photo))


def test_the_time_of_a_video_is_that_of_its_steps(small: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    assert small.estimate_seconds() == 0  # nobody waits for a small model
    times = {"semantic_binding": 100.0, "quality_improvement": 10.0}
    monkeypatch.setattr(small.backend, "step_seconds", lambda graph, sizes: times[graph])
    assert small.estimate_seconds() == 220
    assert small.estimate_seconds(cut_step="none") == 400
    with pytest.raises(UsageError, match="at least 1"):
        small.estimate_seconds(num_inference_steps=0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_inference_steps": 0}, "at least 1"),
        ({"cut_step": 0}, "outside 1..5"),
        ({"cut_step": 6}, "outside 1..5"),
        ({"decode_chunk_size": 0}, "at least 1"),
        ({"cache_interval": 0}, "at least 1"),
        ({"cache_interval": 2}, "no shallow steps: export it with --deep-cache"),
        ({"fps": 0}, "at least 1"),
        ({"fps": 3_000_000_000}, "at most 1000"),
        ({"noise_aug_strength": float("nan")}, "finite"),
        ({"max_guidance_scale": float("inf")}, "finite"),
        ({"noise_aug_strength": -1.0}, "at least 0"),
        ({"quality_bias": "median"}, "unknown quality_bias 'median': choose mean, cond"),
        ({"seed": -1}, "at least 0"),
        ({"latents": np.zeros((1, 3, 4, 16, 17))}, "latents has shape"),
        ({"noise": np.zeros((3, 32, 32))}, "noise has shape"),
        ({"fit": "zoom"}, "unknown fit 'zoom': choose stretch, crop, pad, blur"),
        ({"cut_step": "never"}, "cut_step is 'never': give a whole number or 'none'"),
        ({"schedule": "quick"}, "unknown schedule 'quick': choose vcut, exact, balanced, fast"),
        ({"schedule": ()}, "cannot play the schedule: it has no step"),
        ({"schedule": "exact", "cut_step": 2}, "schedule and cut_step exclude each other"),
        ({"schedule": "exact", "cut_step": "none"}, "schedule and cut_step exclude each other"),
        ({"schedule": "vcut", "num_inference_steps": 4}, "schedule and num_inference_steps exclude each other"),
        ({"schedule": "vcut", "quality_bias": "cond"}, "schedule and quality_bias exclude each other"),
        ({"cutstep": 2}, "unknown option 'cutstep': did you mean cut_step"),
        ({"xyz": 2}, "unknown option 'xyz': choose from schedule, size"),
    ],
)
def test_impossible_options_are_refused_on_one_line(
    small: Pipeline, photo: Image.Image, options: Any, says: str
) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        small(photo, **options)
    assert "\n" not in str(caught.value)


def test_fewer_steps_cut_at_the_same_noise_level(removed: Pipeline, image: Image.Image) -> None:
    seen: list[tuple[int, Step]] = []
    removed(image, seed=0, num_inference_steps=5, callback=lambda number, step, _: seen.append((number, step)))
    guided = [step for _, step in seen if step.bias == "both"]
    assert len(guided) == 3  # 16 of 25
    assert guided[-1].sigma > removed.manifest.schedule[16].sigma >= seen[3][1].sigma


def test_an_unknown_backend_is_refused(small_bundle: Path) -> None:
    with pytest.raises(UsageError, match="unknown backend"):
        Pipeline.load(small_bundle, backend="tpu")


@pytest.mark.parametrize("unknown", [{"thread": 2}, {"low-memory": True}])
def test_an_unknown_option_of_the_backend_is_refused_on_one_line(small_bundle: Path, unknown: Any) -> None:
    with pytest.raises(UsageError, match=r"unknown option .*: did you mean") as caught:
        Pipeline.load(small_bundle, **unknown)
    assert "\n" not in str(caught.value)


def test_options_come_as_a_record_or_as_keywords(small: Pipeline, photo: Image.Image) -> None:
    options = RunOptions(seed=3, cut_step=2, fps=9)
    video = small(photo, options)
    assert (video.fps, video.seed) == (9, 3)
    assert np.array_equal(video.frames, small(photo, seed=3, cut_step=2, fps=9).frames)
    other = small(photo, options, cut_step=1)
    assert (other.fps, other.seed) == (9, 3)
    assert np.array_equal(other.frames, small(photo, seed=3, cut_step=1, fps=9).frames)
    assert not np.array_equal(other.frames, video.frames)


def test_the_rate_of_the_video_is_not_the_condition(small: Pipeline, photo: Image.Image) -> None:
    plain = small(photo, seed=3, cut_step=2, fps=9)
    slow = small(photo, seed=3, cut_step=2, fps=9, output_fps=4.5)
    assert (plain.fps, slow.fps) == (9, 4.5)
    assert np.array_equal(plain.frames, slow.frames)
    assert not np.array_equal(plain.frames, small(photo, seed=3, cut_step=2, fps=4.5).frames)


def test_a_video_has_notes_about_its_image(small: Pipeline, photo: Image.Image) -> None:
    tall = photo.resize((100, 150))
    (note,) = small.notes(tall)
    assert "is stretched 1.50 x in width to 32x32" in note
    assert [video.notes for video in small([tall, photo], seed=1)] == [(note,), ()]
    assert small.notes(tall, fit="crop") == ()


def test_a_size_for_each_photograph(dynamic_bundle: Path, photo: Image.Image) -> None:
    """As the size by name, injected latents included; without the option the bundle's size stays."""
    dynamic, tall = Pipeline.load(dynamic_bundle), photo.resize((100, 200))
    videos = dynamic([tall, photo], seed=5, size="auto")
    assert [video.frames.shape for video in videos] == [(4, 48, 24, 3), (4, 34, 34, 3)]
    assert np.array_equal(videos[0].frames, dynamic(tall, seed=5, height=48, width=24).frames)
    assert dynamic(tall, seed=5).frames.shape == (4, 40, 28, 3)
    latents = np.random.default_rng(0).standard_normal((1, 4, 4, 24, 12), dtype=np.float32)
    injected = dynamic(tall, seed=5, size="auto", latents=latents)
    assert np.array_equal(injected.frames, dynamic(tall, seed=5, height=48, width=24, latents=latents).frames)
    with pytest.raises(UsageError, match="latents has shape"):
        dynamic([tall, photo], size="auto", latents=latents)


def test_named_schedules_are_those_of_the_cut_steps(small: Pipeline, photo: Image.Image) -> None:
    vcut, exact = (small(photo, seed=0, schedule=name).frames for name in ("vcut", "exact"))
    assert np.array_equal(vcut, small(photo, seed=0).frames)
    assert np.array_equal(exact, small(photo, seed=0, cut_step="none").frames)
    assert psnr(vcut, exact) < 60
    rows = small.manifest.schedules["exact"]
    assert np.array_equal(exact, small(photo, seed=0, schedule=rows).frames)
    assert np.array_equal(exact, small(photo, seed=0, schedule=list(rows)).frames)


def own_loop(
    pipeline: Any,
    image: Image.Image,
    latents: np.ndarray,
    noise: np.ndarray,
    sigmas: Sequence[float],
    window: tuple[int, int],
    following: Callable[[Any, list[Any], int], Any],
) -> np.ndarray:
    """Return the frames of a sampler of the tests' own on diffusers' modules.

    Steps in ``window`` are guided, the others conditional. ``following`` gives the next latents from the latents, all
    predictions so far and the number of the step.
    """
    import torch

    frames = latents.shape[1]
    embedding = pipeline._encode_image(image, "cpu", 1, False)
    pixels = pipeline.video_processor.preprocess(image, height=image.height, width=image.width)
    z = pipeline.vae.encode(pixels + 0.02 * torch.from_numpy(noise)).latent_dist.mode()
    z = z[:, None].repeat(1, frames, 1, 1, 1)
    ids = torch.tensor([[6, 127, 0.02]])
    scale = torch.linspace(1.0, 3.0, frames)[None, :, None, None, None]

    def velocity(x: Any, sigma: float, condition: float) -> Any:
        sample = torch.cat([x / (sigma**2 + 1) ** 0.5, condition * z], dim=2)
        return pipeline.unet(sample, torch.tensor(0.25 * np.log(sigma)), condition * embedding, ids).sample

    x = torch.from_numpy(latents) * (sigmas[0] ** 2 + 1) ** 0.5
    denoised: list[Any] = []
    for number, sigma in enumerate(sigmas[:-1], start=1):
        v = velocity(x, sigma, 1.0)
        if window[0] <= number < window[1]:
            unconditional = velocity(x, sigma, 0.0)
            v = unconditional + scale * (v - unconditional)
        denoised.append(x / (sigma**2 + 1) - v * sigma / (sigma**2 + 1) ** 0.5)
        x = following(x, denoised, number)
    decoded = pipeline.decode_latents(x, frames, frames)
    return reference.to_uint8(pipeline.video_processor.postprocess_video(decoded, output_type="np")[0])


def dpm_solver(sigmas: Sequence[float]) -> Callable[[Any, list[Any], int], Any]:
    """DPM-Solver++ (2M; Lu et al. 2022) in terms of log sigma: predictions are continued to the middle of the step."""

    def following(x: Any, denoised: list[Any], number: int) -> Any:
        sigma, end = sigmas[number - 1], sigmas[number]
        direction = denoised[-1]
        if number > 1 and end > 0.0:
            before, now, after = (-np.log(s) for s in (sigmas[number - 2], sigma, end))
            slope = (denoised[-1] - denoised[-2]) / (now - before)
            direction = denoised[-1] + slope * (after - now) / 2.0
        return end / sigma * x + (1.0 - end / sigma) * direction

    return following


@pytest.fixture(scope="module")
def without_tca(small_checkpoint: Path) -> Any:
    """diffusers' pipeline without TCA, as the small bundle's."""
    theirs = reference.load(small_checkpoint)
    reference.take_out_tca(theirs.unet)
    return theirs


@pytest.fixture(scope="module")
def drawn(photo: Image.Image) -> dict[str, Any]:
    """The small bundle's photograph, latents and noise."""
    draw = np.random.default_rng(7)
    return {
        "image": photo.resize((32, 32), Image.Resampling.LANCZOS),
        "latents": draw.standard_normal((1, 3, 4, 16, 16), dtype=np.float32),
        "noise": draw.standard_normal((1, 3, 32, 32), dtype=np.float32),
    }


@pytest.mark.parametrize(
    ("sigmas", "window"),
    [("karras", (1, 1)), ("karras", (1, 4)), ("ays", (1, 7)), ("ays", (3, 6)), ([9, 3, 1, 0], (2, 4))],
)
def test_dpmpp_2m_is_a_loop_over_diffusers_modules(
    sigmas: Any, window: tuple[int, int], small: Pipeline, without_tca: Any, drawn: dict[str, Any]
) -> None:
    import torch

    steps = None if isinstance(sigmas, list) else 6
    levels = choose_sigmas(small.manifest.scheduler, sigmas, "dpmpp-2m", steps, 4).tolist()
    with torch.no_grad():
        want = own_loop(without_tca, **drawn, sigmas=levels, window=window, following=dpm_solver(levels))
    options: dict[str, Any] = {"guide_from": window[0], "cut_step": window[1], "quality_bias": "cond"}
    options |= {"sigmas": sigmas, "num_inference_steps": steps}
    got = small(**drawn, solver="dpmpp-2m", **options).frames
    assert want.std() > 10
    assert psnr(got, want) >= 50
    assert psnr(small(**drawn, **options).frames, want) < 45  # the step before matters


def test_lcm_is_a_loop_over_diffusers_modules(small: Pipeline, without_tca: Any, drawn: dict[str, Any]) -> None:
    """The noise after each step is a stream of its own."""
    import torch

    levels = GRIDS["lcm"].make(small.manifest.scheduler, 4).tolist()
    latents, noise = (normal(3, stream, drawn[name].shape) for stream, name in enumerate(("latents", "noise")))
    fresh = [torch.from_numpy(normal(3, after_step(step), latents.shape)) for step in (1, 2, 3)]

    def jump(x: Any, denoised: list[Any], number: int) -> Any:
        return denoised[-1] + (levels[number] * fresh[number - 1] if number < 4 else 0)

    with torch.no_grad():
        want = own_loop(without_tca, drawn["image"], latents, noise, levels, (5, 5), jump)
    got = small(drawn["image"], seed=3, solver="lcm").frames
    assert want.std() > 10
    assert psnr(got, want) >= 50
    assert not np.array_equal(got, small(drawn["image"], seed=4, solver="lcm").frames)


def test_noise_of_a_row_comes_from_the_seed(small: Pipeline, photo: Image.Image) -> None:
    rows = list(small.manifest.schedule)
    rows[1] = msgspec.structs.replace(rows[1], noise=5.0)
    arrays: dict[str, Any] = {
        "latents": np.random.default_rng(0).standard_normal((1, 3, 4, 16, 16), dtype=np.float32),
        "noise": np.zeros((1, 3, 32, 32), np.float32),
    }
    kept: dict[int, list[np.ndarray]] = {}

    def keep(number: int, step: Step, latents: np.ndarray) -> None:
        kept.setdefault(number, []).append(latents.copy())

    quiet = small(photo, **arrays, callback=keep)
    noisy = small(photo, seed=1, schedule=tuple(rows), **arrays, callback=keep)
    again = small(photo, seed=1, schedule=tuple(rows), **arrays)
    other = small(photo, seed=2, schedule=tuple(rows), **arrays)
    assert (quiet.seed, noisy.seed, other.seed) == (None, 1, 2)
    assert np.array_equal(noisy.frames, again.frames)
    assert not np.array_equal(noisy.frames, other.frames)
    assert not np.array_equal(noisy.frames, quiet.frames)
    without, with_noise = kept[1]
    assert np.array_equal(without, with_noise)
    without, with_noise = kept[2]
    added = (with_noise - without) / 5.0
    assert abs(added.mean()) < 0.1
    assert added.std() == pytest.approx(1.0, abs=0.1)
    assert small(photo, schedule=tuple(rows), **arrays).seed is not None  # a random seed


def test_given_rows_are_checked_against_the_bundle(small: Pipeline, photo: Image.Image) -> None:
    rows = small.manifest.schedule
    wrong = (*rows[:2], Step(rows[2].sigma, "quality_improvement_shallow", "mean", (0.5, 0.5, 0.0)))
    with pytest.raises(UsageError, match=r"this bundle cannot play the schedule: step 3 runs .*_shallow") as caught:
        small(photo, schedule=wrong)
    assert "\n" not in str(caught.value)


def recorded(manifest: Manifest, **options: Any) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Return each graph that a video runs, with its inputs."""
    backend = Recorder(manifest)
    Pipeline(Bundle(Path("nowhere"), manifest), backend)(np.zeros((64, 96, 3)), seed=0, **options)
    return backend.runs


def test_every_step_gets_the_values_of_its_row() -> None:
    manifest = example()
    condition, *steps, (last, _) = recorded(manifest)
    assert (condition[0], last) == ("condition", "decode")
    assert [graph for graph, _ in steps] == [row.graph for row in manifest.schedule]
    for number, ((graph, inputs), row) in enumerate(zip(steps, manifest.schedule, strict=True), start=1):
        assert inputs.keys() == {tensor.name for tensor in manifest.graphs[graph].inputs}
        assert inputs["sigma"].dtype == inputs["coefficients"].dtype == np.float32
        np.testing.assert_allclose(inputs["sigma"], [row.sigma], rtol=1e-6)
        np.testing.assert_allclose(inputs["coefficients"], row.coefficients, rtol=1e-6)
        assert inputs["sca_bias"].shape == (GRAPHS[graph].rows, 96)
        assert (inputs["previous_denoised"] == (0 if number == 1 else number)).all()  # run 1 is condition
        assert number == 1 or (inputs["latents"] == number).all()


def test_shallow_steps_get_the_features_of_the_latest_full_step() -> None:
    steps = recorded(example(deep=True), cache_interval=3, num_inference_steps=7, cut_step=5)[1:8]
    full = [number for number, (graph, _) in enumerate(steps, start=1) if not graph.endswith("_shallow")]
    assert full == [1, 4, 5]
    for number, (graph, inputs) in enumerate(steps, start=1):
        assert ("deep_features" in inputs) == graph.endswith("_shallow")
        if number not in full:
            latest = max(step for step in full if step < number)
            assert (inputs["deep_features"] == latest + 1).all()  # run 1 is condition
            assert inputs["deep_features"].shape[0] == GRAPHS[graph].rows


@pytest.mark.parametrize("graph", ["condition", "semantic_binding", "quality_improvement", "decode"])
def test_an_input_added_to_a_record_gets_its_default(graph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = ("n", "F", "C", "h", "N") if graph == "decode" else (3, "F", "W")
    record = GRAPHS[graph]
    extra = replace(record.inputs[0], name="extra", shape=shape, default=2.5)
    monkeypatch.setitem(GRAPHS, graph, replace(record, inputs=(*record.inputs, extra)))  # pyright: ignore
    manifest = example()
    entry = manifest.graphs[graph]
    entry = msgspec.structs.replace(entry, inputs=(*entry.inputs, TensorSpec("extra", "float32", shape)))
    manifest = msgspec.structs.replace(manifest, graphs={**manifest.graphs, graph: entry})
    runs = recorded(manifest, num_inference_steps=4, decode_chunk_size=10)
    values = [(len(inputs.get("latents", ())), inputs["extra"]) for name, inputs in runs if name == graph]
    assert len(values) == {"condition": 1, "semantic_binding": 2, "quality_improvement": 2, "decode": 2}[graph]
    for n, value in values:
        assert value.dtype == np.float32
        assert value.shape == ((n, 14, 4, 8, 96) if graph == "decode" else (3, 14, 96))
        assert (value == 2.5).all()
    assert all("extra" not in inputs for name, inputs in runs if name != graph)
