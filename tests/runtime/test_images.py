"""Input images of every kind, against diffusers' own preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers.utils.loading_utils import load_image as diffusers_load_image
from diffusers.video_processor import VideoProcessor
from PIL import Image
from skimage import data

from vcut_runtime import UsageError
from vcut_runtime.images import Photo, fit_notes, load_image, resize_matrix

PHOTO: np.ndarray = data.astronaut()[:384]  # [384, 512, 3]
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.fixture
def photo_file(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(PHOTO).save(path)
    return path


def with_diffusers(image: Image.Image, height: int, width: int) -> np.ndarray:
    """Return what the Stable Video Diffusion pipeline feeds to the VAE, in [0, 1] instead of [-1, 1]."""
    return (VideoProcessor(vae_scale_factor=8).preprocess(image, height=height, width=width).numpy() + 1) / 2


def refusal(image: Any) -> str:
    """Return the message, on one line, that ``image`` is refused with."""
    with pytest.raises(UsageError) as caught:
        load_image(image, 64, 96)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_image_of_the_target_size_keeps_its_pixels(photo_file: Path) -> None:
    pixels = load_image(photo_file, 384, 512)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, PHOTO.transpose(2, 0, 1)[None] / np.float32(255))


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_path_pil_and_arrays_agree(photo_file: Path, fit: Any) -> None:
    wanted = load_image(photo_file, 64, 96, fit)
    assert wanted.shape == (1, 3, 64, 96)
    floats = [(PHOTO / 255).astype(dtype) for dtype in (np.float16, np.float32, np.float64)]
    for image in (str(photo_file), Image.fromarray(PHOTO), PHOTO, *floats):
        np.testing.assert_array_equal(load_image(image, 64, 96, fit), wanted)


@pytest.mark.parametrize(("offset", "level"), [(-0.4, 128), (0.4, 128), (0.6, 129)])
def test_float_array_is_rounded_to_the_nearest_of_256_levels(offset: float, level: int) -> None:
    pixels = load_image(np.full((64, 96, 3), (128 + offset) / 255), 64, 96)
    np.testing.assert_array_equal(pixels, np.full_like(pixels, level / 255))


@pytest.mark.parametrize(("height", "width"), [(192, 320), (320, 192), (384, 640), (576, 1024)])
def test_stretch_is_what_diffusers_does(photo_file: Path, height: int, width: int) -> None:
    reference = with_diffusers(Image.fromarray(PHOTO), height, width)
    np.testing.assert_allclose(load_image(photo_file, height, width), reference, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(96, 320), (192, 64)])
def test_crop_keeps_the_aspect_ratio_and_the_centre(photo_file: Path, height: int, width: int) -> None:
    scale = max(height / 384, width / 512)
    whole_height, whole_width = round(384 * scale), round(512 * scale)
    top, left = (whole_height - height) // 2, (whole_width - width) // 2
    wanted = load_image(photo_file, whole_height, whole_width)[..., top : top + height, left : left + width]
    assert np.abs(load_image(photo_file, height, width, "crop") - wanted).mean() < 0.005
    assert np.abs(load_image(photo_file, height, width, "stretch") - wanted).mean() > 0.05


@pytest.mark.parametrize("fit", ["pad", "blur"])
@pytest.mark.parametrize(("height", "width"), [(96, 320), (384, 128), (64, 96)])
def test_borders_keep_the_whole_image(height: int, width: int, fit: Any) -> None:
    scale = min(height / 384, width / 512)
    inner_height, inner_width = round(384 * scale), round(512 * scale)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    got = load_image(PHOTO, height, width, fit)
    assert got.shape == (1, 3, height, width)
    inside = got[..., top : top + inner_height, left : left + inner_width]
    np.testing.assert_array_equal(inside, load_image(PHOTO, inner_height, inner_width))
    border = np.ones((height, width), bool)
    border[top : top + inner_height, left : left + inner_width] = False
    outside = got[0][:, border]
    if fit == "pad":
        assert not outside.any()
    else:
        filled = load_image(PHOTO, height, width, "crop")[0]
        assert np.abs(outside.mean(axis=1) - filled[:, border].mean(axis=1)).max() < 0.15  # the image's own colours
        if top:
            detail, blurred = (np.abs(np.diff(x[:, :top], axis=-1)).mean() for x in (filled, got[0]))
            assert blurred < detail / 4


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad", "blur"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
def test_extreme_shapes_are_fitted(shape: tuple[int, int], fit: Any) -> None:
    pixels = load_image(np.full((*shape, 3), 200, np.uint8), 64, 96, fit)
    assert pixels.shape == (1, 3, 64, 96)
    assert pixels.max() == pytest.approx(200 / 255)


@pytest.mark.parametrize(
    ("size", "note"),
    [
        (
            (512, 768),
            "the image of 512x768 is stretched 2.25 x in width to 96x64: --fit crop, pad or blur keeps its shape",
        ),
        ((4000, 1000), "the image of 4000x1000 is stretched 2.67 x in height to 96x64: --fit crop, pad or blur keeps "),
        ((101, 64), "stretched 1.05 x in height"),
        ((97, 64), None),
        ((300, 200), None),
        ((295, 200), None),
    ],
)
def test_a_stretch_of_more_than_two_percent_is_noted(size: tuple[int, int], note: str | None) -> None:
    photo = Photo(Image.new("RGB", size), ("read",))
    notes = fit_notes(photo, 64, 96, "stretch")
    assert notes[0] == "read"
    assert (note in notes[1]) if note else len(notes) == 1
    for fit in ("crop", "pad", "blur"):
        assert fit_notes(photo, 64, 96, fit) == ("read",)


def test_unknown_fit_is_refused() -> None:
    fit: Any = "zoom"
    with pytest.raises(UsageError, match="'zoom': choose stretch, crop, pad, blur"):
        load_image(PHOTO, 64, 96, fit)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int, suffix: str) -> None:
    plain, turned = tmp_path / f"plain{suffix}", tmp_path / f"turned{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(PHOTO).save(plain)
    Image.fromarray(PHOTO).save(turned, exif=exif)
    with Image.open(plain) as decoded:
        wanted = UPRIGHT[orientation](np.asarray(decoded))
    height, width, _ = wanted.shape
    np.testing.assert_array_equal(load_image(turned, height, width), load_image(wanted, height, width))


def test_exif_orientation_of_a_palette_image_is_honoured(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    palette = Image.fromarray(PHOTO).quantize(256)
    palette.save(tmp_path / "turned.png", exif=exif)
    wanted = np.rot90(np.asarray(palette.convert("RGB")), -1)
    np.testing.assert_array_equal(load_image(tmp_path / "turned.png", 512, 384), load_image(wanted, 512, 384))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGBA", ".png"), ("P", ".png"), ("P", ".gif"), ("L", ".png"), ("LA", ".png"), ("1", ".png"), ("CMYK", ".jpg")],
)
def test_every_colour_mode_becomes_rgb_as_in_diffusers(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(PHOTO).convert(mode).save(path)
    reference = with_diffusers(diffusers_load_image(str(path)), 64, 96)
    np.testing.assert_allclose(load_image(path, 64, 96), reference, atol=1e-6)


def test_opaque_rgba_is_the_same_as_rgb(photo_file: Path, tmp_path: Path) -> None:
    Image.fromarray(PHOTO).convert("RGBA").save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(load_image(tmp_path / "rgba.png", 64, 96), load_image(photo_file, 64, 96))


def test_grayscale_fills_three_equal_channels(tmp_path: Path) -> None:
    gray = PHOTO[..., 1]
    Image.fromarray(gray).save(tmp_path / "gray.png")
    for channel in load_image(tmp_path / "gray.png", 384, 512)[0]:
        np.testing.assert_array_equal(channel, gray / np.float32(255))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "missing.png"
    assert refusal(missing) == f"no image at {missing}: check the path"
    assert refusal(str(missing)) == refusal(missing)


def test_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"no image at {tmp_path}: check the path"


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", bytes(1000)])
def test_file_that_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    assert str(path) in refusal(path)
    assert "give a JPEG, PNG or WebP file" in refusal(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_truncated_image_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(PHOTO).save(path)
    load_image(path, 64, 96)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert f"cannot read {path}" in refusal(path)
    assert "give an undamaged JPEG, PNG or WebP file" in refusal(path)


def test_a_limit_that_the_program_set_stays(photo_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert refusal(photo_file) == f"{photo_file} has more than 0.002 megapixels: make it smaller first"


@pytest.mark.parametrize("shape", [(64, 96), (64, 96, 1), (64, 96, 4), (2, 64, 96), (1, 1, 64, 96, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_array_of_another_shape_is_refused(shape: tuple[int, ...], dtype: Any) -> None:
    message = refusal(np.zeros(shape, dtype))
    assert "[height, width, 3]" in message
    assert str(list(shape)) in message


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, np.nan, np.inf, -np.inf])
def test_float_outside_0_to_1_is_refused(value: float) -> None:
    pixels = PHOTO / np.float32(255)
    pixels[5, 7, 1] = value
    assert "must lie between 0 and 1" in refusal(pixels)


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.bool_, np.complex64, object])
def test_array_of_another_type_is_refused(dtype: Any) -> None:
    message = refusal(np.zeros((64, 96, 3), dtype))
    assert "uint8" in message
    assert str(np.dtype(dtype)) in message


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    gray = PHOTO[..., 1]
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for channel in load_image(tmp_path / "deep.png", 384, 512)[0]:
        np.testing.assert_array_equal(channel, gray / np.float32(255))


def test_damage_that_pillow_reports_in_its_own_ways_is_refused(tmp_path: Path) -> None:
    short_header = b"\x89PNG\r\n\x1a\n" + (5).to_bytes(4, "big") + b"IHDR" + b"\0" * 9
    (tmp_path / "short.png").write_bytes(short_header)
    assert "short.png" in refusal(tmp_path / "short.png")
    assert "check the path" in refusal("x" * 5000) or "cannot read" in refusal("x" * 5000)


def test_a_lazily_opened_truncated_image_is_refused(tmp_path: Path, photo_file: Path) -> None:
    (tmp_path / "cut.png").write_bytes(photo_file.read_bytes()[:20_000])
    assert "undamaged" in refusal(Image.open(tmp_path / "cut.png"))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_an_empty_array_is_refused(dtype: Any) -> None:
    assert "[0, 5, 3]" in refusal(np.zeros((0, 5, 3), dtype))


def test_the_range_of_a_refused_float_array_is_named() -> None:
    assert "from 0 to 255" in refusal(np.array([[[0.0, 1.0, 255.0]]]))
    assert "nan" in refusal(np.full((2, 2, 3), np.nan))


@pytest.mark.parametrize(
    ("pixels", "size"), [(8, 224), (97, 224), (224, 224), (225, 224), (320, 224), (576, 224), (1024, 224), (97, 30)]
)
def test_resize_matrix_is_what_the_exporter_reads_off_diffusers(pixels: int, size: int) -> None:
    from vcut_export.graphs import modules

    want = modules.resize_matrix(pixels, size).numpy()
    assert np.abs(resize_matrix(pixels, size) - want).max() <= 2e-6
    assert np.allclose(resize_matrix(pixels, size).sum(axis=1), 1.0, atol=1e-5)
