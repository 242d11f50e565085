"""Metrics that compare two videos, and metrics of one video alone. Frames are uint8 [F, H, W, 3] throughout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from vcut_runtime.errors import UsageError

MAX_PSNR = 100.0  # dB; equal frames count as this, so that means stay finite
SSIM_WINDOW = 11  # pixels
Lpips = Callable[[np.ndarray, np.ndarray], float]
_ALEXNET = "alexnet-owt-7be5be79.pth"  # torchvision's name of the weights below LPIPS


def psnr(frames: np.ndarray, reference: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio over all frames in dB, at most ``MAX_PSNR``."""
    from skimage.metrics import peak_signal_noise_ratio

    if np.array_equal(frames, reference):
        return MAX_PSNR
    return min(MAX_PSNR, float(peak_signal_noise_ratio(reference, frames, data_range=255)))


def ssim(frames: np.ndarray, reference: np.ndarray) -> float:
    """Return the structural similarity, with Wang et al.'s Gaussian window of 11 pixels, mean over frames and colours.

    Raises:
        UsageError: the frames are smaller than the window.
    """
    from skimage.metrics import structural_similarity

    if min(frames.shape[1:3]) < SSIM_WINDOW:
        height, width = frames.shape[1:3]
        raise UsageError(f"frames of {height}x{width} are too small for SSIM: give at least {SSIM_WINDOW} pixels")
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = zip(frames, reference, strict=True)
    return float(np.mean([structural_similarity(a, b, data_range=255, channel_axis=-1, **options) for a, b in pairs]))


def temporal_error(frames: np.ndarray, reference: np.ndarray) -> float:
    """Return the error of the change from one frame to the next, root mean square in levels of 255."""
    if len(frames) < 2:
        return 0.0
    error = frames.astype(np.float32) - reference
    return float(np.sqrt(np.mean(np.diff(error, axis=0) ** 2)))


def motion(frames: np.ndarray) -> float:
    """Return the mean absolute change from one frame to the next in levels of 255: how much moves, or flickers."""
    if len(frames) < 2:
        return 0.0
    return float(np.mean(np.abs(np.diff(frames.astype(np.int16), axis=0))))


def compare(frames: np.ndarray, reference: np.ndarray, lpips: Lpips | None = None) -> dict[str, float]:
    """Return every distance of ``frames`` from ``reference`` by name."""
    metrics = {"psnr": psnr, "ssim": ssim, "temporal": temporal_error, **({"lpips": lpips} if lpips else {})}
    return {name: metric(frames, reference) for name, metric in metrics.items()}


def alone(frames: np.ndarray, image: np.ndarray) -> dict[str, float]:
    """Return the metrics that need no reference: PSNR of the first frame to ``image`` [H, W, 3] in dB, and motion."""
    return {"input_psnr": psnr(frames[0], image), "motion": motion(frames)}


def missing_lpips() -> str | None:
    """Return how to install what LPIPS lacks, None if it can run. Nothing is downloaded."""
    import torch

    packages = [name for name in ("lpips", "torchvision") if find_spec(name) is None]
    steps = [f"pip install {' '.join(packages)}"] if packages else []
    weights = Path(torch.hub.get_dir()) / "checkpoints"
    if not (weights / _ALEXNET).is_file():
        steps.append(f"put torchvision's AlexNet, {_ALEXNET}, into {weights}")
    return " and ".join(steps) or None


def load_lpips() -> Lpips:
    """Return LPIPS (AlexNet, version 0.1; Zhang et al., 2018) as a function of two videos, mean over frames.

    Raises:
        UsageError: its package or weights are not installed.
    """
    if steps := missing_lpips():
        raise UsageError(f"LPIPS cannot run: {steps}")
    import lpips  # pyright: ignore[reportMissingImports]
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = lpips.LPIPS(net="alex", verbose=False).to(device)

    def tensor(frame: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(frame).to(device).permute(2, 0, 1)[None] / 127.5 - 1.0  # [1, 3, H, W]

    @torch.no_grad()
    def distance(frames: np.ndarray, reference: np.ndarray) -> float:
        pairs = zip(frames, reference, strict=True)
        return float(np.mean([model(tensor(a), tensor(b)).item() for a, b in pairs]))

    return distance


def summarize(values: Sequence[Sequence[float]]) -> dict[str, float | int | None]:
    """Return mean, standard deviation and a bootstrapped 95 % interval of the mean of ``values``, grouped by image.

    Images are drawn with all their seeds, because seeds of one image are not independent samples. A single image has
    no interval.
    """
    flat = np.concatenate([np.asarray(group, dtype=np.float64) for group in values])
    low = high = None
    if len(values) > 1:
        draw = np.random.default_rng(0)
        sums, counts = (np.array([f(group) for group in values], dtype=np.float64) for f in (math.fsum, len))
        chosen = draw.integers(0, len(values), (2000, len(values)))
        means = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
        low, high = (float(value) for value in np.quantile(means, (0.025, 0.975)))
    return {"mean": float(flat.mean()), "std": float(flat.std()), "n": len(flat), "low": low, "high": high}
