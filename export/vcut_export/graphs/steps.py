"""The step graphs' torch modules: diffusers' UNet, folded and rewritten as the plan asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from vcut_export.checkpoint import weights
from vcut_export.graphs.modules import QualityImprovement, SemanticBinding
from vcut_export.graphs.rewrites.cpu_layers import prefer_cpu_kernels
from vcut_export.graphs.rewrites.deep_features import split_unet
from vcut_export.graphs.rewrites.feed_forward import chunk_feed_forwards
from vcut_export.graphs.rewrites.fold import Projection, fold, project_cross_attention
from vcut_export.graphs.rewrites.free_sizes import free_sizes
from vcut_export.graphs.tracing import GraphSpec
from vcut_export.plan import Plan
from vcut_runtime.bundle.graph import GRAPHS, bind

_MODULES = {2: SemanticBinding, 1: QualityImprovement}  # by batch rows


@dataclass(frozen=True)
class FoldedSteps:
    """The modules of the step graphs by name, which share one UNet, and the projection that makes their bias."""

    modules: dict[str, torch.nn.Module]
    projection: Projection


def fold_steps(unet: Any, plan: Plan) -> FoldedSteps:
    """Fold and rewrite ``unet`` in place and wrap it into the step graphs' modules.

    ``unet`` is diffusers' ``UNetSpatioTemporalConditionModel``, loaded or on the meta device.
    """
    options = plan.options
    projection = project_cross_attention(unet, options.tca)
    state = fold(unet, projection, frame_positions(plan))
    if options.small_gpu or (options.operators == "cpu" and not options.dynamic):  # parts have fixed sizes
        chunk_feed_forwards(unet)
    if options.operators == "cpu":
        prefer_cpu_kernels(unet)
    if plan.geometry.has_free_size:
        free_sizes(unet)
    shallow = split_unet(unet, state) if options.deep_cache else None
    steps = [graph for graph in GRAPHS.values() if graph.is_step and graph.name in plan.keys]
    modules = {g.name: _MODULES[g.rows](shallow if g.full else unet, state).eval() for g in steps}
    return FoldedSteps(modules, projection)


def fold_empty_steps(plan: Plan) -> FoldedSteps:
    """Return the same modules on the meta device. Step graphs are traced from these, whose weights take no memory.

    A loaded model traces to a graph of the same nodes with other names: kernels of other devices lay out memory
    differently.
    """
    unet = weights.empty(plan.checkpoint, "unet")
    return fold_steps(unet.to(weights.torch_dtype(plan.precision)).eval().requires_grad_(False), plan)


def graph_spec(plan: Plan, name: str, bias_channels: int) -> GraphSpec:
    """Return how the graph ``name`` is traced."""
    graph = bind({**plan.geometry.bound(), "N": bias_channels}, plan.precision)[name]
    return GraphSpec(name, graph.inputs, graph.outputs, plan.operators == "cpu", trace_sizes(plan))


def trace_sizes(plan: Plan) -> dict[str, int]:
    """Return sizes to trace free dimensions with: no two the same, none 1, whatever the ranges are.

    No level of the UNet halves the latents evenly, see ``free_sizes``.
    """
    whole = 2 ** (len(plan.checkpoint.configs["unet"]["block_out_channels"]) - 1)
    factor, h, w = plan.checkpoint.vae_scale_factor, 2 * whole + 7, 3 * whole + 7
    return {"n": 2, "F": 5, "H": h * factor, "W": w * factor, "h": h, "w": w}


def frame_positions(plan: Plan) -> int:
    """Return the rows of the frame position table: a video's most frames, and at least as many as are traced with."""
    most = plan.geometry.largest.frames
    return max(most, trace_sizes(plan)["F"]) if "frames" in plan.geometry.dynamic else most
