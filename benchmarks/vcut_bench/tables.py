"""The README's tables, generated from measured results: ``python -m vcut_bench.tables`` rewrites them in place.

A table stands between ``<!-- results: FILE -->`` and ``<!-- end -->``, FILE relative to ``benchmarks/results``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_TABLE = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str, results: Path) -> str:
    """Return ``text`` with every marked table made anew from ``results``."""

    def table(match: re.Match[str]) -> str:
        result = json.loads((results / match[2]).read_text())
        return f"{match[1]}{_RENDER[result['benchmark']](result)}\n{match[3]}"

    return _TABLE.sub(table, text)


def _step_loop(result: dict[str, Any]) -> str:
    from vcut_bench.step_loop import CONFIGURATIONS

    rows = ["| step loop | median | speed-up, median of turns | range |", "|---|---|---|---|"]
    for name, words in CONFIGURATIONS.items():
        low, high = result["speedup_range"][name]
        median, speedup = result["median_seconds"][name], result["speedup_over_diffusers"][name]
        rows.append(f"| {words} | {median:.2f} s | {speedup:.2f} x | {low:.2f} to {high:.2f} x |")
    shape = result["shape"]
    turns = len(next(iter(result["seconds"].values())))
    return "\n".join(
        [
            *rows,
            "",
            _source(
                result, f"{result['model']}, {turns} turns, fastest of {result['loops_per_turn']} loops each", shape
            ),
        ]
    )


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


_RENDER = {"step_loop": _step_loop, "export": _export, "seams": _seams, "fidelity": _fidelity, "vbench": _vbench}


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text(), ROOT / "benchmarks/results"))
