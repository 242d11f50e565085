"""The GPU tests themselves, on a GPU and a TensorRT made of host memory: what could pass nowhere shows here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Once
from exporting import fp16_bundle
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
    return with_engines(deep_bundle, library, tmp_path_factory)


@pytest.fixture(scope="module")
def compiled_fp16(small_checkpoint: Path, library: str, once: Once, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_engines(fp16_bundle(small_checkpoint, once), library, tmp_path_factory)


@pytest.fixture(scope="module")
def compiled_upcast(small_checkpoint: Path, library: str, once: Once, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = fp16_bundle(small_checkpoint, once, upcast_attention=True)
    return with_engines(bundle, library, tmp_path_factory)


@pytest.fixture(scope="module")
def compiled_dynamic(dynamic_bundle: Path, library: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_engines(dynamic_bundle, library, tmp_path_factory)


def with_engines(bundle: Path, library: str, folders: pytest.TempPathFactory) -> Path:
    copy = Path(shutil.copytree(bundle, folders.mktemp("fake") / "bundle"))
    add_fake_engines(copy, library)
    return copy
