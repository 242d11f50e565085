"""Odd images as people have them: each gives the right pixels, with a note where something was assumed, or one line."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from odd_images import CASES, COLOURS, DEEP, FLOATS, GREY, HOLES, IN_P3, encoded, grey, on_white, palette, with_alpha
from vcut_runtime import UsageError
from vcut_runtime import image_files as files
from vcut_runtime.images import open_image


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", CASES)
def test_odd_images_give_their_pixels_or_one_line(name: str, tmp_path: Path) -> None:
    case, path = CASES[name], tmp_path / name
    path.write_bytes(case.make())
    if case.says:
        with pytest.raises(UsageError) as caught:
            open_image(path)
        message = str(caught.value)
        assert case.says in message
        assert len(message.splitlines()) == 1
        return
    photo = open_image(path)
    assert photo.image.mode == "RGB"
    pixels = np.asarray(photo.image).astype(int)
    assert pixels.shape == case.pixels.shape
    assert np.abs(pixels - case.pixels).max() <= case.levels
    assert case.note in "; ".join(photo.notes)
    assert bool(photo.notes) == bool(case.note)


PIL_IMAGES: dict[str, tuple[Callable[[], Image.Image], np.ndarray, int]] = {
    "lazy and turned": (lambda: Image.open(io.BytesIO(CASES["display-p3-turned.png"].make())), np.rot90(IN_P3, -1), 1),
    "made upright": (
        lambda: ImageOps.exif_transpose(Image.open(io.BytesIO(CASES["display-p3-turned.png"].make()))),
        np.rot90(IN_P3, -1),
        1,
    ),
    "RGBa": (lambda: with_alpha().convert("RGBa"), on_white(), 0),
    "La": (
        lambda: Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(HOLES)]).convert("La"),
        on_white(grey(GREY)),
        0,
    ),
    "PA": (lambda: palette(transparent=True).convert("PA"), CASES["palette-hole.png"].pixels, 0),
    "RGBX": (lambda: Image.fromarray(COLOURS).convert("RGBX"), COLOURS, 0),
    "YCbCr": (lambda: Image.fromarray(COLOURS).convert("YCbCr"), COLOURS, 3),
    "HSV": (lambda: Image.fromarray(COLOURS).convert("HSV"), COLOURS, 8),
    "F": (lambda: Image.fromarray(FLOATS), grey(GREY), 0),
    "I": (lambda: Image.fromarray(DEEP.astype(np.int32)), grey(GREY), 0),
    "I;16": (lambda: Image.fromarray(DEEP), grey(GREY), 0),
}


@pytest.mark.parametrize("name", PIL_IMAGES)
def test_pil_images_of_every_kind(name: str) -> None:
    make, wanted, levels = PIL_IMAGES[name]
    pixels = np.asarray(open_image(make()).image).astype(int)
    assert pixels.shape == wanted.shape
    assert np.abs(pixels - wanted).max() <= levels


def test_heic_without_its_reader_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    (tmp_path / "photo.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(UsageError, match=r"photo.jpg is a HEIC image: .* pip install 'vcut\[heif\]', or give a JPEG"):
        open_image(tmp_path / "photo.jpg")


@pytest.mark.filterwarnings("error")
def test_large_photographs_are_read_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Pillow's limit is 89 megapixels, and its error comes at 179."""
    (tmp_path / "photo.png").write_bytes(encoded(COLOURS, "PNG"))
    for limit in (len(GREY.ravel()) // 2 + 1, len(GREY.ravel()) // 4):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        monkeypatch.setattr(files, "_PILLOWS_LIMIT", limit)
        assert np.array_equal(np.asarray(open_image(tmp_path / "photo.png").image), COLOURS)
        assert limit == Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(files, "MOST_PIXELS", COLOURS.size // 3 - 1)
    with pytest.raises(UsageError, match=r"has more than 0\.000767 megapixels"):
        open_image(tmp_path / "photo.png")
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "null\0byte.jpg", "pipe.jpg", "folder.jpg", "missing.jpg"])
def test_paths_that_are_no_files_are_refused(name: str, tmp_path: Path) -> None:
    if name == "pipe.jpg":
        os.mkfifo(tmp_path / name)
    elif name == "folder.jpg":
        (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="check the path"):
        open_image(tmp_path / name)
