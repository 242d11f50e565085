"""The GPU tests themselves, on a GPU and a TensorRT made of host memory: what could pass nowhere shows here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Once
from fakes import FakeCuda, add_fake_engines, fake_tensorrt
from gpu import test_engines as real
from vcut_runtime.backends import cuda, engine_validity, tensorrt, tensorrt_library

for _name in dir(real):
    if _name.startswith("test_"):
        globals()[_name] = getattr(real, _name)
video_inputs, want = real.video_inputs, real.want


@pytest.fixture(scope="module", params=["tensorrt-rtx", "tensorrt"])
def library(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", autouse=True)
def _fake_machine(library: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    gpu = FakeCuda()
    trt = fake_tensorrt(gpu, library)
    real_cuda = cuda.Cuda
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCUT_CACHE", str(tmp_path_factory.mktemp("cache")))
        for module in (cuda, tensorrt, engine_validity):
            patch.setattr(module, "Cuda", lambda: real_cuda(gpu))
        for module in (tensorrt_library, tensorrt, engine_validity):
            patch.setattr(module, "load_library", lambda name: tensorrt_library.Library(name, trt, "1.2.3"))
        yield


@pytest.fixture(scope="module")
def compiled(deep_bundle: Path, library: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = Path(shutil.copytree(deep_bundle, tmp_path_factory.mktemp("fake") / "bundle"))
    add_fake_engines(copy, library)
    return copy


@pytest.fixture(scope="module")
def compiled_fp16(small_checkpoint: Path, library: str, once: Once, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from vcut_export import export

    options: dict[str, Any] = {"precision": "fp16", "deep_cache": True}
    bundle = once("bundles/deep-fp16", lambda folder: export(str(small_checkpoint), folder, **options))
    copy = Path(shutil.copytree(bundle, tmp_path_factory.mktemp("fake") / "bundle"))
    add_fake_engines(copy, library)
    return copy


@pytest.fixture(scope="module")
def compiled_dynamic(dynamic_bundle: Path, library: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = Path(shutil.copytree(dynamic_bundle, tmp_path_factory.mktemp("fake") / "bundle"))
    add_fake_engines(copy, library)
    return copy
