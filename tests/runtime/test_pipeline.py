"""The compiled pipeline against diffusers' own, on the same checkpoint, latents and noise. Weights are random."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import reference
from conftest import psnr
from vcut_runtime import Pipeline, Step, UsageError

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
    got = folded(image, cut_step=None, latents=latents, noise=noise).frames
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
    got = folded(image, cut_step=None, latents=latents, noise=noise, decode_chunk=5, **options)
    assert psnr(got.frames, want) >= 50
    assert got.fps == 12
    plain = folded(image, cut_step=None, latents=latents, noise=noise, decode_chunk=5, num_inference_steps=4)
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
    got = folded(image, cut_step=None, latents=latents, noise=noise, **options)
    assert psnr(got.frames, want) >= 50


@pytest.mark.slow
def test_other_sizes_than_the_bundles_are_diffusers_too(
    slim_dynamic_bundle: Path, slim_checkpoint: Path, photo: Image.Image, monkeypatch: Any
) -> None:
    pipeline, draw = Pipeline.load(slim_dynamic_bundle), np.random.default_rng(5)
    for frames, height, width in ((5, 128, 64), (3, 64, 192), (14, 64, 128)):
        image = photo.resize((width, height), Image.Resampling.LANCZOS)
        latents = draw.standard_normal((1, frames, 4, height // 8, width // 8), dtype=np.float32)
        noise = draw.standard_normal((1, 3, height, width), dtype=np.float32)
        theirs = reference.load(slim_checkpoint)
        reference.inject(theirs, monkeypatch, noise)
        want = diffusers_frames(theirs, image, latents, num_inference_steps=4)
        sizes: Any = {"num_frames": frames, "height": height, "width": width}
        got = pipeline(image, cut_step=None, num_inference_steps=4, latents=latents, noise=noise, **sizes).frames
        assert got.shape == (frames, height, width, 3)
        assert want.std() > 10
        assert psnr(got, want) >= 50


def test_a_dynamic_bundle_makes_the_video_of_a_fixed_one(
    dynamic_bundle: Path, small: Pipeline, photo: Image.Image
) -> None:
    dynamic, draw = Pipeline.load(dynamic_bundle), np.random.default_rng(6)
    frames, height, width = small.manifest.sizes
    latents = draw.standard_normal((1, frames, *small.manifest.latent_shape), dtype=np.float32)
    noise = draw.standard_normal((1, 3, height, width), dtype=np.float32)
    want = small(photo, latents=latents, noise=noise).frames
    got = dynamic(photo, latents=latents, noise=noise, num_frames=frames, height=height, width=width).frames
    assert want.std() > 10
    assert psnr(got, want) >= 60


@pytest.mark.parametrize("sizes", [(4, 40, 28), (2, 24, 24), (5, 48, 48), (2, 48, 24)])
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
        ({"height": 52}, r"height is 52, this bundle makes 24\.\.48 in steps of 4"),
        ({"width": 26}, r"width is 26"),
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
    one = small(photo, seed=2, num_frames=frames, height=height, width=width)
    assert np.array_equal(one.frames, small(photo, seed=2).frames)
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
    seen: list[Step] = []
    got = Pipeline.load(tiny_bundle(tca))(
        image, latents=latents, noise=noise, callback=lambda step, _: seen.append(step)
    )
    assert [step.stage for step in seen] == ["semantic_binding"] * 16 + ["quality_improvement"] * 9
    assert [step.index for step in seen] == list(range(1, 26))
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
    """The package of DeepCache's authors, on unmodified diffusers, is the reference."""
    from DeepCache import DeepCacheSDHelper

    theirs = reference.load(tiny_checkpoint)
    reference.inject(theirs, monkeypatch, noise)
    options: Any = {"num_inference_steps": 7}
    exact = diffusers_frames(theirs, image, latents, **options)
    helper = DeepCacheSDHelper(pipe=theirs)
    helper.set_params(cache_interval=interval, cache_branch_id=0)
    helper.enable()
    want = diffusers_frames(theirs, image, latents, **options)
    got = folded(image, latents=latents, noise=noise, cut_step=None, cache_interval=interval, **options)
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
    seen: list[Step] = []
    got = folded(
        image,
        latents=latents,
        noise=noise,
        num_inference_steps=6,
        callback=lambda step, _: seen.append(step),
        **options,
    )
    assert psnr(got.frames, want) >= 50
    assert [s.index for s in seen if not s.shallow] == {1: [1, 3, 5], 4: [1, 3, 4, 6], 5: [1, 3, 5]}[cut_step]


def test_a_run_that_goes_on_keeps_the_cache_interval(deep_bundle: Path, photo: Image.Image) -> None:
    pipeline, kept = Pipeline.load(deep_bundle), {}
    whole = pipeline(photo, seed=0, cache_interval=2, callback=lambda step, x: kept.update({step.index: x.copy()}))

    def from_step(start: int) -> np.ndarray:
        return pipeline(photo, seed=0, cache_interval=2, start_step=start, latents=kept[start - 1]).frames

    assert np.array_equal(from_step(3), whole.frames)  # steps 1, 3, 5 and 7 compute all layers
    assert np.array_equal(from_step(5), whole.frames)
    assert not np.array_equal(from_step(4), whole.frames)  # no deep features to take: it computes them


