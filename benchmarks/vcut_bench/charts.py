"""What the report draws of each kind of result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vcut_bench import latency_numbers, macs, memory, paper
from vcut_bench.drawing import Bar, Line, Mark, bars, front, lines
from vcut_bench.export_cost import label
from vcut_bench.unet_macs import GUIDED, NETWORKS
from vcut_runtime.schedule import CutStep, check_cut_step

Result = Mapping[str, Any]
_FRONT = "Up and to the left is better. The line joins the schedules that no other one beats in both."
# What is drawn by cut step, of each kind of result: title, unit, and how to read it.
_BY_CUT_STEP: Mapping[str, Mapping[str, tuple[str, str, str]]] = {
    "fidelity": {
        "psnr": ("PSNR against diffusers", "dB", "Higher is nearer."),
        "converged_psnr": ("PSNR against the converged video", "dB", "Higher is nearer."),
        "ssim": ("SSIM against diffusers", "SSIM", "Higher is nearer."),
        "temporal": ("Temporal difference from diffusers", "levels of 255", "Lower is nearer."),
        "lpips": ("LPIPS against diffusers", "LPIPS", "Lower is nearer."),
        "motion": ("Motion", "levels of 255", "Change from frame to frame, of the video alone."),
        "input_psnr": ("First frame against the photograph", "dB", "Of the video alone."),
    },
    "tiny": {
        "frechet": ("Fréchet distance to the clips", "distance", "Of latents and their changes. Lower is nearer."),
        "full_psnr": ("PSNR against the same model, never cut", "dB", "Higher is nearer."),
        "truth_psnr": ("PSNR against the clip", "dB", "Higher is nearer, but it favours blur."),
        "input_psnr": ("First frame against the photograph", "dB", "Of the video alone."),
        "consistency": ("Frames against their next one, warped", "dB", "By optical flow. Lower means flicker."),
        "detail": ("Detail of the last frame", "share of the input's", "Mean gradient. Lower means blur."),
        "flow": ("Optical flow", "pixels per frame", "Of the video alone."),
    },
}


@dataclass(frozen=True)
class Chart:
    """A figure of matplotlib, with a sentence about how to read it."""

    title: str
    text: str
    figure: Any


def charts(result: Result) -> list[Chart]:
    """Return the charts of a result; a kind that is better read as a table has none.

    Raises:
        KeyError: the result lacks something; TypeError, ValueError and their like: something in it has another form.
    """
    draw = _CHARTS.get(result["benchmark"])
    return [] if draw is None else list(draw(result))


def _latency(result: Result) -> Iterable[Chart]:
    rows = {name: row for name, row in result["configurations"].items() if "skipped" not in row}
    marks = [
        Mark(latency_numbers.label(row), row["step_loop"]["median"], row["converged_psnr"], name.startswith("vcut"))
        for name, row in rows.items()
        if row.get("converged_psnr") is not None
    ]
    if marks:
        yield Chart("Time against error", _FRONT, front(marks, "step loop, seconds", "PSNR to converged, dB"))
    yield from _latency_by_cut_step(result, rows)
    limits = (result.get("roofline") or {}).get("macs_per_second") or {}
    limit = max(limits.values(), default=0.0)
    loops, stages, rates = [], [], []
    for name, row in rows.items():
        title, ours, loop = latency_numbers.label(row), name.startswith("vcut"), row["step_loop"]["median"]
        ratio, share = row.get("speedup_over_diffusers"), row.get("roofline_share")
        words = _seconds(loop) + (f", {ratio['median']:.2f} x diffusers" if ratio else "")
        loops.append(Bar(title, {"step loop": loop}, words, ours=ours))
        medians = {stage.replace("_", " "): values["median"] for stage, values in row["stages"].items()}
        stages.append(Bar(title, medians, _seconds(sum(medians.values()))))
        if limit and share is not None:
            words = f"{macs.number(share * limit, 2)}, {100 * share:.0f} %"
            rates.append(Bar(title, {"reached": share * limit}, words, limit, ours))
    yield Chart("Step loop beside the peers", "Medians of videos made in turns. Faint: the peers.", bars(loops))
    yield Chart("Time by stage", "Medians. Peers that guide every step have one stage of steps.", bars(stages))
    if rates:
        text = "MACs per second of the step loop, attention included. The line is the fastest product measured here"
        yield Chart("Distance from the machine's limit", f"{text}, {macs.number(limit, 2)}.", bars(rates))


def _tune(result: Result) -> Iterable[Chart]:
    marks = [Mark(row["title"], row["seconds"], row["psnr"]["mean"]) for row in result["front"]]
    yield Chart("Time against error", _FRONT, front(marks, "step loop, seconds", "PSNR to converged, dB"))


def _latency_by_cut_step(result: Result, rows: Result) -> Iterable[Chart]:
    ours = {
        row["steps"].get("semantic_binding", {"count": 0})["count"] + 1: row
        for name, row in rows.items()
        if name.startswith("vcut c=") and row.get("cache_interval", 1) == 1
    }
    if not ours:
        return
    curves = []
    for key, name in (("step_loop", "step loop"), ("video", "whole video")):
        values = [(cut, ours[cut][key]) for cut in sorted(ours)]
        curves.append(Line(name, [(c, v["median"], min(v["values"]), max(v["values"])) for c, v in values]))
    theirs = _papers_latency(result)
    curves += [Line("the paper's video, NVIDIA A10", theirs)] if theirs else []
    reference = {"diffusers, step loop": rows["diffusers"]["step_loop"]["median"]} if "diffusers" in rows else {}
    figure = _cut_step_figure(curves, "seconds", result["steps"], reference)
    figure.axes[0].set_ylim(bottom=0)
    yield Chart("Latency against the cut step", "Medians; bars reach from the fastest to the slowest video.", figure)


def _papers_latency(result: Result) -> list[tuple[float, float, float, float]]:
    """Table III's seconds by cut step if the result has its size; its original model, never cut, comes last."""
    shape, model = result["shape"], str(result["model"]).split(",")[0]
    known = paper.paper().models.get(model)
    size = (shape["frames"], shape["height"], shape["width"], result["steps"])
    if known is None or size != (known.frames, 576, 1024, 25):
        return []
    cuts: tuple[CutStep, ...] = (17, 20, "none")
    cells = {check_cut_step(cut, 25): paper.per_video(model, cut) for cut in cuts}
    seconds = {cut: cell.latency_s for cut, cell in cells.items() if cell is not None}
    return [(cut, value, value, value) for cut, value in seconds.items()]


