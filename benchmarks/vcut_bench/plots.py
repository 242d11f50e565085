"""What the report shows of each kind of result: charts, and their numbers as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import Element

from vcut_bench import macs, memory, paper
from vcut_bench.svg import COLOURS, Bar, Legend, Line, bar_chart, legend, line_chart

Result = Mapping[str, Any]
_STAGES = {
    "condition": "condition",
    "semantic_binding": "semantic binding",
    "quality_improvement": "quality improvement",
    "decode": "decode",
}


@dataclass(frozen=True)
class Plot:
    """One figure: charts with a sentence about how to read them, and the numbers."""

    title: str
    text: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    charts: Sequence[Element] = field(default_factory=tuple)


def plots(result: Result) -> list[Plot]:
    """Return the figures of a result.

    Raises:
        KeyError: its benchmark is none that is known, or it lacks something; TypeError, ValueError and their like where
            something in it is of another form.
    """
    return list(_PLOTS[result["benchmark"]](result))


def names() -> list[str]:
    """Return the benchmarks that can be shown."""
    return list(_PLOTS)


def _latency(result: Result) -> Iterable[Plot]:
    found = {name: row for name, row in result["configurations"].items() if "skipped" not in row}
    skipped = [[row["title"], row["skipped"] or ""] for row in result["configurations"].values() if "skipped" in row]
    steps, baseline = result["steps"], found.get("diffusers")
    ours = {row["steps"].get("semantic_binding", {"count": 0})["count"] + 1: row for name, row in found.items()
            if name.startswith("vcut c=") and row.get("cache_interval", 1) == 1}  # fmt: skip
    if ours:
        lines = [
            Line(name, [(cut, ours[cut][key]["median"]) for cut in sorted(ours)],
                 [(min(ours[cut][key]["values"]), max(ours[cut][key]["values"])) for cut in sorted(ours)])
            for key, name in (("step_loop", "step loop"), ("video", "whole video"))
        ]  # fmt: skip
        theirs = _papers_latency(result)
        if theirs:
            lines.append(Line("the paper's whole video, NVIDIA A10", theirs))
        if baseline:
            lines.append(Line("diffusers, step loop", [(1, baseline["step_loop"]["median"])], reference=True))
        ticks = {cut: _cut(int(cut), steps) for cut in sorted({*ours, *(cut for cut, _ in theirs)})}
        chart = line_chart(
            lines, title="Seconds by cut step", x_label="cut step c", y_label="seconds", ticks=ticks, zero=True
        )
        rows = [
            [ticks[cut], *(_seconds(ours[cut][key]["median"]) for key in ("step_loop", "video")),
             _seconds(ours[cut]["step_loop"]["p95"])]
            for cut in sorted(ours)
        ]  # fmt: skip
        if baseline:
            values = (baseline["step_loop"]["median"], baseline["video"]["median"], baseline["step_loop"]["p95"])
            rows.append(["diffusers", *map(_seconds, values)])
        yield Plot(
            "Latency against the cut step",
            "Medians; bars reach from the fastest to the slowest video."
            + (" Dashed: diffusers' step loop." if baseline else ""),
            ["cut step", "step loop", "video", "step loop, p95"],
            rows,
            [legend(Legend([line.name for line in lines if not line.reference])), chart],
        )
    bars = [
        Bar(
            row["title"],
            {"step loop": row["step_loop"]["median"]},
            _ratio(_seconds(row["step_loop"]["median"]), row.get("speedup_over_diffusers"), "diffusers"),
            ours=name.startswith("vcut"),
        )
        for name, row in found.items()
    ]
    yield Plot(
        "Beside the peers",
        "Step loop, medians of videos made in turns; the ratio is the median of each turn's.",
        ["", "step loop", "p95", "spread", "speed-up", "video", "PSNR", "memory", "of the limit"],
        [*(_latency_row(row) for row in found.values()), *([*row, *[""] * 7] for row in skipped)],
        [bar_chart(bars, title="Step loop of each configuration")],
    )
    stages = [stage for stage in _STAGES if any(stage in row["stages"] for row in found.values())]
    stage_bars = [
        Bar(
            row["title"],
            {_STAGES[stage]: row["stages"][stage]["median"] for stage in stages if stage in row["stages"]},
            _seconds(sum(values["median"] for values in row["stages"].values())),
        )
        for row in found.values()
    ]
    yield Plot(
        "Time by stage",
        "Medians. Peers that guide every step have one stage of steps.",
        ["", *(_STAGES[stage] for stage in stages)],
        [
            [row["title"], *(_seconds(row["stages"][s]["median"]) if s in row["stages"] else "" for s in stages)]
            for row in found.values()
        ],
        [
            legend(Legend([_STAGES[stage] for stage in stages])),
            bar_chart(stage_bars, title="Seconds by stage", parts=[_STAGES[stage] for stage in stages]),
        ],
    )
    limits = (result.get("roofline") or {}).get("macs_per_second") or {}
    reached = {name: row for name, row in found.items() if row.get("roofline_share") is not None}
    if limits and reached:
        limit = max(limits.values())
        roof = [
            Bar(
                row["title"],
                {"reached": row["roofline_share"] * limit},
                f"{_rate(row['roofline_share'] * limit)}, {100 * row['roofline_share']:.0f} %",
                mark=limit,
                ours=name.startswith("vcut"),
            )
            for name, row in reached.items()
        ]
        yield Plot(
            "Distance from the machine's limit",
            f"MACs per second of the step loop, attention included. The line is the fastest matrix product measured "
            f"here, {_rate(limit)}.",
            ["", "MACs per second", "of the limit"],
            [
                [r["title"], _rate(r["roofline_share"] * limit), f"{100 * r['roofline_share']:.1f} %"]
                for r in reached.values()
            ]
            + [[f"limit: {name}", _rate(value), ""] for name, value in limits.items()],
            [bar_chart(roof, title="Reached MACs per second", limit=limit)],
        )


def _papers_latency(result: Result) -> list[tuple[float, float]]:
    """Table III's seconds by cut step where the result is of its size; its original model, never cut, comes last."""
    shape, model = result["shape"], str(result["model"]).split(",")[0]
    known = paper.paper().models.get(model)
    if known is None or (shape["frames"], shape["height"], shape["width"]) != (known.frames, 576, 1024):
        return []
    cells = [(result["steps"] + 1 if c is None else c, paper.per_video(model, c)) for c in (17, 20, None)]
    return [(cut, found.latency_s) for cut, found in cells if found is not None] if result["steps"] == 25 else []


