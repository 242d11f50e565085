"""The README's tables, generated from measured results: ``python -m vcut_bench.tables`` rewrites them in place.

A table stands between ``<!-- results: FILE -->`` and ``<!-- end -->``, FILE relative to ``benchmarks/results``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# What of ours a peer is to be held against, None: cut where the measured bundle is.
COUNTERPARTS: Mapping[str, str | None] = {
    "diffusers": "none",
    "diffusers-compiled": "none",
    "onnxruntime-unfolded": "none",
    "tensorrt-unfolded": "none",
    "diffusers-vcut": None,
    "tgate": None,
    "deepcache": "none k=3",
    "deepcache-2": "none k=2",
}
_TABLE = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str, results: Path) -> str:
    """Return ``text`` with every marked table made anew from ``results``."""

    def table(match: re.Match[str]) -> str:
        result = json.loads((results / match[2]).read_text())
        return f"{match[1]}{_RENDER[result['benchmark']](result)}\n{match[3]}"

    return _TABLE.sub(table, text)


def _latency(result: dict[str, Any]) -> str:
    from vcut_bench.latency import cells

    heads = ["", "step loop", "p95", "over diffusers", "range", f"vcut c={result['cut_step']} is faster by", "video"]
    heads += ["PSNR", "memory", "of the limit"]
    rows = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    skipped = []
    for found in result["configurations"].values():
        if "skipped" in found:
            skipped.append(f"{found['title']}: {found['skipped']}")
            continue
        title, loop, p95, _, speedup, video, psnr, memory, share = cells(found)
        low, high = found["speedup_over_diffusers"]["range"] if speedup else (0.0, 0.0)
        span = f"{low:.2f} to {high:.2f} x" if speedup else ""
        faster = f"{found['vcut_is_faster_by']['median']:.2f} x"
        rows.append(f"| {' | '.join((title, loop, p95, speedup, span, faster, video, psnr, memory, share))} |")
    what = (
        f"{result['model']}, {result['precision']}, {result['backend']}, CPU threads: {result['threads']}, "
        f"{result['repeats']} turns: medians, and of ratios the median of each turn's; PSNR of the frames against "
        "diffusers'; peak memory of the process, on a GPU of the device"
    )
    if skipped:
        what += f". Skipped: {'; '.join(skipped)}"
    return "\n".join([*rows, "", *_like_for_like(result), "", _source(result, what, result["shape"])])


def _like_for_like(result: dict[str, Any]) -> list[str]:
    """Rows of each peer beside what of ours does to diffusers' video what the peer does, or less."""
    from vcut_bench.latency import cells
    from vcut_bench.turns import ratios

    found = {name: row for name, row in result["configurations"].items() if "skipped" not in row}
    rows = [_head("peer", "its step loop takes", "range", "as long as that of")]
    for peer, setting in COUNTERPARTS.items():
        ours = found.get(f"vcut c={setting or result['cut_step']}")
        if peer not in found or ours is None:
            continue
        ratio = ratios(*(row["step_loop"]["values"] for row in (found[peer], ours)))
        span = "{:.2f} to {:.2f} x".format(*ratio["range"])
        theirs, own = (cells(row) for row in (found[peer], ours))
        rows.append(f"| {theirs[0]} ({theirs[6]}) | {ratio['median']:.2f} x | {span} | {own[0]} ({own[6]}) |")
    return rows


def _export(result: dict[str, Any]) -> str:
    rows = ["| compile | time | peak memory | graphs | engines |", "|---|---|---|---|---|"]
    for run in result["runs"]:
        engines = (run["engines"] or {}).get("engines", {})
        engine_bytes = sum(engine["bytes"] for engine in engines.values())
        again = "" if run["rebuilt"] or run["engines_built"] else ", again"
        cells = (
            f"`{run['command']}`{again}",
            f"{run['seconds']:.1f} s",
            f"{run['peak_memory_bytes'] / 1e9:.1f} GB",
            f"{(run['bundle_bytes'] - engine_bytes) / 1e9:.3f} GB",
            f"{engine_bytes / 1e9:.3f} GB" if engines else "",
        )
        rows.append(f"| {' | '.join(cells)} |")
    engines = next(run["engines"]["engines"] for run in result["runs"] if run["engines"])
    rows += ["", "| SVD-XT's engines | built in | size | activations | weights |", "|---|---|---|---|---|"]
    for name, engine in engines.items():
        sizes = [f"{engine[key] / 1e9:.2f} GB" for key in ("bytes", "activation_bytes", "weight_bytes")]
        rows.append(f"| `{name}` | {engine['build_seconds']:.0f} s | {' | '.join(sizes)} |")
    what = "whole processes, the first of each kind cold; memory of the largest process"
    return "\n".join([*rows, "", _source(result, what)])


