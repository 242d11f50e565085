"""MACs of the networks of a denoising step.

Diffusers' own UNet and the folded one run on meta tensors, which have shapes and no values, so no weights are needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vcut_export.plan import Plan, make_plan
from vcut_runtime.bundle.graph import GRAPHS, bind

NETWORKS = {"original": "original", "modified": "TCA removed", "vcut": "vcut"}
GUIDED, CONDITIONAL = "semantic_binding", "quality_improvement"
_EMBEDDINGS = ("time_pos_embed", "time_emb_proj", "time_embedding", "add_embedding")  # of frame position and time


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
    """The counts of one network: its parameters, the MACs of a step by graph, and of a guided step's embeddings."""

    parameters: int
    steps: Mapping[str, Macs]
    embeddings: Macs


def count(plan: Plan) -> dict[str, Network]:
    """Count a model's three networks at the plan's sizes."""
    import torch

    from vcut_export.checkpoint.weights import empty
    from vcut_export.graphs.steps import fold_steps
    from vcut_export.libraries import quiet_libraries

    # The operators for CPUs compute the same with other layers.
    plan = make_plan(plan.checkpoint, replace(plan.options, operators="gpu", deep_cache=True))
    unets = {name: empty(plan.checkpoint, "unet").eval() for name in NETWORKS}
    with quiet_libraries(), torch.no_grad(), torch.device("meta"):
        for module in unets["modified"].modules():
            if type(module).__name__ == "TemporalBasicTransformerBlock":
                module.attn2 = None  # diffusers' block then skips it
        folded = fold_steps(unets["vcut"], plan)
        embedding = folded.projection.weight.shape[1]
        bound = bind({**plan.geometry.bound(), "N": len(folded.projection.bias)}, plan.precision)
        channels, height, width = plan.geometry.latent_shape()

        def ours(graph: str) -> tuple[Macs, Macs]:
            return count_macs(folded.modules[graph], [tensor.shape for tensor in bound[graph].inputs])

        def theirs(unet: Any, graph: str) -> tuple[Macs, Macs]:
            rows = GRAPHS[graph].rows
            sample = (rows, plan.geometry.sizes.frames, 2 * channels, height, width)
            return count_macs(unet, [sample, (1,), (rows, 1, embedding), (rows, 3)])

        counted = {
            name: {g: theirs(unets[name], g) for g in (GUIDED, CONDITIONAL)} for name in ("original", "modified")
        }
        counted["vcut"] = {graph: ours(graph) for graph in folded.modules}
    networks = {}
    for name, unet in unets.items():
        steps = {graph: whole for graph, (whole, _) in counted[name].items()}
        networks[name] = Network(sum(p.numel() for p in unet.parameters()), steps, counted[name][GUIDED][1])
    return networks


def count_macs(module: Any, shapes: Sequence[Any]) -> tuple[Macs, Macs]:
    """Run ``module`` on inputs of these shapes and return the MACs of all its layers, and those of its embeddings.

    The operators that torch calls are counted, by ``torch.utils.flop_counter``, which counts two operations per MAC.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    aten = torch.ops.aten
    kinds = {aten.addmm: "linear", aten.mm: "linear", aten.convolution: "convolution"}

    def macs(operators: Mapping[Any, int]) -> Macs:
        parts: Counter[str] = Counter()
        for operator, operations in operators.items():
            parts[kinds.get(operator, "attention")] += operations // 2
        return Macs(**parts)

    with FlopCounterMode(display=False) as counter:
        module(*map(torch.empty, shapes))
    counts = counter.get_flop_counts()
    embeddings = [macs(operators) for name, operators in counts.items() if name.endswith(_EMBEDDINGS)]
    return macs(counts["Global"]), total(embeddings)


def total(parts: Iterable[Macs]) -> Macs:
    """Return the sum."""
    return Macs(*map(sum, zip(*((m.linear, m.convolution, m.attention) for m in parts), strict=True)))
