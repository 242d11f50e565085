"""Weights and inputs of the recorded networks. Both are drawn from names, with a generator that NumPy has frozen."""

from __future__ import annotations

import zlib

import numpy as np
import torch

FRAMES = 2
CHANNELS = 32  # of an added number's embedding


def draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Draw the weight ``name``: matrices keep the scale of what they multiply, the rest is near 0, or 1 for norms."""
    value = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        return torch.from_numpy(value * np.float32(np.prod(shape[1:]) ** -0.5))
    return torch.from_numpy(0.1 * value + (1 if name.endswith("weight") else 0))


def inputs() -> dict[str, torch.Tensor]:
    """Return inputs of the UNet, the VAE and the image encoder.

    The sample is small, so that a wrong epsilon of a normalisation shows.
    """
    shapes = {
        "sample": (2, FRAMES, 8, 8, 8),
        "embedding": (2, 1, 64),
        "image": (1, 3, 32, 32),
        "latents": (FRAMES, 4, 4, 4),
        "pixels": (1, 3, 224, 224),
    }
    values = {name: draw(f"input {name}", shape) for name, shape in shapes.items()}
    values = {name: value / value.std() for name, value in values.items()}
    values["sample"] *= 0.01
    values["timestep"] = torch.tensor(0.7)
    values["added_time_ids"] = torch.tensor([[6.0, 127.0, 0.02], [6.0, 20.0, 0.1]])
    return values