def _latency_row(row: Result) -> list[str]:
    from vcut_bench.latency import cells

    return cells(row)


def _fidelity(result: Result) -> Iterable[Plot]:
    steps = result["steps"]
    groups: dict[str, list[Result]] = {}
    for curve in result["curves"]:
        groups.setdefault(f"TCA {curve['tca']}, bias {curve['quality_bias']}", []).append(curve)
    kinds = (
        ("psnr", "PSNR against diffusers", "dB", "higher is nearer"),
        ("ssim", "SSIM against diffusers", "SSIM", "higher is nearer"),
        ("temporal", "Temporal difference from diffusers", "levels of 255", "lower is nearer"),
        ("lpips", "LPIPS against diffusers", "LPIPS", "lower is nearer"),
        ("motion", "Motion", "levels of 255", "change from frame to frame, of the video alone"),
        ("input_psnr", "First frame against the photograph", "dB", "of the video alone"),
    )
    for metric, title, unit, reading in kinds:
        if not any(metric in curve for curve in result["curves"]):
            continue
        lines, rows = [], []
        for name, curves in groups.items():
            own = _by_cut(curves, metric, steps)
            lines.append(_cut_line(name, own))
            rows += [
                [name, _cut(cut, steps), f"{v['mean']:.4g}", f"{v['std']:.3g}", _interval(v), str(v["n"])]
                for cut, v in own
            ]
        baseline = (result.get("baseline") or {}).get(metric)
        if baseline is not None:
            lines.append(Line("diffusers", [(1, baseline["mean"])], reference=True))
            rows.append(["diffusers", "", f"{baseline['mean']:.4g}", f"{baseline['std']:.3g}", _interval(baseline),
                         str(baseline["n"])])  # fmt: skip
        chart = _cut_chart(lines, title, unit, steps)
        ends = ", bars are 95 % intervals over images" if any(line.intervals for line in lines) else ""
        dashed = "; dashed: diffusers' own videos" if baseline is not None else ""
        yield Plot(
            title,
            f"Mean over {len(result['images'])} images x {len(result['seeds'])} seeds{ends}; {reading}{dashed}.",
            ["", "cut step", unit, "std", "95 %", "videos"],
            rows,
            [legend(Legend([line.name for line in lines if not line.reference])), chart],
        )