def _by_cut_step(result: Result) -> Iterable[Chart]:
    """Draw each metric by cut step: a line for each model or setting, and what there is to compare with."""
    tiny = result["benchmark"] == "tiny"
    count = f"{result['clips']} clips" if tiny else f"{len(result['images'])} images x {len(result['seeds'])} seeds"
    for metric, (title, unit, reading) in _BY_CUT_STEP[result["benchmark"]].items():
        groups: dict[str, list[tuple[float, float, float, float]]] = {}
        for curve in result["curves"]:
            if metric not in curve or (metric == "full_psnr" and curve["cut_step"] == "none"):  # equal to itself
                continue
            value = curve[metric]
            ends = [value["mean"] if value[end] is None else value[end] for end in ("low", "high")]
            name = curve["model"] if tiny else f"TCA {curve['tca']}, bias {curve['quality_bias']}"
            cut = check_cut_step(curve["cut_step"], result["steps"])
            groups.setdefault(name, []).append((cut, value["mean"], *ends))
        if not groups:
            continue
        compared = result["truth"] if tiny else result.get("baseline") or {}
        shown = metric in compared and not (tiny and metric.endswith("psnr"))  # the clips' PSNR to themselves
        reference = {"the clips" if tiny else "diffusers": compared[metric]["mean"]} if shown else {}
        curves = [Line(name, sorted(points)) for name, points in groups.items()]
        text = f"Means over {count}; bars are 95 % intervals. {reading}"
        yield Chart(title, text, _cut_step_figure(curves, unit, result["steps"], reference))


def _tiny(result: Result) -> Iterable[Chart]:
    if not result["motion"]:  # schedules were measured, not cut steps
        return
    yield from _by_cut_step(result)
    flow, asked = [], []
    for point in result["motion"]:
        bucket, value = point["motion_bucket_id"], point["flow"]
        flow.append((bucket, value["mean"], value["low"], value["high"]))
        asked.append((bucket, *[point["displacement"]] * 3))
    curves = [Line("optical flow of the videos", flow), Line("asked for", asked)]
    ticks = {bucket: str(bucket) for bucket, *_ in flow}
    figure = lines(curves, "motion_bucket_id", "pixels per frame", ticks, {})
    yield Chart("Motion against motion_bucket_id", "Bars are 95 % intervals over clips.", figure)


