"""MACs of the networks of a denoising step, by layer.

Diffusers' own UNet and the folded one run on meta tensors, which have shapes and no values, so no weights are needed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from vcut_export.plan import Plan, make_plan
from vcut_runtime.bundle.graph import GRAPHS, bind

By = Literal["block", "kind"]
NETWORKS = {"original": "original", "modified": "TCA removed", "vcut": "vcut"}
GUIDED, CONDITIONAL = "semantic_binding", "quality_improvement"
# The first pattern that matches a layer's name in diffusers' UNet decides its kind.
_KINDS = {
    r"temporal_transformer_blocks\.\d+\.attn2": "temporal cross-attention",
    r"temporal_transformer_blocks\.\d+\.attn1": "temporal self-attention",
    r"temporal_transformer_blocks\.\d+\.ff": "temporal feed-forward",
    r"transformer_blocks\.\d+\.attn2": "spatial cross-attention",
    r"transformer_blocks\.\d+\.attn1": "spatial self-attention",
    r"transformer_blocks\.\d+\.ff": "spatial feed-forward",
    r"proj_in|proj_out": "projections of transformers",
    r"time_pos_embed": "frame positions",
    r"time_emb_proj|time_embedding|add_embedding": "time embedding",
    r"temporal_res_block": "temporal convolutions",
    r"conv": "spatial convolutions",
}


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates by operator."""

    linear: int = 0
    convolution: int = 0
    attention: int = 0  # query by key and score by value, without attention's linear layers

    @property
    def layers(self) -> int:
        """The paper's counting: linear and convolution layers."""
        return self.linear + self.convolution

    @property
    def full(self) -> int:
        """Attention's matrix products too."""
        return self.layers + self.attention

    def to_dict(self) -> dict[str, int]:
        """Return everything for JSON."""
        return {name: getattr(self, name) for name in ("linear", "convolution", "attention", "layers", "full")}


@dataclass(frozen=True)
class Network:
    """The counts of one network: its parameters, and the MACs of each step graph by layer of diffusers' UNet."""

    parameters: int
    layers: Mapping[str, Mapping[str, Macs]]

    def by_graph(self) -> dict[str, Macs]:
        """Return the MACs of a step by the graph that computes it."""
        return {graph: total(layers.values()) for graph, layers in self.layers.items()}


def count(plan: Plan) -> dict[str, Network]:
    """Count a model's three networks at the plan's sizes."""
    import torch
    from diffusers import UNetSpatioTemporalConditionModel

    from vcut_export.graphs.steps import fold_steps
    from vcut_export.libraries import quiet_libraries
    from vcut_export.weights import empty

    # The operators for CPUs compute the same with other layers.
    plan = make_plan(plan.checkpoint, replace(plan.options, operators="gpu", deep_cache=True))
    unets = {name: empty(plan.checkpoint, "unet", UNetSpatioTemporalConditionModel).eval() for name in NETWORKS}
    with quiet_libraries(), torch.no_grad(), torch.device("meta"):
        for module in unets["modified"].modules():
            if type(module).__name__ == "TemporalBasicTransformerBlock":
                module.attn2 = None  # diffusers' block then skips it
        folded = fold_steps(unets["vcut"], plan)
        embedding = folded.projection.weight.shape[1]
        bound = bind({**plan.geometry.bound(), "N": len(folded.projection.bias)}, plan.precision)
        channels, height, width = plan.geometry.latent_shape()

        def ours(graph: str) -> dict[str, Macs]:
            return macs_by_layer(folded.modules[graph], [tensor.shape for tensor in bound[graph].inputs])

        def theirs(unet: Any, graph: str) -> dict[str, Macs]:
            rows = GRAPHS[graph].rows
            sample = (rows, plan.geometry.sizes.frames, 2 * channels, height, width)
            return macs_by_layer(unet, [sample, (1,), (rows, 1, embedding), (rows, 3)])

        layers = {name: {g: theirs(unets[name], g) for g in (GUIDED, CONDITIONAL)} for name in ("original", "modified")}
        layers["vcut"] = {graph: ours(graph) for graph in folded.modules}
    return {name: Network(sum(p.numel() for p in unet.parameters()), layers[name]) for name, unet in unets.items()}


def macs_by_layer(module: Any, shapes: Sequence[Any]) -> dict[str, Macs]:
    """Run ``module`` on inputs of these shapes and return the MACs of each layer, without those of layers inside it.

    Names are those within a UNet that ``module`` is or holds. The operators that torch calls are counted, by
    ``torch.utils.flop_counter``, which counts two operations per MAC.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        module(*map(torch.empty, shapes))
    counts = counter.get_flop_counts()
    del counts["Global"]  # the sum of all
    own = {name: Counter(operators) for name, operators in counts.items()}
    for name, operators in counts.items():
        words = name.split(".")
        holders = (".".join(words[:i]) for i in range(len(words) - 1, 0, -1))
        if holder := next((holder for holder in holders if holder in own), None):  # lists of layers are not called
            own[holder].subtract(operators)
    aten, layers = torch.ops.aten, {}
    kinds = {aten.addmm: "linear", aten.mm: "linear", aten.convolution: "convolution"}
    for name, operators in own.items():
        macs = Counter[str]()
        for operator, operations in operators.items():
            macs[kinds.get(operator, "attention")] += operations // 2
        if any(macs.values()):
            layers[name.partition(".")[2].removeprefix("unet.")] = Macs(**macs)
    return layers


def total(parts: Iterable[Macs]) -> Macs:
    """Return the sum."""
    return Macs(*map(sum, zip(*((m.linear, m.convolution, m.attention) for m in parts), strict=True)))


def group(layers: Mapping[str, Macs], by: By) -> dict[str, Macs]:
    """Return the sums by the UNet's top-level block, or by the kind of layer."""
    groups: dict[str, list[Macs]] = {}
    for name, macs in layers.items():
        groups.setdefault(_block(name) if by == "block" else kind(name), []).append(macs)
    return {key: total(parts) for key, parts in groups.items()}


def _block(layer: str) -> str:
    words = layer.split(".")
    return ".".join(words[:2]) if words[0] in ("down_blocks", "up_blocks") else words[0]


def kind(layer: str) -> str:
    return next((kind for pattern, kind in _KINDS.items() if re.search(pattern, layer)), "other")
