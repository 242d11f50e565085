"""What the report draws of each kind of result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vcut_bench import latency, macs, memory, paper
from vcut_bench.drawing import COLOURS, Bar, Line, bars, lines
from vcut_bench.export_cost import label

Result = Mapping[str, Any]
_STAGES = {
    "condition": "condition",
    "semantic_binding": "semantic binding",
    "quality_improvement": "quality improvement",
    "decode": "decode",
}
# Metric, title, unit, and how to read it.
_FIDELITY = (
    ("psnr", "PSNR against diffusers", "dB", "higher is nearer"),
    ("ssim", "SSIM against diffusers", "SSIM", "higher is nearer"),
    ("temporal", "Temporal difference from diffusers", "levels of 255", "lower is nearer"),
    ("lpips", "LPIPS against diffusers", "LPIPS", "lower is nearer"),
    ("motion", "Motion", "levels of 255", "change from frame to frame, of the video alone"),
    ("input_psnr", "First frame against the photograph", "dB", "of the video alone"),
)
_TINY = (
    ("frechet", "Fréchet distance to the clips", "distance", "of latents and their changes; lower is nearer"),
    ("full_psnr", "PSNR against the same model, never cut", "dB", "higher is nearer"),
    ("truth_psnr", "PSNR against the clip", "dB", "higher is nearer; it favours blur"),
    ("input_psnr", "First frame against the photograph", "dB", "of the video alone"),
    ("consistency", "Frames against their next one, warped", "dB", "by optical flow; lower means flicker"),
    ("detail", "Detail of the last frame", "share of the input's", "mean gradient; lower means blur"),
    ("flow", "Optical flow", "pixels per frame", "of the video alone"),
)


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
    yield from _latency_by_cut(result, rows)
    loops = []
    for name, row in rows.items():
        seconds, ratio = row["step_loop"]["median"], row.get("speedup_over_diffusers")
        words = _seconds(seconds) + (f", {ratio['median']:.2f} x diffusers" if ratio else "")
        loops.append(Bar(latency.label(row), {"step loop": seconds}, words, ours=name.startswith("vcut")))
    yield Chart("Step loop beside the peers", "Medians of videos made in turns. Faint: the peers.", bars(loops))
    stages = []
    for row in rows.values():
        medians = {_STAGES[stage]: values["median"] for stage, values in row["stages"].items()}
        stages.append(Bar(latency.label(row), medians, _seconds(sum(medians.values()))))
    yield Chart("Time by stage", "Medians. Peers that guide every step have one stage of steps.", bars(stages))
    limits = (result.get("roofline") or {}).get("macs_per_second") or {}
    reached = {name: row for name, row in rows.items() if row.get("roofline_share") is not None}
    if limits and reached:
        limit = max(limits.values())
        rates = []
        for name, row in reached.items():
            share = row["roofline_share"]
            words = f"{macs.number(share * limit, 2)}, {100 * share:.0f} %"
            rates.append(Bar(latency.label(row), {"reached": share * limit}, words, limit, name.startswith("vcut")))
        text = "MACs per second of the step loop, attention included. The line is the fastest product measured here"
        yield Chart("Distance from the machine's limit", f"{text}, {macs.number(limit, 2)}.", bars(rates, limit=limit))


def _latency_by_cut(result: Result, rows: Result) -> Iterable[Chart]:
    steps, baseline = result["steps"], rows.get("diffusers")
    ours = {
        row["steps"].get("semantic_binding", {"count": 0})["count"] + 1: row
        for name, row in rows.items()
        if name.startswith("vcut c=") and row.get("cache_interval", 1) == 1
    }
    if not ours:
        return
    cuts = sorted(ours)
    curves = [
        Line(
            name,
            [(cut, ours[cut][key]["median"]) for cut in cuts],
            [(min(ours[cut][key]["values"]), max(ours[cut][key]["values"])) for cut in cuts],
        )
        for key, name in (("step_loop", "step loop"), ("video", "whole video"))
    ]
    theirs = _papers_latency(result)
    if theirs:
        curves.append(Line("the paper's video, NVIDIA A10", theirs))
    ticks = {cut: _cut(cut, steps) for cut in sorted({*cuts, *(cut for cut, _ in theirs)})}
    reference = ("diffusers, step loop", baseline["step_loop"]["median"]) if baseline else None
    figure = lines(curves, x_label="cut step c", y_label="seconds", ticks=ticks, zero=True, reference=reference)
    text = "Medians; bars reach from the fastest to the slowest video."
    yield Chart("Latency against the cut step", text + (" Dashed: diffusers' step loop." if baseline else ""), figure)


def _papers_latency(result: Result) -> list[tuple[int, float]]:
    """Table III's seconds by cut step if the result has its size; its original model, never cut, comes last."""
    shape, model = result["shape"], str(result["model"]).split(",")[0]
    known = paper.paper().models.get(model)
    if known is None or (shape["frames"], shape["height"], shape["width"]) != (known.frames, 576, 1024):
        return []
    cells = [(result["steps"] + 1 if c is None else c, paper.per_video(model, c)) for c in (17, 20, None)]
    return [(cut, cell.latency_s) for cut, cell in cells if cell is not None] if result["steps"] == 25 else []


