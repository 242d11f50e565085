"""Parameters and MACs (multiply-accumulates) of a denoising step and of a video: the paper's Tables II and III.

Three networks are counted: ``original`` is diffusers' unmodified UNet, ``modified`` the paper's (TCA removed, SCA still
computed), ``vcut`` what the bundle's graphs run, shallow steps included. The paper counts linear and convolution layers
(``layers``); ``full`` adds the two matrix products of every attention.

``vcut`` folds more than cross-attention: frame position MLPs become tables, and the time embedding is projected once
and not for every frame. This saves parameters (98.9 M of SVD-XT's) and hardly any work: ``other_folds`` holds its MACs
(0.02 %). The image encoder, the VAE and the folded projections run once a video and are not counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from vcut_bench import paper
from vcut_bench.compiled import distinct_intervals, parse_intervals, setting_name
from vcut_bench.numbers import Numbers
from vcut_bench.provenance import provenance
from vcut_bench.results import OUTPUT, deliver
from vcut_bench.unet_macs import CONDITIONAL, GUIDED, NETWORKS, Network, count, total
from vcut_export.checkpoint import presets, resolve, scheduler_constants
from vcut_export.options import ExportOptions
from vcut_export.plan import Plan, make_plan
from vcut_runtime.bundle.geometry import MOST
from vcut_runtime.bundle.manifest import Tca
from vcut_runtime.command_options import check_numbers, check_types, merge, option, takes_options
from vcut_runtime.host import peak_memory
from vcut_runtime.schedule import (
    MOST_STEPS,
    PAPER_STEPS,
    CutStep,
    check_cut_step,
    karras_sigmas,
    make_schedule,
    parse_cut_steps,
)
from vcut_runtime.terminal import JSON, QUIET, stages

CUT_STEPS: tuple[CutStep, ...] = ("none", 10, 17, 20)  # the paper's
SHALLOW = "semantic_binding_shallow"


@dataclass(frozen=True)
class MacsOptions:
    """What is counted.

    Raises:
        UsageError: a value is impossible for every model.
    """

    height: int | None = option(None, "Pixels. [default: the model's]", least=1, most=MOST.height)
    width: int | None = option(None, "Pixels. [default: the model's]", least=1, most=MOST.width)
    frames: int | None = option(None, "Frames of the video. [default: the model's]", least=1, most=MOST.frames)
    steps: int = option(PAPER_STEPS, "Denoising steps of a video.", least=1, most=MOST_STEPS)
    cut_steps: Sequence[CutStep] | None = option(
        None, "First quality improvement steps; none never cuts. [default: none,10,17,20]", parse=parse_cut_steps
    )
    cache_intervals: Sequence[int] | None = option(
        None,
        "Count videos with shallow steps too: all layers in every so many steps, such as 2,3.",
        parse=parse_intervals,
    )
    tca: Tca = option("remove", "Of vcut: remove or fold temporal cross-attention.")

    def __post_init__(self) -> None:
        check_types(self)
        check_numbers(self)
        for cut_step in self.cut_steps or ():
            check_cut_step(cut_step, self.steps)


def measure(
    models: Sequence[str] = (), options: MacsOptions | None = None, *, show: Any, **fields: Any
) -> dict[str, Any]:
    """Count ``models`` (presets, diffusers folders, hub ids; by default every preset) and return everything for JSON.

    Only the configuration of a hub model is downloaded. ``show`` is a function of a stage's name that returns a context
    manager, see ``vcut_runtime.terminal.stages``.

    Raises:
        UsageError: there is no such model, or an option is impossible.
    """
    start = time.perf_counter()
    options = merge(MacsOptions, options, fields)
    cut_steps = CUT_STEPS if options.cut_steps is None else options.cut_steps
    intervals = [1, *distinct_intervals(options.cache_intervals or ())]
    sizes = {name: getattr(options, name) for name in ("height", "width", "frames", "steps", "tca")}
    plans = {m: make_plan(resolve(m, random_weights=True), ExportOptions(**sizes)) for m in models or presets()}
    counted: dict[str, dict[str, Network]] = {}
    results = []
    for model, plan in plans.items():
        key = repr((plan.checkpoint.configs["unet"], plan.geometry.sizes))  # SVD-XT 1.1 has SVD-XT's network
        if key not in counted:
            with show(f"count {model}"):
                counted[key] = count(plan)
        results.append(_describe(model, plan, counted[key], cut_steps, intervals))
    return {
        "benchmark": "macs",
        **provenance("vcut bench macs"),
        "steps": options.steps,
        "cut_steps": [setting_name(cut_step) for cut_step in cut_steps],
        "cache_intervals": intervals[1:],
        "tca": options.tca,
        "seconds": time.perf_counter() - start,
        "peak_memory_bytes": peak_memory(),
        "models": results,
    }


def numbers(result: Mapping[str, Any]) -> list[Numbers]:
    """Return a step beside Table II, and a video beside Table III."""
    steps, videos = [], []
    for model in result["models"]:
        for name, network in model["networks"].items():
            theirs = model["paper"].get("per_step", {}).get(name, {})
            steps.append([model["model"], NETWORKS[name], *_step_cells(network, theirs)])
            for setting, macs in network["per_video"].items():
                theirs, never_cut = model["paper"].get("per_video", {}).get(setting), setting == "none"
                # The paper's base is the original model; its cut videos are without TCA.
                if (name == "original" and not never_cut) or (name == "modified" and (never_cut or not theirs)):
                    continue
                theirs = None if name == "vcut" and never_cut else theirs
                cells = [number(macs["layers"], 1), number(theirs, 1) if theirs else ""]
                cells += [_deviation(macs["layers"], theirs), number(macs["full"], 1)]
                videos.append([model["model"], NETWORKS[name], setting, *cells])
    step = ["model", "network", "params", "to paper", "guided step", "to paper", "with att.", "cond. step", "shallow"]
    video = ["model", "network", "cut step", "MACs", "the paper's", "to paper", "with attention"]
    about_steps = (
        "MACs of linear and convolution layers, as the paper counts; 'with att.' adds attention's matrix products. "
        "A guided step computes two rows, a conditional step one, a shallow guided step the last layers of two."
    )
    about_videos = "'17 k=3' is cut at step 17 with cache interval 3."
    title = f"A video of {result['steps']} steps, beside Table III"
    return [
        Numbers("A denoising step, beside Table II", step, _one_row_per_network(steps), about_steps),
        Numbers(title, video, _one_row_per_network(videos), about_videos),
    ]


def number(value: float, digits: int) -> str:
    """Return a count with its unit."""
    unit, factor = next(((u, f) for u, f in (("T", 1e12), ("G", 1e9)) if value >= 0.5 * f), ("M", 1e6))
    return f"{value / factor:.{digits}f} {unit}"


@takes_options
def macs_command(
    options: MacsOptions,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help=escape(
                "svd, svd-xt, svd-xt-1.1, svd-tiny, a diffusers folder or a hub id; repeat for several. "
                "[default: the whole family]"
            )
        ),
    ] = None,
    output: Annotated[Path | None, OUTPUT] = None,
    json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Count parameters and MACs beside the paper's Tables II and III; needs no weights."""
    with stages(quiet or json) as show:
        result = measure(model or (), options, show=show)
    deliver(result, output, json)