def test_a_run_that_starts_between_computes_all_layers(deep_bundle: Path, photo: Image.Image) -> None:
    pipeline = Pipeline.load(deep_bundle)
    seen: list[Step] = []
    latents = np.zeros((1, 3, 4, 16, 16), np.float32)
    options: Any = {"latents": latents, "cache_interval": 2, "callback": lambda step, _: seen.append(step)}
    pipeline(photo, seed=0, start_step=4, **options)
    assert [(step.index, step.shallow) for step in seen] == [(4, False), (5, False), (6, True), (7, False)]


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
        {"cut_step": None},
        {"cut_step": 2},
        {"cut_step": 2, "quality_bias": "cond"},
        {"cut_step": 1},
    ]
    frames = [removed(image, seed=0, num_inference_steps=3, **chosen).frames for chosen in options]
    for i, one in enumerate(frames):
        assert all(psnr(one, other) < 60 for other in frames[i + 1 :])


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
    for chunk in (1, 13, 14, 99):  # 13 leaves a chunk of one frame
        want = diffusers_frames(theirs, image, latents, num_inference_steps=1, decode_chunk_size=chunk)
        got = folded(image, cut_step=None, num_inference_steps=1, latents=latents, noise=noise, decode_chunk=chunk)
        assert psnr(got.frames, want) >= 50


def test_the_same_seed_gives_the_same_video(small: Pipeline, photo: Image.Image) -> None:
    one, two, other = small(photo, seed=5), small(photo, seed=5), small(photo, seed=6)
    assert np.array_equal(one.frames, two.frames)
    assert not np.array_equal(one.frames, other.frames)
    assert one.seed == 5


def test_a_random_seed_is_reported_and_reproduces_the_video(small: Pipeline, photo: Image.Image) -> None:
    one = small(photo)
    assert one.seed is not None
    assert np.array_equal(small(photo, seed=one.seed).frames, one.frames)


def test_a_list_of_images_gives_a_list_with_counted_seeds(small: Pipeline, photo: Image.Image) -> None:
    flipped = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    both = small([photo, flipped], seed=8)
    assert [video.seed for video in both] == [8, 9]
    assert np.array_equal(both[1].frames, small(flipped, seed=9).frames)
    assert small([], seed=1) == []


def test_injected_arrays_serve_one_image_each_or_all(small: Pipeline, photo: Image.Image) -> None:
    draw = np.random.default_rng(0)
    shape, manifest = small.manifest.latent_shape, small.manifest
    two = draw.standard_normal((2, manifest.frames, *shape), dtype=np.float32)
    noise = draw.standard_normal((1, 3, manifest.height, manifest.width), dtype=np.float32)
    both = small([photo, photo], latents=two, noise=noise)
    assert both[0].seed is None
    assert np.array_equal(both[1].frames, small(photo, latents=two[1:], noise=noise).frames)
    assert not np.array_equal(both[0].frames, both[1].frames)


def test_frames_timings_and_progress(small: Pipeline, photo: Image.Image) -> None:
    progress: list[tuple[str, int, int]] = []
    steps: list[tuple[Step, tuple[int, ...]]] = []
    video = small(
        photo,
        seed=0,
        callback=lambda step, latents: steps.append((step, latents.shape)),
        progress=lambda *event: progress.append(event),
    )
    manifest = small.manifest
    assert video.frames.shape == (manifest.frames, manifest.height, manifest.width, 3)
    assert video.frames.dtype == np.uint8
    assert set(video.timings) == {"load", "condition", "semantic_binding", "quality_improvement", "decode"}
    assert [shape for _, shape in steps] == [(1, manifest.frames, *manifest.latent_shape)] * 4
    assert steps[0][0].sigma == 700.0
    assert steps[-1][0].sigma_next == 0.0
    for stage, total in (("condition", 1), ("semantic_binding", 2), ("quality_improvement", 2), ("decode", 3)):
        events = [(done, of) for name, done, of in progress if name == stage]
        assert events[0] == (0, total)
        assert events[-1] == (total, total)


def test_a_failing_callback_stops_the_run(small: Pipeline, photo: Image.Image) -> None:
    def stop(step: Step, latents: np.ndarray) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small(photo, seed=0, callback=stop)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_inference_steps": 0}, "at least 1"),
        ({"cut_step": 0}, "outside 1..5"),
        ({"cut_step": 6}, "outside 1..5"),
        ({"decode_chunk": 0}, "at least 1"),
        ({"cache_interval": 0}, "give 1"),
        ({"cache_interval": 2}, "no shallow steps: export it with --deep-cache"),
        ({"fps": 0}, "at least 1"),
        ({"fps": 3_000_000_000}, "at most 1000"),
        ({"noise_aug_strength": float("nan")}, "finite"),
        ({"max_guidance_scale": float("inf")}, "finite"),
        ({"noise_aug_strength": -1.0}, "0 or more"),
        ({"quality_bias": "median"}, "mean or cond"),
        ({"seed": -1}, "0 or more"),
        ({"latents": np.zeros((1, 3, 4, 16, 17))}, "latents has shape"),
        ({"noise": np.zeros((3, 32, 32))}, "noise has shape"),
        ({"fit": "pad"}, "stretch or crop"),
    ],
)
def test_impossible_options_are_refused_on_one_line(
    small: Pipeline, photo: Image.Image, options: Any, says: str
) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        small(photo, **options)
    assert "\n" not in str(caught.value)


def test_fewer_steps_keep_the_share_of_guided_steps(removed: Pipeline, image: Image.Image) -> None:
    seen: list[Step] = []
    removed(image, seed=0, num_inference_steps=5, callback=lambda step, _: seen.append(step))
    assert sum(step.stage == "semantic_binding" for step in seen) == 3  # 16 of 25


def test_an_unknown_backend_is_refused(small_bundle: Path) -> None:
    with pytest.raises(UsageError, match="unknown backend"):
        Pipeline.load(small_bundle, backend="tpu")