def _fidelity(result: Result) -> Iterable[Chart]:
    groups: dict[str, list[Result]] = {}
    for curve in result["curves"]:
        groups.setdefault(f"TCA {curve['tca']}, bias {curve['quality_bias']}", []).append(curve)
    for metric, title, unit, reading in _FIDELITY:
        if any(metric in curve for curve in result["curves"]):
            baseline = (result.get("baseline") or {}).get(metric)
            reference = None if baseline is None else ("diffusers", baseline["mean"])
            text = f"Mean over {len(result['images'])} images x {len(result['seeds'])} seeds, with 95 % intervals over "
            text += f"images if there are several; {reading}."
            yield Chart(title, text, _by_cut(groups, metric, unit, result["steps"], reference))


def _tiny(result: Result) -> Iterable[Chart]:
    groups: dict[str, list[Result]] = {}
    for curve in result["curves"]:
        groups.setdefault(curve["model"], []).append(curve)
    for metric, title, unit, reading in _TINY:
        shown = groups
        if metric == "full_psnr":  # of the never-cut video to itself there is none
            shown = {name: [c for c in curves if c["cut_step"] is not None] for name, curves in groups.items()}
        truth = result["truth"].get(metric) if metric in ("consistency", "detail", "flow") else None
        reference = None if truth is None else ("the clips", truth["mean"])
        text = f"Mean over {result['clips']} clips, bars are 95 % intervals; {reading}."
        yield Chart(title, text, _by_cut(shown, metric, unit, result["steps"], reference))
    points = result["motion"]
    flow = [(point["motion_bucket_id"], point["flow"]["mean"]) for point in points]
    curves = [
        Line("optical flow of the videos", flow, [(point["flow"]["low"], point["flow"]["high"]) for point in points]),
        Line("asked for", [(point["motion_bucket_id"], point["displacement"]) for point in points]),
    ]
    ticks = {x: str(x) for x, _ in flow}
    figure = lines(curves, x_label="motion_bucket_id", y_label="pixels per frame", ticks=ticks, zero=True)
    yield Chart("Motion against motion_bucket_id", "Bars are 95 % intervals over clips.", figure)


def _macs(result: Result) -> Iterable[Chart]:
    shown: list[Any] = []
    for model in result["models"]:
        alike = (model["networks"], model["paper"].get("per_video"))
        if alike in shown:  # SVD-XT 1.1 is SVD-XT with other weights
            continue
        shown.append(alike)
        title = ", ".join(m["model"] for m in result["models"] if m["networks"] == model["networks"])
        marks = "Linear and convolution layers, as the paper counts."
        marks += " Line and deviation: the paper." if alike[1] else ""
        videos, steps = [], []
        for network, counted in model["networks"].items():
            name, ours = macs.NETWORKS[network], network == "vcut"
            theirs = model["paper"].get("per_step", {}).get(network, {}).get("guided")
            guided = counted["guided"]["layers"]
            steps.append(Bar(name, {"MACs": guided}, _beside(guided, theirs), theirs, ours))
            for cut, found in counted["per_video"].items():
                if (network == "original") == (cut == "none"):
                    theirs = model["paper"].get("per_video", {}).get(cut)
                    name_of = name if cut == "none" else f"{name}, c={cut}"
                    videos.append(
                        Bar(name_of, {"MACs": found["layers"]}, _beside(found["layers"], theirs), theirs, ours)
                    )
        yield Chart(f"MACs of a video, {title}", marks, bars(videos))
        yield Chart(f"MACs of a guided step, {title}", marks, bars(steps))
        if "shares" in model:
            figure = bars(_shares(model["shares"]))
            yield Chart(f"Where a guided step's MACs go, {title}", "Attention's matrix products included.", figure)