def _describe(
    model: str, plan: Plan, networks: Mapping[str, Network], cut_steps: Sequence[CutStep], intervals: Sequence[int]
) -> dict[str, Any]:
    steps = plan.options.steps
    sigmas = karras_sigmas(scheduler_constants(plan.checkpoint.configs["scheduler"]), steps)
    described: dict[str, Any] = {}
    for name, network in networks.items():
        videos = {}
        for interval in intervals if SHALLOW in network.steps else (1,):
            for cut_step in cut_steps:
                schedule = make_schedule(sigmas, check_cut_step(cut_step, steps), cache_interval=interval)
                video = total(network.steps[step.graph] for step in schedule)
                videos[setting_name(cut_step, interval)] = {"layers": video.layers, "full": video.full}
        by_graph = {graph: step.to_dict() for graph, step in network.steps.items()}
        described[name] = {"parameters": network.parameters, "steps": by_graph, "per_video": videos}
    before, after = (networks[name].embeddings.to_dict() for name in ("modified", "vcut"))
    return {
        "model": model,
        "shape": plan.geometry.sizes._asdict(),
        "networks": described,
        "other_folds": {key: before[key] - after[key] for key in before},
        "paper": _paper(model, plan, cut_steps),
    }


def _paper(model: str, plan: Plan, cut_steps: Sequence[CutStep]) -> dict[str, Any]:
    """Return the paper's numbers if it has any for this model and size, in single MACs and parameters."""
    step = paper.per_step(model)
    if step is None or plan.geometry.sizes != (paper.paper().models[model].frames, 576, 1024):
        return {}
    videos = {setting_name(c): paper.per_video(model, c) for c in cut_steps if plan.options.steps == PAPER_STEPS}
    return {
        "per_step": {
            "original": {"parameters": step.params_B * 1e9, GUIDED: step.macs_T * 1e12},
            "modified": {"parameters": step.modified_params_B * 1e9, GUIDED: step.modified_macs_T * 1e12},
        },
        "per_video": {setting: video.macs_T * 1e12 for setting, video in videos.items() if video is not None},
    }


def _step_cells(network: Mapping[str, Any], theirs: Mapping[str, float]) -> list[str]:
    steps, parameters = network["steps"], network["parameters"]
    return [
        number(parameters, 3),
        _deviation(parameters, theirs.get("parameters")),
        number(steps[GUIDED]["layers"], 2),
        _deviation(steps[GUIDED]["layers"], theirs.get(GUIDED)),
        number(steps[GUIDED]["full"], 2),
        number(steps[CONDITIONAL]["layers"], 2),
        number(steps[SHALLOW]["layers"], 2) if SHALLOW in steps else "",
    ]


def _one_row_per_network(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    """Make one row of rows that differ in their model alone."""
    models: dict[tuple[str, ...], list[str]] = {}
    for model, *cells in rows:
        models.setdefault(tuple(cells), []).append(model)
    return [[", ".join(names), *cells] for cells, names in models.items()]


def _deviation(value: float, theirs: float | None) -> str:
    return "" if theirs is None else f"{100 * (value / theirs - 1):+.2f} %"
