"""What every comparison of graphs shares: the inputs, the error and its tolerance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vcut_runtime.bundle.geometry import Sizes
from vcut_runtime.bundle.graph import FEATURES, GRAPHS, sized
from vcut_runtime.bundle.manifest import Manifest
from vcut_runtime.guidance import added_time_ids, guidance_scale
from vcut_runtime.run_plan import resize_matrices

Arrays = dict[str, np.ndarray]

# Largest error relative to the output's largest magnitude, by the precision of the network bodies.
TOLERANCE: Mapping[str, float] = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
LEVELS = 1  # by which 8-bit values may differ: their own rounding is within half a level


def sample_inputs(manifest: Manifest, sizes: Sizes) -> dict[str, Arrays]:
    """Return the same random inputs each time, for a video of ``sizes``.

    Returns:
        Inputs of ``condition``, of ``step`` (those of a guided step that takes deep features, see
        :func:`inputs_of`), and of ``decode``.
    """
    draw = np.random.default_rng(0)
    chunk = manifest.geometry.decode_frames or min(2, sizes.frames)
    values = {**manifest.geometry.values(sizes, chunk), "N": manifest.bias_channels}

    def random(graph: str) -> Arrays:
        return {t.name: draw.standard_normal(sized(t.shape, values), dtype=np.float32) for t in GRAPHS[graph].inputs}

    sigma = 2.5
    condition, step = random("condition"), random("semantic_binding_shallow")
    features = np.float16 if manifest.precision == "fp16" else np.float32
    return {
        "condition": {
            **condition,
            "image": draw.random(condition["image"].shape, dtype=np.float32),
            "noise_aug_strength": np.array([0.02], dtype=np.float32),
            **resize_matrices(manifest, sizes),
        },
        "step": {
            **step,
            "latents": step["latents"] * np.float32(sigma),
            "sigma": np.array([sigma], dtype=np.float32),
            "added_time_ids": added_time_ids(7, 127, 0.02),
            "guidance_scale": guidance_scale(1.0, 3.0, sizes.frames),
            FEATURES: step[FEATURES].astype(features),
        },
        "decode": random("decode"),
    }


def inputs_of(graph: str, samples: Mapping[str, Arrays], manifest: Manifest) -> Arrays:
    """Return what ``graph`` takes of ``samples``, by name. A conditional step takes the last row of each batch."""
    rows = GRAPHS[graph].rows
    given = dict(samples["step" if rows else graph])
    if rows:
        given |= {name: given[name][-rows:] for name in ("sca_bias", FEATURES)}
    return {tensor.name: given[tensor.name] for tensor in manifest.graphs[graph].inputs}


def allowed_levels(tolerance: float) -> int:
    """Return by how many levels 8-bit values may differ, so that :func:`relative_error` is within ``tolerance``."""
    return LEVELS + int(255 * tolerance)


def relative_error(actual: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest error relative to the largest magnitude of ``reference``.

    Of 8-bit values an error of one level (1/255) is not counted. NaN in either array gives NaN.
    """
    if reference.dtype == np.uint8:
        levels = np.abs(actual.astype(np.int16) - reference.astype(np.int16)).max()
        return float(max(0, levels - LEVELS)) / 255.0
    return float(np.abs(actual - reference).max() / np.abs(reference).max())