def _macs(result: Result) -> Iterable[Chart]:
    shown: list[Any] = []
    for model in result["models"]:
        if model["networks"] in shown:  # SVD-XT 1.1 is SVD-XT with other weights
            continue
        shown.append(model["networks"])
        videos, steps = [], []
        for network, counted in model["networks"].items():
            name, ours = NETWORKS[network], network == "vcut"
            theirs = model["paper"].get("per_step", {}).get(network, {}).get(GUIDED)
            steps.append(_beside(name, counted["steps"][GUIDED]["layers"], theirs, ours))
            for cut, count in counted["per_video"].items():
                if (network == "original") == (cut == "none"):
                    theirs = model["paper"].get("per_video", {}).get(cut)
                    title = name if cut == "none" else f"{name}, c={cut}"
                    videos.append(_beside(title, count["layers"], theirs, ours))
        title = ", ".join(m["model"] for m in result["models"] if m["networks"] == model["networks"])
        text = "Linear and convolution layers, as the paper counts. Lines and deviations: the paper."
        yield Chart(f"MACs of a video, {title}", text, bars(videos))
        yield Chart(f"MACs of a guided step, {title}", text, bars(steps))


def _memory(result: Result) -> Iterable[Chart]:
    disk, device = result["disk"], result["device_memory"]
    files = [_sizes("bundle without engines", graphs=disk["graphs"], weights=sum(disk["weights"].values()))]
    files += [_sizes(f"engines {target}", engines=count) for target, count in disk["engines"].items()]
    files.append(_sizes("diffusers' checkpoint", weights=sum(disk["checkpoint"].values())))
    yield Chart("Disk", f"The checkpoint: {disk['checkpoint_is']}.", bars(files))
    measured = {name: row for name, row in result["host"].items() if "peak_bytes" in row}
    if measured:
        peaks = [_sizes(name, peak=row["peak_bytes"]) for name, row in measured.items()]
        yield Chart("Host memory", "Peak resident memory of the largest process.", bars(peaks))
    needs = []
    for target, engines in device["engines"].items():
        shared = max(engines["activations"].values())
        needs.append(_sizes(f"{target}, all engines", weights=engines["all"] - shared, activations=shared))
        needs.append(_sizes(f"{target}, --low-memory", **{"one stage": engines["low_memory"]}))
    needs.append(_sizes("diffusers, weights alone", weights=device["diffusers_weights"]))
    on_device = {name: row["device_bytes"] for name, row in measured.items() if row.get("device_bytes")}
    needs += [_sizes(f"{name}, measured", peak=count) for name, count in on_device.items()]
    text = "Engines: as their builder reports it. All engines share one activation memory."
    yield Chart("Device memory", text, bars(needs))


def _export(result: Result) -> Iterable[Chart]:
    rows = []
    for run in result["runs"]:
        words = f"{_seconds(run['seconds'])}, {memory.size(run['peak_bytes'])}"
        title = label(run).removeprefix("--model ").replace("--random-weights ", "")
        rows.append(Bar(title, {"time": run["seconds"]}, words))
    yield Chart("What compiling costs", "Whole processes: time, and peak memory of the largest.", bars(rows))


def _seams(result: Result) -> Iterable[Chart]:
    for weight, settings in result["temporal"].items():
        rows = []
        for row in settings:
            words = f"{row['at_seams']:.2f}, elsewhere {row['elsewhere']:.2f}"
            title = f"{row['frames']} frames at a time, overlap {row['overlap']}"
            rows.append(Bar(title, {"at seams": row["at_seams"]}, words, row["elsewhere"]))
        text = "Error of the change from frame to frame, RMS in levels of 255. The line is the error elsewhere."
        yield Chart(f"Decoded in chunks, temporal layers x {weight}", text, bars(rows))


def _cut_step_figure(curves: Sequence[Line], unit: str, steps: int, reference: Mapping[str, float]) -> Any:
    cuts = sorted({int(point[0]) for curve in curves for point in curve.points})
    return lines(curves, "cut step c", unit, {cut: "none" if cut > steps else str(cut) for cut in cuts}, reference)


def _sizes(name: str, **parts: int) -> Bar:
    return Bar(name, parts, memory.size(sum(parts.values())), ours=not name.startswith("diffusers"))


def _beside(name: str, value: float, theirs: float | None, ours: bool) -> Bar:
    words = macs.number(value, 2) + (f", {100 * (value / theirs - 1):+.2f} %" if theirs else "")
    return Bar(name, {"MACs": value}, words, theirs, ours)


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s" if value >= 0.1 else f"{1e3 * value:.1f} ms"


_CHARTS: Mapping[str, Callable[[Result], Iterable[Chart]]] = {
    "latency": _latency,
    "tune": _tune,
    "fidelity": _by_cut_step,
    "tiny": _tiny,
    "macs": _macs,
    "memory": _memory,
    "export": _export,
    "seams": _seams,
}
