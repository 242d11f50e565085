"""Checks of a manifest's content that the types of its fields cannot express."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import msgspec
import numpy as np

from vcut_runtime.bundle.geometry import MOST
from vcut_runtime.bundle.graph import GRAPHS, BoundGraph, bundle_graphs
from vcut_runtime.bundle.manifest import MANIFEST, Manifest, Profile, graph_files
from vcut_runtime.schedule import DEFAULT_SCHEDULE, MOST_STEPS, Schedule, falls, karras_sigmas
from vcut_runtime.unet_cost import check_unet

_SHA256 = re.compile(r"[0-9a-f]{64}")
_AGAIN = "export the bundle again with --force"
MOST_GRAPH_BYTES = 16 << 20  # the largest of SVD-XT has 1 MB: weights are not in it
_MOST_CHANNELS = 1 << 20
_MOST_FACTOR = 64  # pixels per latent pixel
_MOST_ENCODER_SIZE = 4096
_MOST_INTEGER = 2**63 - 1
_LARGEST = float(np.finfo(np.float32).max)
_DEEPEST = 32  # levels of objects and lists, in diffusers' configurations


def check_manifest(manifest: Manifest) -> None:
    """Check ``manifest`` before any other file of its bundle is read.

    Raises:
        ValueError: what is wrong and what to do, on one line.
    """
    _check_paths(manifest)
    _check_sizes(manifest)
    _check_unet(manifest)
    graphs = bundle_graphs(manifest)
    _check_graphs(manifest, graphs)
    _check_schedules(manifest)
    _check_engines(manifest)
    _check_shapes(manifest, graphs)
    _check_values(manifest)


def _check_values(manifest: Manifest) -> None:
    """Every number must be finite in float32, in which graphs compute, and every integer must fit into 64 bits."""
    values: list[tuple[Any, int]] = [(manifest, 0)]
    while values:
        value, depth = values.pop()
        if depth > _DEEPEST:
            raise ValueError(f"the manifest is nested too deeply: {_AGAIN}")
        if isinstance(value, msgspec.Struct):
            value = msgspec.structs.asdict(value)
        if isinstance(value, dict):
            values += ((item, depth + 1) for item in value.values())
        elif isinstance(value, list | tuple):
            values += ((item, depth + 1) for item in value)
        elif isinstance(value, int) and abs(value) > _MOST_INTEGER:
            raise ValueError(f"the manifest has the number {value}, which is too large: {_AGAIN}")
        elif isinstance(value, float) and abs(value) > _LARGEST:
            raise ValueError(f"the manifest has the number {value:g}, which is not finite in float32: {_AGAIN}")


def _check_paths(manifest: Manifest) -> None:
    for entry in manifest.files():
        path = PurePosixPath(entry.file)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.file or ":" in entry.file or not path.parts:
            raise ValueError(f"the manifest names a path outside the bundle, {entry.file!r}: do not use this bundle")
        if entry.file == MANIFEST:
            raise ValueError("the manifest lists itself as a file of the bundle: do not use this bundle")
        if not _SHA256.fullmatch(entry.sha256):
            raise ValueError(f"the manifest gives no sha256 for {entry.file}: {_AGAIN}")
    for entry in graph_files(*manifest.graphs.values()):
        if entry.bytes > MOST_GRAPH_BYTES:
            raise ValueError(f"the graph {entry.file} has {entry.bytes} bytes, more than {MOST_GRAPH_BYTES}: {_AGAIN}")


def _check_sizes(manifest: Manifest) -> None:
    sizes = (*manifest.sizes, manifest.latent_channels, manifest.vae_scale_factor, manifest.decode_chunk)
    if min(sizes) < 1:
        raise ValueError(f"the manifest gives a size below 1: {_AGAIN}")
    if manifest.deep_features < 0:
        raise ValueError(f"the manifest gives deep_features below 0: {_AGAIN}")
    geometry = manifest.geometry
    channels = max(manifest.latent_channels, manifest.deep_features, manifest.bias_channels)
    if (
        any(size > most for sizes in (manifest.sizes, geometry.largest) for size, most in zip(sizes, MOST, strict=True))
        or channels > _MOST_CHANNELS
        or manifest.vae_scale_factor > _MOST_FACTOR
        or geometry.encoder_size > _MOST_ENCODER_SIZE
    ):
        raise ValueError(f"the manifest gives a size that is too large: {_AGAIN}")
    for name, sizes in manifest.dynamic.items():
        unit = 1 if name == "frames" else manifest.vae_scale_factor
        usable = sizes.multiple >= 1 and sizes.multiple % unit == 0 and sizes.min >= 1
        if not usable or sizes.min not in sizes or sizes.max not in sizes:
            raise ValueError(f"the manifest's range of {name} is impossible: {_AGAIN}")
        if getattr(manifest, name) not in sizes:
            raise ValueError(f"the manifest's {name} is outside its own range: {_AGAIN}")
    if manifest.dynamic and geometry.encoder_size < 1:
        raise ValueError(f"the manifest gives no size of the image encoder: {_AGAIN}")
    most = geometry.largest.frames if geometry.decode_frames is None else geometry.smallest.frames
    if manifest.decode_chunk > most:
        raise ValueError(f"the manifest's decode_chunk is longer than its videos: {_AGAIN}")
    if not 0 <= 2 * manifest.decode_overlap < manifest.decode_chunk:
        raise ValueError(f"the manifest's decode_overlap does not fit its decode_chunk: {_AGAIN}")
    offset = 0
    for entry in manifest.sca_bias:
        if entry.offset != offset or entry.channels < 1:
            raise ValueError(f"the manifest's sca_bias slices do not follow each other at {entry.block}: {_AGAIN}")
        offset += entry.channels


def _check_unet(manifest: Manifest) -> None:
    try:
        check_unet(manifest.model.configs.get("unet", {}))
    except ValueError as error:
        raise ValueError(f"the manifest's configuration of the UNet is impossible ({error}): {_AGAIN}") from None


def _check_graphs(manifest: Manifest, graphs: dict[str, BoundGraph]) -> None:
    for name in (*graphs, *manifest.graphs):
        if name not in manifest.graphs:
            raise ValueError(f"the manifest lacks the graph {name}: {_AGAIN}")
        if name not in graphs:
            raise ValueError(f"the manifest has an unknown graph {name}: {_AGAIN}")
    for name, graph in manifest.graphs.items():
        if graph.weights not in manifest.weights:
            raise ValueError(f"graph {name} needs the unlisted weights {graph.weights!r}: {_AGAIN}")


def _check_schedules(manifest: Manifest) -> None:
    scheduler = manifest.scheduler
    if not (
        0 < scheduler.sigma_min < scheduler.sigma_max
        and scheduler.rho > 0
        and 0 <= scheduler.final_sigma < scheduler.sigma_min
        and scheduler.initial_noise_scale >= scheduler.sigma_max * (1 - 1e-6)  # see ``Scheduler.noise_scale``
        and falls(karras_sigmas(scheduler, MOST_STEPS))
    ):
        raise ValueError(f"the manifest's scheduler constants are impossible: {_AGAIN}")
    if DEFAULT_SCHEDULE not in manifest.schedules:
        raise ValueError(f"the manifest lacks the schedule {DEFAULT_SCHEDULE!r}: {_AGAIN}")
    for name, schedule in manifest.schedules.items():
        try:
            check_schedule(schedule, manifest)
        except ValueError as error:
            raise ValueError(f"the manifest's schedule {name!r} is impossible, {error}: {_AGAIN}") from None
    for name in manifest.measurements:
        if name not in manifest.schedules:
            raise ValueError(f"the manifest has a measurement of the unknown schedule {name!r}: {_AGAIN}")


def check_schedule(schedule: Schedule, manifest: Manifest) -> None:
    """Check that a bundle can play ``schedule``.

    Raises:
        ValueError: it cannot; the message names the first wrong row.
    """
    if not schedule:
        raise ValueError("it has no step")
    if len(schedule) > MOST_STEPS:
        raise ValueError(f"it has {len(schedule)} steps, more than {MOST_STEPS}")
    full: str | None = None  # the step graph that gave the latest deep features
    for number, step in enumerate(schedule, start=1):
        graph = GRAPHS.get(step.graph)
        if graph is None or not graph.is_step or graph.name not in manifest.graphs:
            raise ValueError(f"step {number} runs {step.graph!r}, which is not a step graph of this bundle")
        if (step.bias == "both") != (graph.rows == 2):
            raise ValueError(f"step {number} gives the bias {step.bias!r} to {step.graph}")
        if graph.full is not None and graph.full != full:
            raise ValueError(f"step {number} is shallow, and no {graph.full} step comes before it")
        full = graph.stage
        numbers = np.array([step.sigma, *step.coefficients, step.noise], dtype=np.float64)
        with np.errstate(over="ignore"):
            finite = np.isfinite(numbers.astype(np.float32)).all()
        if not finite or np.float32(step.sigma) <= 0 or step.noise < 0:
            raise ValueError(f"step {number} has an impossible sigma, coefficient or noise")
        if number > 1 and np.float32(step.sigma) >= np.float32(schedule[number - 2].sigma):
            raise ValueError(f"sigma does not fall at step {number}")


def _check_engines(manifest: Manifest) -> None:
    """Engines must belong to graphs of this bundle, and their profiles must fit their free dimensions."""
    for target, engines in manifest.engines.items():
        for name, engine in engines.engines.items():
            if name not in manifest.graphs:
                raise ValueError(f"the manifest has an engine of the unknown graph {name!r} in {target}: rebuild it")
            if (engine.graph, engine.weights) != manifest.sources(name):
                raise ValueError(
                    f"the engine {name} of {target} was built from another graph than this bundle's: "
                    "run 'vcut build' on the bundle again"
                )
            free = {t.name: t.shape for t in engine.inputs if any(isinstance(d, str) for d in t.shape)}
            if set(engine.profile) != set(free) or not all(
                _fits(profile, free[tensor]) for tensor, profile in engine.profile.items()
            ):
                raise ValueError(f"the profile of engine {name} of {target} does not fit its inputs: rebuild it")
        sizes = [(e.activation_bytes, e.weight_bytes, e.layers) for e in engines.engines.values()]
        if any(min(numbers) < 0 for numbers in sizes):
            raise ValueError(f"the engines of {target} claim a negative size: rebuild them")


def _fits(profile: Profile, shape: tuple[int | str, ...]) -> bool:
    sides = (profile.min, profile.opt, profile.max)
    if any(len(side) != len(shape) for side in sides):
        return False
    return all(
        1 <= low <= mid <= high and (isinstance(fixed, str) or low == high == fixed)
        for low, mid, high, fixed in zip(*sides, shape, strict=True)
    )


def _check_shapes(manifest: Manifest, graphs: dict[str, BoundGraph]) -> None:
    """Graphs and engines must have the shapes that the manifest's sizes imply, or the step loop would not fit."""
    holders = [(f"graph {name}", name, entry) for name, entry in manifest.graphs.items()]
    for target, engines in manifest.engines.items():
        holders += [(f"engine {name} of {target}", name, entry) for name, entry in engines.engines.items()]
    for what, name, entry in holders:
        for tensors, expected in zip((entry.inputs, entry.outputs), graphs[name], strict=True):
            actual, right = ({t.name: (t.dtype, t.shape) for t in side} for side in (tensors, expected))
            if len(actual) != len(tensors):
                raise ValueError(f"the manifest lists a tensor of {what} twice: {_AGAIN}")
            if actual != right:
                wrong = next((k for k in {**right, **actual} if actual.get(k) != right.get(k)), name)
                raise ValueError(f"the manifest's shape of {wrong!r} in {what} does not fit its sizes: {_AGAIN}")
