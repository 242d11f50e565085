"""Engines in the C++ runtime. What plays them is tested in C++; here it meets the installed TensorRT-RTX and driver.

The library is built again with TensorRT-RTX's headers if ``VCUT_TENSORRT_RTX_ROOT`` names their folder. NVIDIA ships
them with its SDK and not with its Python package.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest

from fakes import add_fake_engines
from vcut_c import LIBRARY, Library, Pipeline, refusal
from vcut_runtime import Pipeline as PythonPipeline
from vcut_runtime import UsageError, VcutError
from vcut_runtime.backends.tensorrt_library import is_installed

SOURCE = Path(__file__).parents[2] / "runtime/cpp"
HEADERS = os.environ.get("VCUT_TENSORRT_RTX_ROOT", "")


def rtx_library() -> Path:
    """Return the library that the installed package of TensorRT-RTX ships."""
    if not is_installed("tensorrt-rtx"):
        pytest.skip("TensorRT-RTX is not installed")
    spec = importlib.util.find_spec("tensorrt_rtx_libs")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "libtensorrt_rtx.so.1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of the library and its tests with the backend for TensorRT-RTX."""
    if not HEADERS:
        pytest.skip("VCUT_TENSORRT_RTX_ROOT names no headers of TensorRT-RTX")
    build = tmp_path_factory.mktemp("tensorrt")
    cache = dict(
        line.split("=", 1) for line in (LIBRARY.parent / "CMakeCache.txt").read_text().splitlines() if "=" in line
    )
    same = [f"-D{key}={cache[key]}" for key in ("ONNXRUNTIME_ROOT:PATH", "VCUT_ONNXRUNTIME_LIBRARY:FILEPATH")]
    options = ["-DVCUT_TENSORRT=ON", f"-DTENSORRT_RTX_ROOT={HEADERS}", "-DVCUT_TESTS=ON", "-DVCUT_WERROR=ON"]
    launcher = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache", "-DCMAKE_C_COMPILER_LAUNCHER=ccache"]
    for command in (
        ["cmake", "-S", str(SOURCE), "-B", str(build), "-G", "Ninja", *same, *options, *launcher],
        ["cmake", "--build", str(build)],
    ):
        made = subprocess.run(command, capture_output=True, text=True)
        assert made.returncode == 0, made.stdout + made.stderr
    return build


def test_a_library_without_the_backend_says_so(library: Library, bundle_copy: Path) -> None:
    add_fake_engines(bundle_copy)
    message = refusal(lambda: Pipeline(library, bundle_copy, backend=b"tensorrt-rtx"))
    assert message == (
        "this library was built without TensorRT-RTX: build it with -DVCUT_TENSORRT=ON and -DTENSORRT_RTX_ROOT=FOLDER"
    )


def test_it_takes_or_refuses_engines_as_python_does(folder: Path, bundle_copy: Path) -> None:
    library, file = Library(folder / "libvcut.so"), os.fsencode(rtx_library())
    for engines in (False, True):
        if engines:  # of another version than the installed one, so they are refused with and without a GPU
            add_fake_engines(bundle_copy)
        want = refusal(lambda: PythonPipeline.load(bundle_copy, "tensorrt-rtx"), [UsageError, VcutError])
        options = {"backend": b"tensorrt-rtx", "tensorrt_rtx_library": file}
        assert want is not None
        got = refusal(lambda options=options: Pipeline(library, bundle_copy, **options))
        assert got == want.replace("pip install that version", "install that version")
    python = PythonPipeline.load(bundle_copy)
    pipeline = Pipeline(library, bundle_copy, tensorrt_rtx_library=file)
    assert pipeline.notes[0] == python.backend.notes[0].replace("pip install that version", "install that version")
    pipeline.close()


def test_the_librarys_own_tests_meet_tensorrt_rtx(folder: Path) -> None:
    environment = {**os.environ, "VCUT_TENSORRT_RTX_LIBRARY": str(rtx_library())}
    result = subprocess.run([folder / "tests/vcut_tests"], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stdout
    stripped = folder / "stripped.so"
    subprocess.run(["strip", "-o", stripped, folder / "libvcut.so"], check=True)
    assert stripped.stat().st_size < 1 << 20
    needed = subprocess.run(["readelf", "-d", stripped], capture_output=True, text=True, check=True).stdout
    assert not any(word in needed for word in ("cuda", "nvinfer", "tensorrt"))
