"""Small results of benchmarks, in the form that vcut bench writes."""

from __future__ import annotations

from typing import Any

PROVENANCE = {"command": "vcut bench x", "date": "2026-11-25", "device": "a CPU", "versions": {"vcut": "0.1.0"}}
SHAPE = {"model": "svd-tiny", "shape": {"frames": 2, "height": 64, "width": 96}, "precision": "fp32", "steps": 25}


def statistics(median: float) -> dict[str, Any]:
    return {"median": median, "p95": 1.2 * median, "spread": 0.1, "values": [0.9 * median, median, 1.2 * median]}


def latency() -> dict[str, Any]:
    def row(title: str, guided: int, seconds: float) -> dict[str, Any]:
        return {
            "title": title,
            "psnr": 31.25,
            "video": statistics(seconds + 1),
            "step_loop": statistics(seconds),
            "stages": {"condition": statistics(0.25), "semantic_binding": statistics(seconds)},
            "steps": {"semantic_binding": {"count": guided, **statistics(seconds / guided)}},
            "peak_host_memory_bytes": 5e8,
            "peak_device_memory_bytes": None,
            "speedup_over_diffusers": {"median": 8 / seconds, "range": [1, 2]},
            "roofline_share": 0.125,
        }

    return {
        "benchmark": "latency",
        **PROVENANCE,
        **SHAPE,
        "roofline": {"macs_per_second": {"matmul, torch": 8e10}},
        "configurations": {
            "vcut c=17": row("vcut, c=17", 16, 4.0),
            "vcut c=none": row("vcut, never cut", 25, 5.0),
            "diffusers": row("diffusers, eager", 25, 8.0),
            "tgate": {"title": "T-GATE", "skipped": "tgate is not installed"},
        },
    }


def fidelity() -> dict[str, Any]:
    def value(mean: float) -> dict[str, Any]:
        return {"mean": mean, "std": 0.5, "n": 4, "low": mean - 1, "high": mean + 1}

    curves = [
        {"tca": tca, "quality_bias": "mean", "cut_step": cut, "psnr": value(30.5 + i + (tca == "fold"))}
        for tca in ("remove", "fold")
        for i, cut in enumerate((10, 17, "none"))
    ]
    baseline = {"motion": value(3)}
    return {"benchmark": "fidelity", **PROVENANCE, **SHAPE, "images": [1, 2], "seeds": [0], "curves": curves,
            "baseline": baseline, "monotone": []}  # fmt: skip
