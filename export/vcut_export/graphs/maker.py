"""Making the graphs of a plan: load, fold, trace, write. The UNet is gone before the other components are loaded."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from vcut_export.checkpoint import weights
from vcut_export.graphs.flash_attention import use_flash_attention
from vcut_export.graphs.modules import Condition, Decode
from vcut_export.graphs.onnx_files import write_graph, write_weights
from vcut_export.graphs.rewrites.fold import Projection
from vcut_export.graphs.steps import FoldedSteps, fold_empty_steps, fold_steps, graph_spec
from vcut_export.graphs.trace_process import TraceProcess
from vcut_export.graphs.tracing import attach_weights, trace, trace_structure
from vcut_export.graphs.upcast_attention import upcast_attention
from vcut_export.plan import Plan
from vcut_runtime import __version__
from vcut_runtime.bundle.graph import GRAPHS
from vcut_runtime.bundle.manifest import BiasSlice, FileEntry, GraphEntry
from vcut_runtime.host import usable_cpus

ATTENTION_SCORES = 512 << 20  # bytes of the VAE's attention scores at a time
Clock = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class MadeGraphs:
    """The files that were made. ``slices`` is None if no graph with ``sca_bias`` was made."""

    graphs: Mapping[str, GraphEntry]
    weights: Mapping[str, FileEntry]
    slices: tuple[BiasSlice, ...] | None


def make_graphs(plan: Plan, folder: Path, stale: tuple[str, ...], clock: Clock) -> MadeGraphs:
    """Make the graphs named in ``stale`` in ``folder``, the bundle's ``onnx``."""
    writer = _Writer(plan, folder, clock)
    projection = None
    step_names = [name for name in stale if GRAPHS[name].is_step]
    if step_names or "condition" in stale:
        with _second_core(plan, step_names[1:], folder) as helper:
            with clock("trace step graphs"):
                models = _trace_steps(plan, step_names if helper is None else step_names[:1])
            steps = _load_steps(plan, clock)  # while the other process traces
            projection = steps.projection
            if helper is not None:
                with clock("trace step graphs"):
                    models |= helper.models()
            if models:
                models = {name: attach_weights(model, steps.modules[name]) for name, model in models.items()}
                writer.write(models, len(projection.bias))
                del models
        del steps
        gc.collect()
    bias_channels = 0 if projection is None else len(projection.bias)  # decode has no bias
    for name, module in _others(plan, stale, projection, clock):
        with clock(f"trace {name}"):
            model = trace(module.eval(), graph_spec(plan, name, bias_channels))
        writer.write({name: model}, bias_channels)
    return MadeGraphs(writer.graphs, writer.weights, None if projection is None else projection.slices)


@contextmanager
def _second_core(plan: Plan, names: list[str], folder: Path) -> Iterator[TraceProcess | None]:
    """Start tracing ``names`` in another process, if there is a core for it."""
    process = TraceProcess(plan, names, folder) if names and usable_cpus() > 1 else None
    try:
        yield process
    finally:
        if process is not None:
            process.close()


def _trace_steps(plan: Plan, names: list[str]) -> dict[str, ir.Model]:
    """Trace steps; their graphs have no weights yet."""
    if not names:
        return {}
    steps = fold_empty_steps(plan)
    width = len(steps.projection.bias)
    return {name: trace_structure(steps.modules[name], graph_spec(plan, name, width)) for name in names}


def _load_steps(plan: Plan, clock: Clock) -> FoldedSteps:
    with clock("load unet"):
        unet = weights.load_unet(plan.checkpoint, plan.precision, weights.torch_dtype(plan.precision))
    with clock("fold cross-attention"):
        return fold_steps(unet, plan)