def _shares(shares: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[Bar]:
    """Return a bar for each network: the original's largest parts, and the rest in one."""
    original = shares["original"]
    largest = sorted(original, key=lambda part: -original[part]["full"])[: len(COLOURS) - 1]
    rows = []
    for network, parts in shares.items():
        shown = {part: parts[part]["full"] if part in parts else 0 for part in largest}
        whole = sum(part["full"] for part in parts.values())
        rest = {"the rest": whole - sum(shown.values())}
        rows.append(Bar(macs.NETWORKS[network], shown | rest, macs.number(whole, 2)))
    return rows


def _memory(result: Result) -> Iterable[Chart]:
    disk, device = result["disk"], result["device_memory"]
    bundle = {"graphs": disk["graphs"], "weights": sum(disk["weights"].values())}
    checkpoint = sum(disk["checkpoint"].values())
    files = [_sizes("bundle without engines", bundle)]
    files += [_sizes(f"engines {target}", {"engines": count}) for target, count in disk["engines"].items()]
    files.append(_sizes("diffusers' checkpoint", {"weights": checkpoint}, ours=False))
    yield Chart("Disk", f"The checkpoint: {disk['checkpoint_is']}.", bars(files))
    measured = {name: row for name, row in result["host"].items() if "peak_bytes" in row}
    if measured:
        peaks = [_sizes(n, {"peak": r["peak_bytes"]}, ours=n.startswith("vcut")) for n, r in measured.items()]
        yield Chart("Host memory", "Peak resident memory of the largest process.", bars(peaks))
    needs = []
    for target, engines in device["engines"].items():
        weights, activations = engines["weights"], engines["activations"]
        shared = max(activations.values())
        needs.append(_sizes(f"{target}, all engines", {"weights": engines["all"] - shared, "activations": shared}))
        hungriest = max(weights, key=lambda name: weights[name] + activations[name])
        low = {"weights": engines["low_memory"] - activations[hungriest], "activations": activations[hungriest]}
        needs.append(_sizes(f"{target}, --low-memory", low))
    needs.append(_sizes("diffusers, weights alone", {"weights": device["diffusers_weights"]}, ours=False))
    for name, row in measured.items():
        if row.get("device_bytes"):
            needs.append(_sizes(f"{name}, measured", {"measured peak": row["device_bytes"]}))
    text = "Engines: as their builder reports it. All engines share one activation memory."
    yield Chart("Device memory", text, bars(needs))


def _export(result: Result) -> Iterable[Chart]:
    runs = []
    for run in result["runs"]:
        words = f"{_seconds(run['seconds'])}, {memory.size(run['peak_memory_bytes'])}"
        runs.append(Bar(label(run), {"time": run["seconds"]}, words))
    yield Chart("What compiling costs", "Whole processes: time, and peak memory of the largest.", bars(runs))


def _seams(result: Result) -> Iterable[Chart]:
    for weight, settings in result["temporal"].items():
        rows = []
        for row in settings:
            name = f"{row['frames']} frames at a time, overlap {row['overlap']}"
            words = f"{row['at_seams']:.2f}, elsewhere {row['elsewhere']:.2f}"
            rows.append(Bar(name, {"at seams": row["at_seams"]}, words, row["elsewhere"]))
        text = "Error of the change from frame to frame, RMS in levels of 255. The line is the error elsewhere."
        yield Chart(f"Decoded in chunks, temporal layers x {weight}", text, bars(rows))


def _by_cut(
    groups: Mapping[str, Sequence[Result]], metric: str, unit: str, steps: int, reference: tuple[str, float] | None
) -> Any:
    """Return a figure of a metric by cut step, a line for each group; never cut comes last, after all steps."""
    curves, cuts = [], set()
    for name, group in groups.items():
        found = [(steps + 1 if c["cut_step"] is None else c["cut_step"], c[metric]) for c in group if metric in c]
        found.sort(key=lambda point: point[0])
        cuts |= {cut for cut, _ in found}
        ends = [(value["low"], value["high"]) for _, value in found if value["low"] is not None]
        points = [(cut, value["mean"]) for cut, value in found]
        curves.append(Line(name, points, ends if len(ends) == len(points) else ()))
    ticks = {cut: _cut(cut, steps) for cut in sorted(cuts)}
    return lines(curves, x_label="cut step c", y_label=unit, ticks=ticks, reference=reference)


def _cut(cut: int, steps: int) -> str:
    return "none" if cut > steps else str(cut)


def _sizes(name: str, parts: Mapping[str, int], ours: bool = True) -> Bar:
    return Bar(name, parts, memory.size(sum(parts.values())), ours=ours)


def _beside(value: float, theirs: float | None) -> str:
    return macs.number(value, 2) + (f", {100 * (value / theirs - 1):+.1f} %" if theirs else "")


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s" if value >= 0.1 else f"{1e3 * value:.1f} ms"


_CHARTS: Mapping[str, Callable[[Result], Iterable[Chart]]] = {
    "latency": _latency,
    "fidelity": _fidelity,
    "tiny": _tiny,
    "macs": _macs,
    "memory": _memory,
    "export": _export,
    "seams": _seams,
}