def _tiny(result: Result) -> Iterable[Plot]:
    steps = result["steps"]
    kinds = (
        ("frechet", "Fréchet distance to the clips", "distance", "of latents and their changes; lower is nearer"),
        ("full_psnr", "PSNR against the same model, never cut", "dB", "higher is nearer"),
        ("truth_psnr", "PSNR against the clip", "dB", "higher is nearer; it favours blur"),
        ("input_psnr", "First frame against the photograph", "dB", "of the video alone"),
        ("consistency", "Frames against their next one, warped", "dB", "by optical flow; lower means flicker"),
        ("detail", "Detail of the last frame", "share of the input's", "mean gradient; lower means blur"),
        ("flow", "Optical flow", "pixels per frame", "of the video alone"),
    )
    models = list(dict.fromkeys(curve["model"] for curve in result["curves"]))
    for metric, title, unit, reading in kinds:
        lines, rows = [], []
        for model in models:
            own = [c for c in result["curves"] if c["model"] == model]
            if metric == "full_psnr":
                own = [c for c in own if c["cut_step"] is not None]
            points = _by_cut(own, metric, steps)
            lines.append(_cut_line(model, points))
            rows += [[model, _cut(cut, steps), f"{v['mean']:.4g}", _interval(v)] for cut, v in points]
        truth = result["truth"].get(metric) if metric in ("consistency", "detail", "flow") else None
        if truth is not None:
            lines.append(Line("the clips", [(2, truth["mean"])], reference=True))
            rows.append(["the clips", "", f"{truth['mean']:.4g}", _interval(truth)])
        chart = _cut_chart(lines, title, unit, steps)
        dashed = "; dashed: the clips themselves" if truth is not None else ""
        yield Plot(
            title,
            f"Mean over {result['clips']} clips, bars are 95 % intervals; {reading}{dashed}.",
            ["", "cut step", unit, "95 %"],
            rows,
            [legend(Legend(models)), chart],
        )
    points = result["motion"]
    lines = [
        Line("optical flow of the videos", [(p["motion_bucket_id"], p["flow"]["mean"]) for p in points],
             [(p["flow"]["low"], p["flow"]["high"]) for p in points]),
        Line("asked for", [(p["motion_bucket_id"], p["displacement"]) for p in points]),
    ]  # fmt: skip
    ticks = {p["motion_bucket_id"]: str(p["motion_bucket_id"]) for p in points}
    yield Plot(
        "Motion against motion_bucket_id",
        "Pixels per frame, bars are 95 % intervals over clips.",
        ["motion_bucket_id", "asked for", "flow", "95 %"],
        [
            [str(p["motion_bucket_id"]), str(p["displacement"]), f"{p['flow']['mean']:.3f}", _interval(p["flow"])]
            for p in points
        ],
        [
            legend(Legend([line.name for line in lines])),
            line_chart(
                lines, title="Motion", x_label="motion_bucket_id", y_label="pixels per frame", ticks=ticks, zero=True
            ),
        ],
    )


def _macs(result: Result) -> Iterable[Plot]:
    seen: list[Any] = []
    for model in result["models"]:
        about = (model["networks"], model["paper"].get("per_video"))
        if about in seen:  # SVD-XT 1.1 is SVD-XT with other weights
            continue
        seen.append(about)
        alike = [m["model"] for m in result["models"] if m["networks"] == model["networks"]]
        title, one = ", ".join(alike), {**result, "models": [model]}
        theirs = model["paper"].get("per_video", {})
        bars = []
        for network, found in model["networks"].items():
            for cut, counted in found["per_video"].items():
                if (network == "original") != (cut == "none"):
                    continue
                mark = theirs.get(cut)
                name = "original" if network == "original" else f"{macs.NETWORKS[network]}, c={cut}"
                words = macs.number(counted["layers"], 1)
                if mark is not None:
                    words += f", {_percent(counted['layers'] / mark - 1)}"
                bars.append(Bar(name, {"MACs": counted["layers"]}, words, mark, network == "vcut"))
        rows = [row[1:] for row in macs.video_rows(one)]
        yield Plot(
            f"MACs of a video, {title}",
            "Linear and convolution layers, as the paper counts."
            + (" Line and deviation: its Table III." if theirs else ""),
            ["network", "cut step", "MACs", "the paper's", "with attention"],
            rows,
            [
                bar_chart(bars, title="MACs of a video"),
            ],
        )
        yield _step(title, one)
        if "shares" in model:
            yield _shares(title, model["shares"])


