"""Checkpoints and bundles that many tests share, each made once per run."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from models import tiny

# One level with attention and one without: half a minute less to trace than SVD's four.
SMALL = {
    "unet": {
        "block_out_channels": [32, 64],
        "down_block_types": ["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
        "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
        "layers_per_block": 1,
        "num_attention_heads": [1, 2],
        "num_frames": 3,
        "sample_size": [16, 16],
    },
    "vae": {
        "block_out_channels": [32, 32],
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "layers_per_block": 1,
    },
}

FP32: dict[str, Any] = {"precision": "fp32", "operators": "cpu"}  # what svd-tiny has by default

# Of the shallow model: the sizes of ``small_bundle`` are in the ranges, and are not the default.
DYNAMIC: dict[str, Any] = {
    "frames": 4,
    "height": 40,
    "width": 28,
    "dynamic": {"frames": (2, 5), "height": (24, 48), "width": (24, 48)},
    **FP32,
    "steps": 4,
    "cut_step": 3,
    "deep_cache": True,
}


def make_checkpoint(folder: Path, **components: dict) -> Path:
    """Write ``TINY``, with changes to its configurations, as a diffusers folder in fp32."""
    import dataclasses

    from vcut_export import save_checkpoint

    model = tiny(seed=1)
    configs = {name: {**config, **components.get(name, {})} for name, config in model.configs.items()}
    save_checkpoint(dataclasses.replace(model, configs=configs), folder)
    return folder


def pytest_configure(config: pytest.Config) -> None:
    """Give each process of a parallel run one core: exports then start no second process to trace."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first, and skip what needs a GPU where there is none that cuda-python can use."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)  # a long file that starts last is waited for alone
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        from vcut_runtime import VcutError
        from vcut_runtime.backends.cuda import Cuda

        try:
            Cuda()
        except VcutError as error:
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=str(error)))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test draws the same numbers alone and in company; torch stays out of tests that do without."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Make a folder at most once per run, in whichever of the run's processes asks first; nobody may change it."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"

    def make(name: str, write: Callable[[Path], object]) -> Path:
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.exists():
                partial = target.with_name(f"{target.name}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                write(partial)
                partial.rename(target)
        return target

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(once: Once) -> Path:
    """``TINY``, at SVD's full depth, as a diffusers folder."""
    return once("checkpoints/tiny", make_checkpoint)


@pytest.fixture(scope="session")
def slim_checkpoint(once: Once) -> Path:
    """``TINY`` with all of SVD's levels and one layer in each, half as long to trace with free sizes."""
    return once("checkpoints/slim", lambda folder: make_checkpoint(folder, unet={"layers_per_block": 1}))


@pytest.fixture(scope="session")
def small_checkpoint(once: Once) -> Path:
    """A shallow model of other numbers throughout, as a diffusers folder."""
    return once("checkpoints/small", lambda folder: make_checkpoint(folder, **SMALL))


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, once: Once) -> Callable[[str], Path]:
    """Compile ``TINY`` in fp32 with the given ``tca`` at most once; the one with TCA folded has shallow steps too."""
    from vcut_export import export

    def make(tca: str) -> Path:
        fold = tca == "fold"
        options: dict[str, Any] = {"tca": "fold", "deep_cache": True} if fold else {"tca": "remove"}
        return once(f"bundles/tiny-{tca}", lambda bundle: export(str(tiny_checkpoint), bundle, **FP32, **options))

    return make


@pytest.fixture(scope="session")
def small_bundle(small_checkpoint: Path, once: Once) -> Path:
    """The shallow model compiled in fp32. Tests that change a bundle copy it first."""
    from vcut_export import export

    options: dict[str, Any] = {**FP32, "steps": 4, "cut_step": 3}
    return once("bundles/small", lambda bundle: export(str(small_checkpoint), bundle, **options))


@pytest.fixture(scope="session")
def deep_bundle(small_checkpoint: Path, once: Once) -> Path:
    """The shallow model compiled in fp32 with shallow steps. Tests that change a bundle copy it first."""
    from vcut_export import export

    options: dict[str, Any] = {**FP32, "steps": 7, "cut_step": 5, "deep_cache": True}
    return once("bundles/deep", lambda bundle: export(str(small_checkpoint), bundle, **options))


@pytest.fixture(scope="session")
def dynamic_bundle(small_checkpoint: Path, once: Once) -> Path:
    """The shallow model compiled with sizes that a run may choose. Tests that change a bundle copy it first."""
    from vcut_export import export

    return once("bundles/dynamic", lambda bundle: export(str(small_checkpoint), bundle, **DYNAMIC))


@pytest.fixture(scope="session")
def slim_dynamic_bundle(slim_checkpoint: Path, once: Once) -> Path:
    """All of SVD's levels, TCA folded, in fp32, with shallow steps and sizes that a run may choose."""
    from vcut_export import export

    ranges = {"frames": (2, 14), "height": (64, 128), "width": (64, 192)}
    options: dict[str, Any] = {**FP32, "height": 72, "width": 128, "tca": "fold", "dynamic": ranges, "deep_cache": True}
    return once("bundles/slim-dynamic", lambda bundle: export(str(slim_checkpoint), bundle, **options))


@pytest.fixture
def bundle_copy(small_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the small bundle that a test may damage."""
    return Path(shutil.copytree(small_bundle, tmp_path / "bundle"))


@pytest.fixture
def edit_manifest(bundle_copy: Path) -> Callable[[Callable[[dict], object]], Path]:
    """Change the copied bundle's manifest as JSON and return the bundle."""

    def edit(change: Callable[[dict], object]) -> Path:
        path = bundle_copy / "manifest.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return bundle_copy

    return edit


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A real photograph."""
    from skimage import data

    return Image.fromarray(data.astronaut())


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of 8-bit images in dB."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))