def _source(result: dict[str, Any], what: str, shape: dict[str, int] | None = None) -> str:
    size = "" if shape is None else f"{shape['frames']} frames of {shape['height']}x{shape['width']}, "
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"{what}; {size}{result['device']}; {versions}; {result['date']}; `{result['command']}`"


def _seams(result: dict[str, Any]) -> str:
    weights = list(result["temporal"])
    rows = [
        "| frames at a time, overlap | decoded | "
        + " | ".join(f"at seams, elsewhere; temporal x {weight}" for weight in weights)
        + " |",
        "|---|---|" + "---|" * len(weights),
    ]
    for settings in zip(*result["temporal"].values(), strict=True):
        cells = [f"{s['at_seams']:.2f}, {s['elsewhere']:.2f} ({s['psnr']:.0f} dB)" for s in settings]
        first = settings[0]
        rows.append(f"| {first['frames']}, {first['overlap']} | {first['decoded']:.2f} x | {' | '.join(cells)} |")
    what = f"{result['model']}; error of the change from frame to frame, RMS in levels of 255, and PSNR"
    return "\n".join([*rows, "", _source(result, what, result["shape"])])


def _fidelity(result: dict[str, Any]) -> str:
    kinds = list(dict.fromkeys((curve["tca"], curve["quality_bias"]) for curve in result["curves"]))
    cuts = list(dict.fromkeys(curve["cut_step"] for curve in result["curves"]))
    points = {(c["tca"], c["quality_bias"], c["cut_step"]): c for c in result["curves"]}
    rows = [
        "| cut step | " + " | ".join(f"`--tca {mode} --quality-bias {bias}`" for mode, bias in kinds) + " |",
        "|---|" + "---|" * len(kinds),
    ]
    for cut in cuts:
        cells = []
        for kind in kinds:
            point = points[(*kind, cut)]
            lpips = f", {point['lpips']['mean']:.3f}" if "lpips" in point else ""
            spread = f"{point['psnr']['mean']:.1f} ± {point['psnr']['std']:.1f} dB"
            cells.append(f"{spread}, {point['ssim']['mean']:.3f}, {point['temporal']['mean']:.1f}{lpips}")
        rows.append(f"| {'none' if cut is None else cut} | {' | '.join(cells)} |")
    claims = [
        f"{claim['tca']}, {claim['quality_bias']}: "
        + ("at every step" if claim["psnr_rises_with_cut_step"] else f"but at {', '.join(map(str, claim['falls_at']))}")
        for claim in result["monotone"]
    ]
    images, seeds = len(result["images"]), len(result["seeds"])
    what = (
        f"{result['model']}; PSNR ± standard deviation, SSIM, error of the change from frame to frame (RMS in levels "
        f"of 255){', LPIPS' if 'lpips' in result['curves'][0] else ''}; {images} images x {seeds} seeds"
    )
    if (interval := result.get("cache_interval", 1)) > 1:
        what += f", cache interval {interval}"
    return "\n".join(
        [*rows, "", f"PSNR rises with the cut step, {'; '.join(claims)}.", "", _source(result, what, result["shape"])]
    )


def _vbench(result: dict[str, Any]) -> str:
    from vcut_bench.vbench import cells, heads, label

    rows = [f"| setting | {' | '.join(heads(result))} |", "|---|" + "---|" * len(result["columns"])]
    for row in result["rows"]:
        rows.append(f"| {label(row)} | {' | '.join(cells(result['columns'], row['values']))} |")
        if row["paper"]:
            rows.append(f"| the paper | {' | '.join(cells(result['columns'], row['paper']))} |")
    what = f"{result['model']}; {result['prompts']} prompts x {result['seeds']} videos"
    return "\n".join([*rows, "", _source(result, what, result["shape"])])


