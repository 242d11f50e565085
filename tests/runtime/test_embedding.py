"""The page on embedding: its programs run. Its table of diffusers' names is tested in ``test_diffusers_names.py``."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from vcut_runtime import Pipeline, Video

PAGE = (Path(__file__).parents[2] / "runtime/embedding.md").read_text("utf-8")


def test_the_programs_run(small_bundle: Path, photo: Image.Image, tmp_path: Path, monkeypatch: Any) -> None:
    shutil.copytree(small_bundle, tmp_path / "svd-xt-bundle")
    photo.save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    first, second = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(first, "embedding.md", "exec"), {})
    assert (tmp_path / "out.mp4").is_file()
    with Pipeline.load(small_bundle, "onnxruntime-cpu") as pipeline, (tmp_path / "photo.jpg").open("rb") as file:
        names = {"pipeline": pipeline, "upload": SimpleNamespace(file=file)}
        exec(compile(second, "embedding.md", "exec"), names)
    assert isinstance(names["video"], Video)


@pytest.mark.parametrize("name", ["frames", "to_pil", "save", "seed"])
def test_the_page_names_what_a_video_has(name: str) -> None:
    assert f"`video.{name}" in PAGE
    assert hasattr(Video, name) or name in Video.__dataclass_fields__
