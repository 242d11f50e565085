"""Runs a bundle with the oldest releases that pyproject.toml allows, and compares its frames with those of today's.

    python tests/lower_bounds.py BUNDLE PHOTO

Each dependency of the runtime is installed at exactly its lower bound into a fresh environment, which has no torch.
What they need in turn is resolved as always. The environment that starts this script makes the frames to compare with.
Releases that old have wheels for old Pythons alone, so the oldest Python that pyproject.toml allows starts it best.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

import av
import numpy as np
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from wheels import ROOT, build_wheel

TOLERANCE = 1  # levels of 255: another ONNX Runtime rounds otherwise


def lower_bounds() -> dict[str, str]:
    """Return the lower bound of each dependency of the runtime in pyproject.toml, by its normalized name.

    Raises:
        ValueError: a dependency has no lower bound, or more than one.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    bounds = {}
    for requirement in map(Requirement, project["dependencies"]):
        lowest = [specifier.version for specifier in requirement.specifier if specifier.operator == ">="]
        if len(lowest) != 1:
            raise ValueError(f"{requirement} has {len(lowest)} lower bounds in pyproject.toml: give it one, with >=")
        bounds[canonicalize_name(requirement.name)] = lowest[0]
    return bounds


def make_environment(folder: Path) -> Path:
    """Install vcut and its oldest dependencies into a new environment. Return the folder of its commands."""
    venv.create(folder / "environment", with_pip=True)
    commands = folder / "environment" / ("Scripts" if os.name == "nt" else "bin")
    pip = [str(commands / "python"), "-m", "pip"]
    bounds = lower_bounds()
    pins = [f"{name}=={version}" for name, version in bounds.items()]
    _run([*pip, "install", "--quiet", "--only-binary", ":all:", *pins])
    _run([*pip, "install", "--quiet", "--no-deps", str(build_wheel(folder))])
    _run([*pip, "check"])
    print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    for package in json.loads(_run([*pip, "list", "--format", "json"])):
        mark = "  (lower bound)" if canonicalize_name(package["name"]) in bounds else ""
        print(f"  {package['name']} {package['version']}{mark}")
    return commands


def compare(bundle: Path, photo: Path, commands: Path, folder: Path) -> int:
    """Inspect and run ``bundle`` with the oldest releases. Return by how many levels the frames differ at most.

    Raises:
        ValueError: the help lacks a text or shows markup, or a video has another shape than today's.
    """
    vcut = [str(commands / "vcut")]
    text = _run([*vcut, "run", "--help"])
    if "The bundle's folder." not in text or "\\[" in text:
        raise ValueError(f"the help lacks texts or shows markup, raise the bound of typer in pyproject.toml:\n{text}")
    json.loads(_run([*vcut, "inspect", "--no-hashes", "--json", str(bundle)]))
    _run([*vcut, "inspect", str(bundle)])
    arguments = [str(bundle), str(photo), "--fit", "crop", "--seed", "0", "--backend", "onnxruntime-cpu", "--quiet"]
    for output in ("frames", "video.mp4", "video.gif", "video.webp"):
        _run([*vcut, "run", *arguments, "--output", str(folder / output)])
    today = [sys.executable, "-m", "vcut_runtime", "run", *arguments, "--output", str(folder / "today")]
    _run(today, dict(os.environ))

    expected, frames = _frames(folder / "today"), _frames(folder / "frames")
    shapes = {"frames": frames.shape, "video.mp4": _shape_of_mp4(folder / "video.mp4")}
    for output in ("video.gif", "video.webp"):
        with Image.open(folder / output) as image:
            shapes[output] = (getattr(image, "n_frames", 1), image.height, image.width, 3)
    wrong = {output: shape for output, shape in shapes.items() if shape != expected.shape}
    if wrong:
        raise ValueError(f"these videos have other shapes than {expected.shape}: {wrong}")
    return int(np.abs(expected.astype(int) - frames).max())


def main() -> int:
    """Run the comparison; 1 if it fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photo", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            commands = make_environment(folder)
            levels = compare(arguments.bundle.resolve(), arguments.photo.resolve(), commands, folder)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 1
        except subprocess.CalledProcessError as error:
            print(f"failed: {' '.join(error.cmd)}\n{error.stdout}{error.stderr}", file=sys.stderr)
            return 1
    print(f"inspect, PNG, MP4, GIF and WebP work; frames differ from today's by at most {levels} of 255 levels")
    if levels > TOLERANCE:
        print(f"that is more than {TOLERANCE}: find the package that causes it, and raise its bound", file=sys.stderr)
        return 1
    return 0


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Run ``command``, by default without the paths that show it this checkout, and return what it prints."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(command, env=environment or clean, check=True, capture_output=True, text=True).stdout


def _frames(folder: Path) -> np.ndarray:
    """Read PNG frames: uint8 [frames, height, width, 3]."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


def _shape_of_mp4(path: Path) -> tuple[int, ...]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return (len(frames), frames[0].height, frames[0].width, 3)


if __name__ == "__main__":
    sys.exit(main())