def _step(title: str, result: Result) -> Plot:
    """A guided step of each network; ``result`` has one model."""
    (model,) = result["models"]
    theirs, bars = model["paper"].get("per_step", {}), []
    for network, found in model["networks"].items():
        layers, mark = found["guided"]["layers"], theirs.get(network, {}).get("guided")
        words = macs.number(layers, 2) + (f", {_percent(layers / mark - 1)}" if mark else "")
        name = f"{macs.NETWORKS[network]}, {macs.number(found['parameters'], 2)} parameters"
        bars.append(Bar(name, {"MACs": layers}, words, mark, network == "vcut"))
    return Plot(
        f"MACs of a guided step, {title}",
        "Linear and convolution layers, as the paper counts."
        + (" Line and deviation: its Table II." if theirs else ""),
        [
            "network",
            "parameters",
            "the paper's",
            "guided",
            "the paper's",
            "with attention",
            "conditional",
            "shallow, guided",
        ],
        [row[1:] for row in macs.step_rows(result)],
        [bar_chart(bars, title="MACs of a guided step")],
    )


def _shares(title: str, shares: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Plot:
    largest = sorted(shares["original"], key=lambda part: -shares["original"][part]["full"])
    shown, rest = largest[: COLOURS - 1], largest[COLOURS - 1 :]
    parts = [*shown, *(["the rest"] if rest else [])]
    bars = []
    for network, found in shares.items():
        full = {part: found.get(part, {"full": 0})["full"] for part in largest}
        values = {part: full[part] for part in shown}
        if rest:
            values["the rest"] = sum(full[part] for part in rest)
        bars.append(Bar(macs.NETWORKS[network], values, macs.number(sum(full.values()), 2)))
    rows = [
        [part, *(macs.number(found[part]["full"], 2) if part in found else "" for found in shares.values())]
        for part in largest
    ]
    return Plot(
        f"Where a guided step's MACs go, {title}",
        "Attention's matrix products included.",
        ["", *(macs.NETWORKS[network] for network in shares)],
        rows,
        [legend(Legend(parts)), bar_chart(bars, title="Shares of a step", parts=parts)],
    )


def _memory(result: Result) -> Iterable[Plot]:
    disk, host = result["disk"], result["host"]
    bundle = {"graphs": disk["graphs"], "weights": sum(disk["weights"].values())}
    parts = ["graphs", "weights", "engines"]
    bars = [Bar("bundle without engines", bundle, memory.size(sum(bundle.values())))]
    bars += [
        Bar(f"engines {target}", {"engines": count}, memory.size(count)) for target, count in disk["engines"].items()
    ]
    checkpoint = sum(disk["checkpoint"].values())
    bars.append(Bar("diffusers' checkpoint", {"weights": checkpoint}, memory.size(checkpoint), ours=False))
    yield Plot(
        "Disk",
        f"The checkpoint: {disk['checkpoint_is']}.",
        ["", "size", ""],
        memory.disk_rows(result),
        [legend(Legend(parts)), bar_chart(bars, title="Bytes on disk", parts=parts)],
    )
    measured = {name: found for name, found in host.items() if "peak_bytes" in found}
    host_bars = [
        Bar(name, {"peak": found["peak_bytes"]}, memory.size(found["peak_bytes"]), ours=name.startswith("vcut"))
        for name, found in measured.items()
    ]
    yield Plot(
        "Host memory",
        "Peak resident memory of whole processes, of each the largest.",
        ["", "peak", ""],
        [
            [name, memory.size(found["peak_bytes"]) if "peak_bytes" in found else "", found.get("skipped", "")]
            for name, found in host.items()
        ],
        [bar_chart(host_bars, title="Peak host memory")] if host_bars else [],
    )
    device = result["device_memory"]
    device_bars = []
    for target, found in device["engines"].items():
        shared = max(found["activations"].values())
        words = memory.size(found["all"])
        device_bars.append(
            Bar(f"{target}, all engines", {"weights": found["all"] - shared, "activations": shared}, words)
        )
        hungriest = max(found["weights"], key=lambda name: found["weights"][name] + found["activations"][name])
        device_bars.append(
            Bar(
                f"{target}, --low-memory",
                {"weights": found["weights"][hungriest], "activations": found["activations"][hungriest]},
                memory.size(found["low_memory"]),
            )
        )
    weights = device["diffusers_weights"]
    device_bars.append(Bar("diffusers, weights alone", {"weights": weights}, memory.size(weights), ours=False))
    for name, found in measured.items():
        if found.get("device_bytes"):
            bytes_ = found["device_bytes"]
            device_bars.append(Bar(f"{name}, measured", {"measured peak": bytes_}, memory.size(bytes_)))
    parts = list(dict.fromkeys(part for bar in device_bars for part in bar.parts))
    yield Plot(
        "Device memory",
        "Engines: as their builder reports it. All engines share one activation memory.",
        ["", "size", ""],
        memory.device_rows(result),
        [legend(Legend(parts)), bar_chart(device_bars, title="Device memory", parts=parts)],
    )


def _vbench(result: Result) -> Iterable[Plot]:
    from vcut_bench.vbench import cells, heads, label

    columns = result["columns"]
    rows = []
    for row in result["rows"]:
        rows.append([label(row), *cells(columns, row["values"])])
        if row.get("paper"):
            rows.append([f"the paper, {label(row)}", *cells(columns, row["paper"])])
    yield Plot("The paper's Table IV", "In percent, and seconds.", ["setting", *heads(result)], rows)


def _export(result: Result) -> Iterable[Plot]:
    bars, rows = [], []
    for i, run in enumerate(result["runs"]):
        again = run["command"] in [earlier["command"] for earlier in result["runs"][:i]]
        name = run["command"].removeprefix("vcut-export ") + (", again" if again else "")
        words = f"{_seconds(run['seconds'])}, {memory.size(run['peak_memory_bytes'])}"
        bars.append(Bar(name, {"time": run["seconds"]}, words))
        rows.append(
            [name, _seconds(run["seconds"]), memory.size(run["peak_memory_bytes"]), memory.size(run["bundle_bytes"])]
        )
    yield Plot(
        "What compiling costs",
        "Whole processes: time, and peak memory of the largest.",
        ["vcut-export", "time", "peak memory", "bundle"],
        rows,
        [bar_chart(bars, title="Seconds of an export")],
    )


def _seams(result: Result) -> Iterable[Plot]:
    for weight, settings in result["temporal"].items():
        bars = [
            Bar(
                f"{s['frames']} frames at a time, overlap {s['overlap']}",
                {"at seams": s["at_seams"]},
                f"{s['at_seams']:.2f}, elsewhere {s['elsewhere']:.2f}",
                s["elsewhere"],
            )
            for s in settings
        ]
        yield Plot(
            f"Seams of decoded chunks, temporal x {weight}",
            "Error of the change from frame to frame, RMS in levels of 255; the line is the error elsewhere.",
            ["frames", "overlap", "decoded", "at seams", "elsewhere", "PSNR"],
            [
                [
                    str(s["frames"]),
                    str(s["overlap"]),
                    f"{s['decoded']:.2f} x",
                    f"{s['at_seams']:.2f}",
                    f"{s['elsewhere']:.2f}",
                    f"{s['psnr']:.1f} dB",
                ]
                for s in settings
            ],
            [legend(Legend(mark="elsewhere")), bar_chart(bars, title="Error at seams")],
        )


def _by_cut(curves: Iterable[Result], metric: str, steps: int) -> list[tuple[int, Result]]:
    """Return the cut steps with what was found of ``metric``, in order; never cut comes last, after all steps."""
    found = [(steps + 1 if c["cut_step"] is None else c["cut_step"], c[metric]) for c in curves if metric in c]
    return sorted(found, key=lambda point: point[0])


def _cut_line(name: str, points: Sequence[tuple[int, Result]]) -> Line:
    """Return the means, with their intervals where all have one."""
    with_ends = all(value["low"] is not None for _, value in points)
    ends = [(value["low"], value["high"]) for _, value in points] if with_ends else ()
    return Line(name, [(cut, value["mean"]) for cut, value in points], ends)


def _cut_chart(lines: Sequence[Line], title: str, unit: str, steps: int) -> Element:
    ticks = {x: _cut(int(x), steps) for line in lines if not line.reference for x, _ in line.points}
    return line_chart(lines, title=title, x_label="cut step c", y_label=unit, ticks=dict(sorted(ticks.items())))


def _cut(cut: int, steps: int) -> str:
    return "none" if cut > steps else str(cut)


def _percent(value: float) -> str:
    """Return a deviation, its sign only where it shows."""
    text = f"{100 * value:+.1f}"
    return f"{text if float(text) else '±0.0'} %"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s" if value >= 0.1 else f"{1e3 * value:.1f} ms"


def _ratio(words: str, ratio: Mapping[str, Any] | None, over: str) -> str:
    return words if ratio is None else f"{words}, {ratio['median']:.2f} x {over}"


def _rate(value: float) -> str:
    return macs.number(value, 2)


def _interval(value: Mapping[str, Any]) -> str:
    return "" if value["low"] is None else f"{value['low']:.4g} to {value['high']:.4g}"


_PLOTS: dict[str, Callable[[Result], Iterable[Plot]]] = {
    "macs": _macs,
    "latency": _latency,
    "fidelity": _fidelity,
    "tiny": _tiny,
    "vbench": _vbench,
    "memory": _memory,
    "export": _export,
    "seams": _seams,
}
