"""The library's own tests in C and C++, its size, its installation, and the examples."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vcut_c import LIBRARY, Library
from vcut_runtime import Pipeline

BUILD, SOURCE = LIBRARY.parent, Path(__file__).parents[2] / "runtime/cpp"


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a program and return what it wrote."""
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)  # pyright: ignore


@pytest.mark.parametrize("program", ["vcut_tests", "vcut_c_test"])
def test_the_librarys_own_tests_pass(library: Library, program: str) -> None:
    result = run(BUILD / "tests" / program)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_library_is_small_and_shows_its_interface_alone(library: Library, tmp_path: Path) -> None:
    stripped = tmp_path / "libvcut.so"
    assert run("strip", "-o", stripped, LIBRARY).returncode == 0
    assert stripped.stat().st_size < 1 << 20
    symbols = [line.split()[-1] for line in run("nm", "-D", "--defined-only", LIBRARY).stdout.splitlines()]
    assert symbols
    assert all(name.startswith("vcut_") for name in symbols)
    header = (SOURCE / "include/vcut.h").read_text()
    assert all(f"{name}(" in header for name in symbols)
    assert all(word not in header for word in ("Ort", "nvinfer", "onnxruntime_c_api"))


def test_an_installed_library_is_found_by_cmake(library: Library, tmp_path: Path) -> None:
    place, project = tmp_path / "installed", tmp_path / "project"
    assert run("cmake", "--install", BUILD, "--prefix", place).returncode == 0
    project.mkdir()
    shutil.copy(SOURCE / "examples/server.cpp", project / "server.cpp")
    (project / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.22)\nproject(server CXX)\nfind_package(vcut 0.1 REQUIRED)\n"
        "find_package(Threads REQUIRED)\nadd_executable(server server.cpp)\n"
        "target_link_libraries(server vcut::vcut Threads::Threads)\n"
    )
    made = run("cmake", "-S", project, "-B", project / "build", f"-DCMAKE_PREFIX_PATH={place}")
    assert made.returncode == 0, made.stderr
    built = run("cmake", "--build", project / "build")
    assert built.returncode == 0, built.stdout
    assert "usage" in run(project / "build/server").stderr


def test_examples(library: Library, small_bundle: Path, photo: Image.Image, tmp_path: Path) -> None:
    picture, frames, tools = tmp_path / "photo.png", tmp_path / "frames", tmp_path / "tools"
    photo.save(picture)
    frames.mkdir()
    tools.mkdir()
    result = run(BUILD / "examples/vcut_frames", small_bundle, picture, frames)
    assert result.returncode == 0, result.stderr
    want = Pipeline.load(small_bundle, "onnxruntime-cpu")(picture, seed=0, fit="crop").frames
    got = np.stack([np.asarray(Image.open(path)) for path in sorted(frames.iterdir())])
    assert np.abs(got.astype(int) - want).max() <= 1

    fake = tools / "ffmpeg"  # keeps what it is given
    fake.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncat > {tmp_path}/raw\n')
    fake.chmod(0o755)
    path = {"PATH": f"{tools}:/usr/bin:/bin"}
    result = run(
        BUILD / "examples/vcut_ffmpeg",
        small_bundle,
        picture,
        tmp_path / "v.mp4",
        env=path,
    )
    assert result.returncode == 0, result.stderr
    raw = np.frombuffer((tmp_path / "raw").read_bytes(), np.uint8)
    assert np.array_equal(raw, got.reshape(-1))
    assert "-s 32x32 -r 7" in (tmp_path / "arguments").read_text()
    fake.write_text("#!/bin/sh\nexit 3\n")
    result = run(BUILD / "examples/vcut_ffmpeg", small_bundle, picture, "v.mp4", env=path)
    assert result.returncode == 1
    assert "ffmpeg" in result.stderr

    result = run(BUILD / "examples/vcut_server", small_bundle, picture, tmp_path / "none.png", picture)
    assert result.returncode == 0, result.stderr
    lines = sorted(line.removeprefix(f"{tmp_path}/") for line in result.stdout.splitlines())
    assert len(lines) == 3
    assert lines[1].startswith("photo.png: 3 frames, seed ")
    assert any("no image at" in line for line in lines)
    assert run(BUILD / "examples/vcut_frames", tmp_path, picture, frames).returncode == 1
    assert run(BUILD / "examples/vcut_frames").returncode == 2
