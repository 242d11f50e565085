"""The C++ runtime reads and fits photographs to the very bits that Pillow gives."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from odd_images import CASES
from vcut_c import IMAGE_SUFFIXES, Library, read_image, refusal
from vcut_runtime import UsageError
from vcut_runtime.images import load_image

SIZES = [(32, 32), (576, 1024), (512, 512), (40, 700), (1, 3)]


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad", "blur"])
@pytest.mark.parametrize("size", SIZES)
def test_an_array_is_fitted_as_by_pillow(library: Library, photo: Image.Image, size: tuple[int, int], fit: Any) -> None:
    pixels = np.asarray(photo)[:500]
    want = load_image(pixels, *size, fit)
    np.testing.assert_array_equal(read_image(library, pixels, *size, fit), want)
    np.testing.assert_array_equal(read_image(library, pixels.astype(np.float32) / 255, *size, fit), want)


def modes(photo: Image.Image) -> dict[str, Image.Image]:
    """Return a photograph in every form that PNG has."""
    small = photo.resize((53, 31))
    grey = np.asarray(small.convert("L"))
    transparent = small.copy()
    transparent.putalpha(Image.fromarray(grey))
    return {
        "RGB": small,
        "RGBA": transparent,
        "P": small.convert("P"),
        "L": small.convert("L"),
        "LA": transparent.convert("LA"),
        "1": small.convert("1"),
        "I;16": Image.fromarray((grey.astype(np.uint16) << 8) + 77),
        "P with a hidden colour": small.quantize(16),
        "L with a hidden level": small.convert("L"),
        "I;16 with a hidden level": Image.fromarray((grey.astype(np.uint16) << 8) + 77),
        "RGB with a hidden colour": small,
    }


HIDDEN: dict[str, Any] = {
    "P with a hidden colour": 3,
    "L with a hidden level": 120,
    "I;16 with a hidden level": (120 << 8) + 77,
    "RGB with a hidden colour": (200, 180, 160),
}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1", "I;16", *HIDDEN])
def test_every_kind_of_png(library: Library, photo: Image.Image, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "photo.png"
    image, hidden = modes(photo)[mode], HIDDEN.get(mode)
    image.save(path, **({} if hidden is None else {"transparency": hidden}))
    want = load_image(path, 40, 48)
    np.testing.assert_array_equal(read_image(library, path, 40, 48, "stretch"), want)
    np.testing.assert_array_equal(read_image(library, path.read_bytes(), 40, 48, "stretch"), want)


CONVERTED = ("display-p3", "adobe-rgb.", "grey-gamma", "deep-grey-gamma", "cmyk.jpg")  # by their colour profile


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, case in CASES.items()
        if name.endswith(IMAGE_SUFFIXES) and case.pixels is not None and not name.startswith(CONVERTED)
    ],
)
def test_odd_photographs(library: Library, name: str) -> None:
    """The odd photographs of the Python runtime's test whose colours need no profile."""
    data = CASES[name].make()
    want = load_image(data, 24, 32)
    levels = 0 if name.endswith(".png") else 1  # releases of libjpeg round chroma differently
    assert np.abs(read_image(library, data, 24, 32, "stretch") - want).max() <= levels / 255 + 1e-6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_photographs_are_upright(library: Library, photo: Image.Image, orientation: int, kind: str) -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    photo.resize((53, 31)).save(file, kind, exif=exif)
    path = file.getvalue()
    want = load_image(Image.open(io.BytesIO(path)), 40, 48) if orientation == 1 else None
    upright = load_image(_exif_transposed(path), 40, 48)
    got = read_image(library, path, 40, 48, "stretch")
    np.testing.assert_array_equal(got, upright if want is None else want)


def _exif_transposed(data: bytes) -> Image.Image:
    from PIL import ImageOps

    result = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert result is not None
    return result


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 30}])
def test_every_kind_of_jpeg(library: Library, photo: Image.Image, tmp_path: Path, mode: str, options: Any) -> None:
    path = tmp_path / "photo.jpg"
    photo.resize((53, 31)).convert(mode).save(path, **options)
    want = load_image(path, 31, 53)
    got = read_image(library, path, 31, 53, "stretch")
    assert np.abs(got - want).max() <= 1 / 255 + 1e-6  # releases of libjpeg round chroma differently


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_damaged_images_are_refused(library: Library, photo: Image.Image, kind: str) -> None:
    file = io.BytesIO()
    photo.resize((64, 64)).save(file, kind)
    data = file.getvalue()
    for cut in (3, 10, len(data) // 3, len(data) - 40):
        message = refusal(lambda cut=cut: read_image(library, data[:cut], 32, 32, "stretch")) or ""
        assert message.startswith(("cannot read the image's data (", "the image's data is not an image"))
        assert "\n" not in message
    draw = np.random.default_rng(0)
    for _ in range(300):  # read or refused, and nothing else
        broken = np.frombuffer(data, np.uint8).copy()
        broken[draw.integers(0, len(broken), 4)] = draw.integers(0, 256, 4)
        refusal(lambda broken=broken: read_image(library, broken.tobytes(), 32, 32, "stretch"))


def test_what_is_no_image_is_refused(library: Library, tmp_path: Path, photo: Image.Image) -> None:
    (tmp_path / "text.png").write_text("no image")
    photo.save(tmp_path / "photo.webp")
    for name in ("text.png", "photo.webp"):
        message = refusal(lambda name=name: read_image(library, tmp_path / name, 8, 8, "stretch"))
        assert message == f"{tmp_path / name} is not an image that this library knows: give a JPEG or PNG file"
    for missing in (tmp_path / "none.png", tmp_path):
        message = refusal(lambda missing=missing: read_image(library, missing, 8, 8, "stretch"))
        assert message == f"no image at {missing}: check the path"
    floats = np.full((4, 4, 3), 1.5, np.float32)
    message = refusal(lambda: read_image(library, floats, 8, 8, "stretch"))
    assert message == "a float image array must lie between 0 and 1; this one goes from 1.5 to 1.5"
    message = refusal(lambda: read_image(library, np.zeros((4, 4, 3), np.uint8), 8, 8, "contain"))
    assert message == "unknown fit 'contain': choose stretch, crop, pad, blur"
    message = refusal(lambda: read_image(library, tmp_path / ("x" * 300), 8, 8, "stretch"))
    with pytest.raises(UsageError) as caught:
        load_image(tmp_path / ("x" * 300), 8, 8)
    assert message == str(caught.value)
