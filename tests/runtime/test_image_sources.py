"""One photograph in every form that a caller may have, and what is no image."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from vcut_runtime import UsageError
from vcut_runtime.images import list_images, load_image

PHOTO: np.ndarray = data.astronaut()[:64, :96]
PNG = io.BytesIO()
Image.fromarray(PHOTO).save(PNG, "png")
DATA = PNG.getvalue()
PLANES = np.ascontiguousarray(PHOTO.transpose(2, 0, 1))


class Pipe(io.RawIOBase):
    """A file object that cannot seek, such as a response."""

    def __init__(self) -> None:
        self.rest = io.BytesIO(DATA)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self.rest.read(size)


FORMS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: DATA,
    "bytearray": lambda: bytearray(DATA),
    "memoryview": lambda: memoryview(DATA),
    "file object": lambda: io.BytesIO(DATA),
    "file object without seek": Pipe,
    "PIL": lambda: Image.fromarray(PHOTO),
    "array [H, W, 3]": lambda: PHOTO,
    "array [3, H, W]": lambda: PLANES,
    "array [1, 3, H, W]": lambda: PLANES[None],
    "float array": lambda: PHOTO / 255,
    "tensor [3, H, W]": lambda: torch.from_numpy(PLANES),
    "tensor [H, W, 3]": lambda: torch.from_numpy(PHOTO),
    "tensor [1, 3, H, W]": lambda: torch.from_numpy(PLANES)[None],
    "float tensor with a gradient": lambda: (torch.from_numpy(PLANES) / 255).requires_grad_(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pixels(form: str) -> None:
    image = FORMS[form]()
    np.testing.assert_array_equal(load_image(image, 64, 96)[0], PLANES / np.float32(255))
    assert list_images(image)[1] is False


def test_a_file_and_an_open_file(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(DATA)
    for image in (path, str(path)):
        np.testing.assert_array_equal(load_image(image, 64, 96)[0], PLANES / np.float32(255))
    with path.open("rb") as file:
        load_image(file, 64, 96)
        assert not file.closed


def test_channels_at_both_ends_are_the_last_of_an_array_and_the_first_of_a_tensor() -> None:
    image = np.arange(3 * 8 * 3, dtype=np.uint8).reshape(3, 8, 3)
    np.testing.assert_array_equal(load_image(image, 3, 8)[0], image.transpose(2, 0, 1) / np.float32(255))
    np.testing.assert_array_equal(load_image(torch.from_numpy(image), 8, 3)[0], image / np.float32(255))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("https://example.com/photo.jpg", r"the image is a URL \(https:/...\) and vcut opens no connection: download"),
        ("data:image/png;base64,AAAA", r"the image is a URL \(data:...\)"),
        (Path("http://example.com/photo.jpg"), "the image is a URL"),
        ("file:///photo.jpg", "the image is a URL"),
        (PLANES[None].repeat(2, 0), "the array holds 2 images: give them as a list"),
        (None, "an image cannot be of type NoneType: give a path, bytes, a file object"),
        (7, "an image cannot be of type int"),
        ({"image": 1}, "an image cannot be of type dict"),
        (b"", "the image's data is not an image that vcut reads"),
        (b"<html></html>", "the image's data is not an image that vcut reads"),
        (io.StringIO("text"), "the image's data"),
        (DATA[:600], "the image's data"),
        (torch.zeros(3, 4, 4, device="meta"), "cannot read a torch.Tensor"),
        (torch.zeros(64, 96), r"must be \[height, width, 3\]"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "must be uint8, or float"),
    ],
)
def test_what_is_no_image_is_refused_on_one_line(image: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        load_image(image, 64, 96)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["C:/photos/a.jpg", "a:b.jpg", "photos/data.jpg", "https.jpg"])
def test_paths_are_no_urls(path: str) -> None:
    with pytest.raises(UsageError, match="no image at"):
        load_image(path, 64, 96)


def test_lists_are_lists() -> None:
    assert list_images([DATA, PHOTO])[1] is True
    assert list_images((DATA,)) == ([DATA], True)
    assert list_images([]) == ([], True)
