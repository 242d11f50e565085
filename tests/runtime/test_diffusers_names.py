"""Names of diffusers' pipeline: each works as there, or the error says what to use. The docs' table names them all."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image

from vcut_runtime import Pipeline, Step, UsageError, Video
from vcut_runtime.diffusers_names import frames_output

PAGE = (Path(__file__).parents[2] / "runtime/embedding.md").read_text("utf-8")
THEIRS = [name for name in inspect.signature(StableVideoDiffusionPipeline.__call__).parameters if name != "self"]


def table() -> dict[str, str]:
    """What the porting table says of each parameter."""
    text = PAGE.split("<!-- porting -->")[1].split("<!-- end -->")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return dict(rows)


def test_every_parameter_of_diffusers_has_a_row() -> None:
    assert list(table()) == THEIRS
    assert set(table().values()) == {"works", "ignored"}


@pytest.fixture(scope="module")
def small(small_bundle: Path) -> Pipeline:
    return Pipeline.load(small_bundle, "onnxruntime-cpu")


def test_a_call_with_every_parameter_of_diffusers(small: Pipeline, photo: Image.Image) -> None:
    manifest = small.manifest
    shape = (1, manifest.frames, *manifest.geometry.latent_shape())
    given: dict[str, Any] = {
        "image": photo,
        "height": manifest.height,
        "width": manifest.width,
        "num_frames": manifest.frames,
        "num_inference_steps": 2,
        "sigmas": [700.0, 5.0, 0.0],
        "min_guidance_scale": 1.0,
        "max_guidance_scale": 2.5,
        "fps": 6,
        "motion_bucket_id": 100,
        "noise_aug_strength": 0.1,
        "decode_chunk_size": 3,
        "num_videos_per_prompt": 2,
        "generator": torch.manual_seed(42),
        "latents": torch.randn(shape, generator=torch.manual_seed(1)),
        "output_type": "np",
        "callback_on_step_end": lambda pipeline, index, timestep, kwargs: kwargs,
        "callback_on_step_end_tensor_inputs": ["latents"],
        "return_dict": True,
    }
    assert list(given) == THEIRS
    output = small(**given)
    assert isinstance(output.frames, np.ndarray)
    assert output.frames.shape == (2, manifest.frames, manifest.height, manifest.width, 3)
    seed = output.videos[0].seed
    assert [video.seed for video in output.videos] == [seed, seed + 1]
    ours = small(
        photo,
        seed=seed,
        sigmas=(700.0, 5.0, 0.0),
        max_guidance_scale=2.5,
        fps=6,
        motion_bucket_id=100,
        noise_aug_strength=0.1,
        latents=given["latents"].numpy(),
    )
    assert np.array_equal(ours.frames, output.videos[0].frames)


def test_output_types_have_diffusers_form(small: Pipeline, photo: Image.Image) -> None:
    videos = small([photo, photo.rotate(90)], seed=1)
    pil, array = (small([photo, photo.rotate(90)], seed=1, output_type=kind) for kind in ("pil", "np"))
    assert isinstance(pil.frames, list)
    for i, video in enumerate(videos):
        assert isinstance(pil.frames[i][0], Image.Image)
        assert np.array_equal(np.stack([np.asarray(frame) for frame in pil.frames[i]]), video.frames)
        np.testing.assert_array_equal(array.frames[i], video.frames / np.float32(255))
    assert isinstance(array.frames, np.ndarray)
    assert array.frames.dtype == np.float32
    assert isinstance(small(photo, seed=1), Video)
    single = small(photo, seed=1, output_type="pil")
    assert np.array_equal(np.asarray(single.frames[0][0]), videos[0].frames[0])
    assert frames_output([], "pil").frames == []


def test_videos_of_a_prompt_come_image_by_image(small: Pipeline, photo: Image.Image) -> None:
    flipped = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    four = small([photo, flipped], seed=3, num_videos_per_prompt=2)
    assert [video.seed for video in four] == [3, 4, 5, 6]
    assert np.array_equal(four[1].frames, small(photo, seed=4).frames)
    assert np.array_equal(four[2].frames, small(flipped, seed=5).frames)


def test_callback_on_step_end_gets_what_diffusers_gives(small: Pipeline, photo: Image.Image) -> None:
    seen: list[Any] = []

    def on_step_end(pipeline: Pipeline, index: int, timestep: float, kwargs: dict[str, Any]) -> dict[str, Any]:
        seen.append((pipeline, index, timestep, list(kwargs), kwargs["latents"].shape))
        return kwargs

    frames = small(photo, seed=0, callback_on_step_end=on_step_end).frames
    assert np.array_equal(frames, small(photo, seed=0).frames)
    shape = (1, small.manifest.frames, *small.manifest.geometry.latent_shape())
    assert [event[1] for event in seen] == [0, 1, 2, 3]
    assert all(event[0] is small and event[3:] == (["latents"], shape) for event in seen)
    sigmas = [step.sigma for step in small.manifest.schedule]
    np.testing.assert_allclose([event[2] for event in seen], 0.25 * np.log(sigmas), rtol=1e-6)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_both_callbacks_change_the_latents(small: Pipeline, photo: Image.Image, as_tensor: bool) -> None:
    def halve(latents: np.ndarray) -> Any:
        return torch.from_numpy(latents) / 2 if as_tensor else latents / 2

    def callback(number: int, step: Step, latents: np.ndarray) -> Any:
        return halve(latents) if number == 2 else None

    def in_place(pipeline: Pipeline, index: int, timestep: float, kwargs: dict[str, Any]) -> dict[str, Any]:
        if index == 1:
            kwargs["latents"] /= 2
        return kwargs

    plain = small(photo, seed=0).frames
    changed = small(photo, seed=0, callback=callback).frames
    assert not np.array_equal(changed, plain)
    assert np.array_equal(small(photo, seed=0, callback_on_step_end=in_place).frames, changed)


def test_writing_into_a_callbacks_copy_changes_nothing(small: Pipeline, photo: Image.Image) -> None:
    def spoil(number: int, step: Step, latents: np.ndarray) -> None:
        latents[:] = np.nan

    assert np.array_equal(small(photo, seed=0, callback=spoil).frames, small(photo, seed=0).frames)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (np.zeros((1, 2)), r"the callback returned an array \[1, 2\]: return latents \[1, 3, 4, 16, 16\], or None"),
        ("latents", "the callback returned str: return latents"),
        (np.full((1, 3, 4, 16, 16), np.nan), "the callback's latents has NaN or infinity"),
    ],
)
def test_what_a_callback_may_not_return(small: Pipeline, photo: Image.Image, returned: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        small(photo, seed=0, callback=lambda *_: returned)
    with pytest.raises(UsageError, match=says):
        small(photo, seed=0, callback_on_step_end=lambda *_: {"latents": returned})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"output_type": "pt"}, r"output_type is 'pt': use 'np' and torch\.from_numpy"),
        ({"output_type": "latent"}, "output_type is 'latent': take the latents of the last step in callback"),
        ({"output_type": "gif"}, "output_type is 'gif': choose pil or np"),
        ({"return_dict": False}, "vcut has no return_dict: leave it out"),
        ({"callback_on_step_end_tensor_inputs": ["image"]}, "vcut has no callback_on_step_end_tensor_inputs"),
        ({"guidance_scale": 3.0}, "vcut has no guidance_scale: use min_guidance_scale and max_guidance_scale"),
        ({"num_images_per_prompt": 2}, "vcut has no num_images_per_prompt: use num_videos_per_prompt"),
        ({"prompt": "a cat"}, "vcut has no prompt: the model takes an image and no text"),
        ({"timesteps": [1]}, "vcut has no timesteps: use sigmas"),
        ({"decode_chunk": 2}, "unknown option 'decode_chunk': did you mean decode_chunk_size"),
        ({"callback": print, "callback_on_step_end": print}, "callback and callback_on_step_end exclude each other"),
        ({"callback_on_step_end": lambda *_: 5}, "callback_on_step_end returned no dict of latents"),
        ({"callback_on_step_end": lambda *_: {"image": 5}}, "callback_on_step_end returned no dict of latents"),
        ({"seed": 1, "generator": np.random.default_rng(0)}, "seed and generator exclude each other"),
    ],
)
def test_what_differs_is_refused_with_what_to_use(
    small: Pipeline, photo: Image.Image, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        small(photo, **options)
    assert "\n" not in str(caught.value)


def test_names_of_from_pretrained_say_what_to_use(small_bundle: Path) -> None:
    with pytest.raises(UsageError, match="vcut has no torch_dtype: choose the precision at export"):
        Pipeline.load(small_bundle, torch_dtype=torch.float16)
    with pytest.raises(UsageError, match="vcut has no device: use backend"):
        Pipeline.load(small_bundle, device="cuda")
