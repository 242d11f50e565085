"""Parameters and MACs (multiply-accumulates) of a denoising step and of a video: the paper's Tables II and III.

Counted by running diffusers' own UNet and the compiler's folded one on meta tensors, which have shapes and no values:
neither weights nor their memory are needed. Three networks are counted: ``original`` is diffusers' unmodified UNet,
``modified`` the paper's (TCA removed, SCA still computed), ``vcut`` what the bundle's graphs run. The paper counts
linear and convolution layers (``layers``); ``full`` adds the two matrix products of every attention.

``vcut`` folds more than cross-attention: the frame position MLPs are tables, and the time embedding is projected once
and not for every frame. That is parameters (98.9 M of SVD-XT's) rather than work: ``other_folds`` says how many of the
MACs it is (0.02 %). Of ``vcut`` shallow steps are counted too, see ``vcut_export.deep_features``. What runs once a
video, image encoder, VAE and the folded projections, is in no figure.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from vcut_bench import paper
from vcut_bench.compiled import distinct_intervals, setting_name, steps_by_graph
from vcut_bench.numbers import Numbers
from vcut_bench.provenance import provenance
from vcut_export.checkpoint import presets, resolve, scheduler_constants
from vcut_export.plan import DEFAULT_STEPS, Plan, make_plan
from vcut_runtime.graphs import graph_tensors, sized
from vcut_runtime.machine import peak_memory
from vcut_runtime.manifest import SHALLOW, Tca
from vcut_runtime.schedule import check_cut_step

By = Literal["block", "kind"]
CUT_STEPS = (None, 10, 17, 20)  # the paper's
NETWORKS = {
    "original": "original",
    "modified": "TCA removed",
    "vcut": "vcut",
}
# The first that matches a layer's name in diffusers' UNet decides what it is.
_KINDS = (
    (r"temporal_transformer_blocks\.\d+\.attn2", "temporal cross-attention"),
    (r"temporal_transformer_blocks\.\d+\.attn1", "temporal self-attention"),
    (r"temporal_transformer_blocks\.\d+\.ff", "temporal feed-forward"),
    (r"transformer_blocks\.\d+\.attn2", "spatial cross-attention"),
    (r"transformer_blocks\.\d+\.attn1", "spatial self-attention"),
    (r"transformer_blocks\.\d+\.ff", "spatial feed-forward"),
    (r"proj_in|proj_out", "projections of transformers"),
    (r"time_pos_embed", "frame positions"),
    (r"time_emb_proj|time_embedding|add_embedding", "time embedding"),
    (r"temporal_res_block", "temporal convolutions"),
    (r"conv", "spatial convolutions"),
)


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates by operator."""

    linear: int = 0
    convolution: int = 0
    attention: int = 0  # query by key and score by value, without attention's linear layers

    def __add__(self, other: Macs) -> Macs:
        return Macs(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Macs) -> Macs:
        return Macs(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def __mul__(self, times: int) -> Macs:
        return Macs(*(getattr(self, f.name) * times for f in fields(self)))

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
        names = ("linear", "convolution", "attention", "layers", "full")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Network:
    """What was counted of one network; MACs by the layer's name in diffusers' UNet."""

    parameters: int
    guided: dict[str, Macs]
    conditional: dict[str, Macs]
    shallow_guided: dict[str, Macs] = field(default_factory=dict)
    shallow_conditional: dict[str, Macs] = field(default_factory=dict)

    def by_graph(self) -> dict[str, Macs]:
        """Return the MACs of a step by the graph that computes it."""
        return {
            "semantic_binding": total(self.guided),
            "quality_improvement": total(self.conditional),
            "semantic_binding_shallow": total(self.shallow_guided),
            "quality_improvement_shallow": total(self.shallow_conditional),
        }

    def per_video(self, steps: Mapping[str, int]) -> dict[str, int]:
        """Return the MACs of a video of so many steps by graph, see ``vcut_bench.compiled.steps_by_graph``."""
        macs = self.by_graph()
        found = sum((macs[graph] * count for graph, count in steps.items()), Macs())
        return {"layers": found.layers, "full": found.full}


def measure(
    models: Sequence[str] = (),
    *,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    steps: int = DEFAULT_STEPS,
    cut_steps: Sequence[int | None] = CUT_STEPS,
    cache_intervals: Sequence[int] = (),
    tca: Tca = "remove",
    by: By | None = None,
    show: Any,
) -> dict[str, Any]:
    """Count ``models`` (presets, diffusers folders, hub ids; by default every preset) and return everything for JSON.

    Of a hub model only the configuration is fetched. ``by`` adds the share of each block or kind of layer to a guided
    step. ``cache_intervals`` above 1 add videos of ``vcut`` with shallow steps. ``show`` is a function of a stage's
    name that returns a context manager, see ``vcut_runtime.terminal.stages``.

    Raises:
        UsageError: no such model, or an impossible size, cut step or interval.
    """
    start = time.perf_counter()
    for cut_step in cut_steps:
        check_cut_step(cut_step, steps)
    intervals = [1, *distinct_intervals(cache_intervals)]
    sizes: dict[str, Any] = {"height": height, "width": width, "frames": frames, "steps": steps, "tca": tca}
    plans = {model: make_plan(resolve(model, random_weights=True), **sizes) for model in models or presets()}
    counted: dict[str, dict[str, Network]] = {}
    results = []
    for model, plan in plans.items():
        key = repr((plan.checkpoint.configs["unet"], plan.sizes))  # SVD-XT 1.1 is SVD-XT with other weights
        if key not in counted:
            with show(f"count {model}"):
                counted[key] = count(plan)
        results.append(_describe(model, plan, counted[key], cut_steps, intervals, by))
    return {
        "benchmark": "macs",
        **provenance("vcut bench macs"),
        "steps": steps,
        "cut_steps": [setting_name(c) for c in cut_steps],
        "cache_intervals": intervals[1:],
        "tca": tca,
        "seconds": time.perf_counter() - start,
        "peak_memory_bytes": peak_memory(),
        "models": results,
    }


def count(plan: Plan) -> dict[str, Network]:
    """Count a model's three networks, each a guided step and a conditional one, at the plan's size."""
    import torch
    from diffusers.models.resnet import AlphaBlender

    from vcut_export.build import quiet_libraries
    from vcut_export.deep_features import split_unet
    from vcut_export.fold import fold, fold_blends, project_cross_attention
    from vcut_export.graphs import STEPS

    original, modified, folded = (_unet(plan) for _ in range(3))
    for module in folded.modules():
        if isinstance(module, AlphaBlender):  # folding reads the one number that it makes a constant of
            module.mix_factor = torch.nn.Parameter(torch.full((1,), 0.5), requires_grad=False)
    fold_blends(folded)
    with quiet_libraries(), torch.no_grad(), torch.device("meta"):
        for module in modified.modules():
            if type(module).__name__ == "TemporalBasicTransformerBlock":
                module.attn2 = None  # which diffusers' own block allows for
        projection = project_cross_attention(folded, plan.tca)
        packed = fold(folded, projection, plan.frames)
        channels, height, width = plan.latent_channels, plan.latent_height, plan.latent_width
        width_of_bias = len(projection.bias)
        shallow = split_unet(folded, packed)
        features = plan.feature_channels
        tensors = graph_tensors(
            plan.sizes, latent=(channels, height, width), bias_channels=width_of_bias, deep_features=features
        )
        ours = [
            macs_by_layer(
                STEPS[name](unet, packed), [torch.empty(sized(tensor.shape, {})) for tensor in tensors[graph].inputs]
            )
            for unet, graphs in ((folded, {name: name for name in STEPS}), (shallow, SHALLOW))
            for name, graph in graphs.items()
        ]
        embedding = projection.weight.shape[1]

        def theirs(unet: Any) -> Network:
            counts = []
            for rows in (2, 1):  # guided: an unconditional and a conditional row
                sample = torch.empty(rows, plan.frames, 2 * channels, height, width)
                inputs = [sample, torch.empty(1), torch.empty(rows, 1, embedding), torch.empty(rows, 3)]
                counts.append(macs_by_layer(unet, inputs))
            return Network(_parameters(unet), *counts)

        return {
            "original": theirs(original),
            "modified": theirs(modified),
            "vcut": Network(_parameters(folded), *ours),
        }


def macs_by_layer(module: Any, inputs: Sequence[Any]) -> dict[str, Macs]:
    """Run ``module`` on ``inputs`` and return the MACs of each linear and convolution layer and each attention.

    Names are those within a UNet that ``module`` is or holds. Counted are the operators that torch really calls, by
    ``torch.utils.flop_counter``, which knows two operations per MAC.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    counts = counter.get_flop_counts()
    root = type(module).__name__
    result: dict[str, Macs] = {}

    def visit(layer: Any, name: str) -> int:
        """Return the operations of ``layer`` and enter what is its own: not its children's."""
        inside = sum(visit(child, f"{name}.{key}" if name else key) for key, child in layer.named_children())
        calls = counts.get(f"{root}.{name}" if name else root)
        if calls is None:  # a list of layers, or one that was not called
            return inside
        own = sum(calls.values()) - inside
        if own:
            result[name.removeprefix("unet.")] = _macs(layer, own // 2)
        return inside + own

    if visit(module, "") != counter.get_total_flops():
        raise RuntimeError(f"some operations of {root} are in none of its layers")
    return result


def total(layers: dict[str, Macs]) -> Macs:
    """Return the sum of all layers."""
    return sum(layers.values(), Macs())


def group(layers: dict[str, Macs], by: By) -> dict[str, Macs]:
    """Return the sums by the UNet's top-level block, or by the kind of layer."""
    result: dict[str, Macs] = {}
    for name, macs in layers.items():
        key = _block(name) if by == "block" else _kind(name)
        result[key] = result.get(key, Macs()) + macs
    return result


def numbers(result: Mapping[str, Any]) -> list[Numbers]:
    """Return a step beside Table II, a video beside Table III, and shares where the result has them."""
    step = ["model", "network", "params", "to paper", "guided step", "to paper", "with att.", "cond. step", "shallow"]
    video = ["model", "network", "cut step", "MACs", "the paper's", "to paper", "with attention"]
    return [
        Numbers(
            "A denoising step, beside Table II",
            step,
            _merge(_step_rows(result)),
            "MACs of linear and convolution layers, as the paper counts; 'with att.' adds attention's matrix products. "
            "A guided step computes two rows, a conditional step one, a shallow guided step the last layers of two.",
        ),
        Numbers(
            f"A video of {result['steps']} steps, beside Table III",
            video,
            _merge(_video_rows(result)),
            "'17 k=3' is cut at step 17 with cache interval 3.",
        ),
        *(_shares(model) for model in result["models"] if "shares" in model),
    ]


def number(value: float, digits: int) -> str:
    """Return a count with its unit."""
    for unit, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= 0.5 * factor or unit == "M":
            return f"{value / factor:.{digits}f} {unit}"
    raise AssertionError


def _describe(
    model: str,
    plan: Plan,
    networks: dict[str, Network],
    cut_steps: Sequence[int | None],
    intervals: Sequence[int],
    by: By | None,
) -> dict[str, Any]:
    scheduler = scheduler_constants(plan.checkpoint.configs["scheduler"])
    kinds = {name: group(network.guided, "kind") for name, network in networks.items()}
    elsewhere = [
        kinds["modified"].get(kind, Macs()) - kinds["vcut"].get(kind, Macs())
        for kind in ("frame positions", "time embedding")
    ]
    found: dict[str, Any] = {
        "model": model,
        "shape": {"frames": plan.frames, "height": plan.height, "width": plan.width},
        "networks": {
            name: {
                "parameters": network.parameters,
                "guided": total(network.guided).to_dict(),
                "conditional": total(network.conditional).to_dict(),
                **_shallow(network),
                "per_video": {
                    setting_name(cut, interval): network.per_video(steps_by_graph(scheduler, plan.steps, cut, interval))
                    for interval in (intervals if network.shallow_guided else (1,))
                    for cut in cut_steps
                },
            }
            for name, network in networks.items()
        },
        "other_folds": sum(elsewhere, Macs()).to_dict(),
        "paper": _paper(model, plan, cut_steps),
    }
    if by is not None:
        found["shares"] = {
            name: {key: macs.to_dict() for key, macs in group(network.guided, by).items()}
            for name, network in networks.items()
        }
    return found


def _shallow(network: Network) -> dict[str, Any]:
    steps = {"shallow_guided": network.shallow_guided, "shallow_conditional": network.shallow_conditional}
    return {name: total(layers).to_dict() for name, layers in steps.items() if layers}


def _paper(model: str, plan: Plan, cut_steps: Sequence[int | None]) -> dict[str, Any]:
    """Return the paper's numbers where it has any for this model and size, in single MACs and parameters."""
    step = paper.per_step(model)
    if step is None or (plan.height, plan.width) != (576, 1024) or plan.frames != paper.paper().models[model].frames:
        return {}
    videos = {setting_name(c): paper.per_video(model, c) for c in cut_steps} if plan.steps == DEFAULT_STEPS else {}
    return {
        "per_step": {
            "original": {"parameters": step.params_B * 1e9, "guided": step.macs_T * 1e12},
            "modified": {"parameters": step.modified_params_B * 1e9, "guided": step.modified_macs_T * 1e12},
        },
        "per_video": {cut: found.macs_T * 1e12 for cut, found in videos.items() if found is not None},
    }


def _unet(plan: Plan) -> Any:
    from diffusers import UNetSpatioTemporalConditionModel

    from vcut_export.weights import empty

    return empty(plan.checkpoint, "unet", UNetSpatioTemporalConditionModel).eval().requires_grad_(False)


def _macs(layer: Any, count: int) -> Macs:
    from torch import nn

    if isinstance(layer, nn.Linear):
        return Macs(linear=count)
    return Macs(convolution=count) if isinstance(layer, nn.Conv2d | nn.Conv3d) else Macs(attention=count)


def _parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _block(name: str) -> str:
    words = name.split(".")
    return ".".join(words[:2]) if words[0] in ("down_blocks", "up_blocks") else words[0]


def _kind(name: str) -> str:
    return next((kind for pattern, kind in _KINDS if re.search(pattern, name)), "other")


def _step_rows(result: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for model, network, counted in _networks(result):
        theirs = model["paper"].get("per_step", {}).get(network, {})
        rows.append(
            [
                model["model"],
                NETWORKS[network],
                number(counted["parameters"], 3),
                _deviation(counted["parameters"], theirs.get("parameters")),
                number(counted["guided"]["layers"], 2),
                _deviation(counted["guided"]["layers"], theirs.get("guided")),
                number(counted["guided"]["full"], 2),
                number(counted["conditional"]["layers"], 2),
                number(counted["shallow_guided"]["layers"], 2) if "shallow_guided" in counted else "",
            ]
        )
    return rows


def _video_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each setting. The paper's base is the original model; its cut videos are without TCA."""
    rows = []
    for model, network, counted in _networks(result):
        for setting, macs in counted["per_video"].items():
            theirs = model["paper"].get("per_video", {}).get(setting)
            if network == "original" and setting != "none":
                continue
            if network == "modified" and (setting == "none" or theirs is None):
                continue
            if (network, setting) == ("vcut", "none"):
                theirs = None
            beside = ["" if theirs is None else number(theirs, 1), _deviation(macs["layers"], theirs)]
            cells = [number(macs["layers"], 1), *beside, number(macs["full"], 1)]
            rows.append([model["model"], NETWORKS[network], setting, *cells])
    return rows


def _networks(result: Mapping[str, Any]) -> Iterator[tuple[Any, str, Any]]:
    for model in result["models"]:
        for network, counted in model["networks"].items():
            yield model, network, counted


def _merge(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Make one row of rows that differ in their model alone."""
    models: dict[tuple[str, ...], list[str]] = {}
    for model, *cells in rows:
        models.setdefault(tuple(cells), []).append(model)
    return [[", ".join(names), *cells] for cells, names in models.items()]


def _deviation(value: float, theirs: float | None) -> str:
    return "" if theirs is None else f"{100 * (value / theirs - 1):+.2f} %"


def _shares(model: Mapping[str, Any]) -> Numbers:
    """Return each block's or kind's MACs of a guided step, attention's products included, and its share."""
    shares = model["shares"]
    whole = {name: sum(macs["full"] for macs in parts.values()) for name, parts in shares.items()}
    rows = []
    for part in sorted(shares["original"], key=lambda part: -shares["original"][part]["full"]):
        row = [part]
        for name, parts in shares.items():
            macs = parts.get(part, {"full": 0})["full"]
            row += [number(macs, 2), f"{100 * macs / whole[name]:.1f} %"] if macs else ["", ""]
        rows.append(row)
    head = [cell for name in shares for cell in (NETWORKS[name], "share")]
    return Numbers(f"Where a guided step's MACs go, {model['model']}", ["", *head], rows, "With attention's products.")