def _macs(result: dict[str, Any]) -> str:
    """Tables II and III; models of one network are one row, and what the paper has nothing of is left out."""
    from vcut_bench.macs import step_rows, video_rows

    step = [
        "network",
        "parameters",
        "the paper's",
        "guided step",
        "the paper's",
        "with attention",
        "conditional step",
        "shallow guided step",
    ]
    video = ["network", "cut step", "video", "the paper's", "with attention"]
    rows = [_head("model", *step), *_rows(step_rows(result)), ""]
    shown = [row for row in video_rows(result) if row[1] != "TCA removed" or row[4]]
    rows += [_head("model", *video), *_rows(shown)]
    what = "MACs of linear and convolution layers, and with attention's matrix products; 576x1024, svd-tiny 72x96"
    what += (
        f"; {result['steps']} steps; counted in {result['seconds']:.0f} s, {result['peak_memory_bytes'] / 1e9:.1f} GB"
    )
    return "\n".join([*rows, "", _source(result, what)])


def _head(*names: str) -> str:
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"


def _rows(rows: list[list[str]]) -> list[str]:
    """Rows of a Markdown table; those that differ in the model alone become one."""
    models: dict[tuple[str, ...], list[str]] = {}
    for model, *cells in rows:
        models.setdefault(tuple(cells), []).append(model)
    return [f"| {', '.join(names)} | {' | '.join(cells)} |" for cells, names in models.items()]


def _memory(result: dict[str, Any]) -> str:
    from vcut_bench.memory import device_rows, disk_rows, size

    host = [
        [name, size(found["peak_bytes"]) if "peak_bytes" in found else "", found.get("skipped", "")]
        for name, found in result["host"].items()
    ]
    rows: list[str] = []
    for title, part in (("disk", disk_rows(result)), ("host, peak", host), ("device", device_rows(result))):
        rows += [_head(title, "", ""), *(f"| {' | '.join(row)} |" for row in part), ""]
    return "\n".join([*rows, _source(result, f"{result['model']}, {result['precision']}", result["shape"])])


def _tiny(result: dict[str, Any]) -> str:
    from vcut_bench.tiny.evaluate import cells

    heads = ["PSNR to never cut", "to the clip", "first frame to input", "consistency", "flow", "detail", "Fréchet"]
    rows = [_head("model", "cut step", *heads)]
    rows += [f"| held-out clips |  | {' | '.join(cells(result['truth']))} |"]
    for curve in result["curves"]:
        cut = "none" if curve["cut_step"] is None else curve["cut_step"]
        rows.append(f"| {curve['model']} | {cut} | {' | '.join(cells(curve))} |")
    rows += ["", _head("motion_bucket_id", *(str(point["motion_bucket_id"]) for point in result["motion"]))]
    motion = (
        ("asked for, pixels per frame", [f"{point['displacement']:.2f}" for point in result["motion"]]),
        ("optical flow", [f"{point['flow']['mean']:.2f}" for point in result["motion"]]),
        ("change between frames, levels of 255", [f"{point['change']['mean']:.1f}" for point in result["motion"]]),
    )
    rows += [f"| {title} | {' | '.join(values)} |" for title, values in motion]
    what = (
        f"{result['model']}; means ± standard deviation over {result['clips']} clips of held-out photographs "
        f"({', '.join(result['photographs'])}), {result['precision']}; PSNR in dB; consistency: PSNR of a frame to "
        "the next one warped by optical flow; flow in pixels per frame; detail: gradient of the last frame over the "
        "input's; Fréchet distance to the clips with its 95 % interval, of latents and their changes"
    )
    return "\n".join([*rows, "", _source(result, what, result["shape"])])


_RENDER = {
    "latency": _latency,
    "export": _export,
    "seams": _seams,
    "fidelity": _fidelity,
    "vbench": _vbench,
    "macs": _macs,
    "memory": _memory,
    "tiny": _tiny,
}


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text(), ROOT / "benchmarks/results"))