def _others(
    plan: Plan, stale: tuple[str, ...], projection: Projection | None, clock: Clock
) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield the modules of ``condition`` and ``decode``. Each is loaded when it is needed."""
    if "condition" in stale and projection is not None:
        with clock("load image encoder and vae"):
            module = _condition(plan, projection)
        yield "condition", module
        del module
    if "decode" in stale:
        with clock("load decoder"):
            vae = weights.load_vae(plan.checkpoint, plan.precision, weights.torch_dtype(plan.precision))
            module = Decode(vae, frames_at_once(plan), attention_parts(plan, plan.geometry.decode_chunk, vae.dtype))
        yield "decode", module


def _condition(plan: Plan, projection: Projection) -> Condition:
    """Return the module of ``condition``; its VAE encoder is fp32 if the checkpoint asks for it, as in diffusers."""
    body = weights.torch_dtype(plan.precision)
    upcast = plan.checkpoint.configs["vae"].get("force_upcast", True)
    encoder = weights.load_image_encoder(plan.checkpoint, plan.precision, body)
    vae = weights.load_vae(plan.checkpoint, plan.precision, torch.float32 if upcast else body)
    extractor = plan.checkpoint.configs["feature_extractor"]
    sizes = plan.geometry.sizes
    height, width = (None, None) if plan.geometry.has_free_size else (sizes.height, sizes.width)
    return Condition(encoder, vae, projection, extractor, height, width, attention_parts(plan, 1, vae.dtype))


def frames_at_once(plan: Plan) -> int | None:
    """Return how many frames the decoder's last level takes at a time: a third of a chunk measured least. None: all."""
    frames = plan.geometry.decode_frames
    return None if frames is None else max(1, frames // 3)


def attention_parts(plan: Plan, frames: int, dtype: torch.dtype) -> int:
    """Return in how many parts the VAE's attention takes its queries, so that the scores of a part fit the limit.

    Args:
        plan: of the bundle, whose largest videos count.
        frames: that the graph takes at a time.
        dtype: of the scores.
    """
    _, height, width = plan.geometry.latent_shape(plan.geometry.largest)
    return max(1, math.ceil(frames * (height * width) ** 2 * dtype.itemsize / ATTENTION_SCORES))


class _Writer:
    """Writes graphs and their weights; graphs that share a weights file are written together."""

    def __init__(self, plan: Plan, folder: Path, clock: Clock) -> None:
        self.plan, self.folder, self.clock = plan, folder, clock
        self.graphs: dict[str, GraphEntry] = {}
        self.weights: dict[str, FileEntry] = {}

    def write(self, models: Mapping[str, ir.Model], bias_channels: int) -> None:
        """Write ``models``, which share one weights file."""
        (file,) = {GRAPHS[name].weights for name in models}
        with self.clock(f"write {file}"):
            entry, placed = write_weights(list(models.values()), self.folder / file)
            self.weights[file] = _listed(entry)
            for name, model in models.items():
                metadata = _metadata(self.plan, name)
                if self.plan.options.upcast_attention and GRAPHS[name].is_step:
                    upcast_attention(model)
                standard = _listed(write_graph(model, self.folder / f"{name}.onnx", placed, metadata))
                contrib = None
                if self.plan.operators == "cpu" and use_flash_attention(model):
                    contrib = _listed(write_graph(model, self.folder / f"{name}.contrib.onnx", placed, metadata))
                spec = graph_spec(self.plan, name, bias_channels)
                self.graphs[name] = GraphEntry(
                    file=standard.file,
                    bytes=standard.bytes,
                    sha256=standard.sha256,
                    contrib=contrib,
                    weights=file,
                    key=self.plan.keys[name],
                    inputs=spec.inputs,
                    outputs=spec.outputs,
                )


def _listed(entry: FileEntry) -> FileEntry:
    """Return a file of the bundle's ``onnx`` folder as the manifest lists it."""
    return FileEntry(f"onnx/{entry.file}", entry.bytes, entry.sha256)


def _metadata(plan: Plan, name: str) -> dict[str, str]:
    values: dict[str, Any] = {
        "description": GRAPHS[name].about,
        "vcut_version": __version__,
        "model": plan.checkpoint.id,
        "revision": plan.checkpoint.revision or "",
        "random_weights": str(plan.checkpoint.seed is not None).lower(),
        "graph": name,
        "precision": plan.precision,
        "operators": plan.operators,
        "tca": plan.options.tca,
        **plan.geometry.describe(),
    }
    return {key: str(value) for key, value in values.items()}
