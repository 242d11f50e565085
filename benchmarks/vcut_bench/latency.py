"""How long a video takes, stage by stage and step by step, beside the peers, and how far that is from the limit.

    vcut bench latency BUNDLE [--cut-steps none,10,17,20] [--cache-intervals 2,3] [--peers all] [--repeats 5]

Each side loads in a process of its own that stays alive and rests until it is asked (``worker``). Then the
configurations take turns, one video each, and every turn begins with another one: what slows the machine for a while
slows all alike, and a turn's ratios compare neighbours in time. Runs before the first turn do not count. Peers get the
same image, latents and noise, threads, sizes and steps; beside its time stands how far each one's frames are from
diffusers' own.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from vcut_bench import roofline
from vcut_bench.compiled import distinct_intervals, setting_name, steps_by_graph
from vcut_bench.numbers import Numbers
from vcut_bench.peers import OURS, PEERS, ROOFLINE, PeerJob, choose_reference
from vcut_bench.provenance import about, provenance
from vcut_bench.results import OUTPUT, deliver
from vcut_bench.turns import STAGES, Configuration, Contest, Open, Progress, ratios, step_loop, summarize
from vcut_bench.worker import Worker
from vcut_runtime import open_bundle
from vcut_runtime.backends import choose
from vcut_runtime.bundle.graph import GRAPHS
from vcut_runtime.bundle.manifest import Manifest
from vcut_runtime.command_options import check_numbers, merge, option, takes_options
from vcut_runtime.errors import UsageError, VcutError
from vcut_runtime.schedule import CutStep, check_cut_step, parse_cut_steps
from vcut_runtime.terminal import JSON, QUIET, progress_bars

BASELINE = "diffusers"
# The vcut setting that a peer is compared with. Peers that compute diffusers' video are compared with never cutting.
# For the others it is a setting that changes the video as much or less; None is the first row, the bundle's own cut.
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


def parse_intervals(text: str) -> list[int]:
    """Return ``2,3`` as numbers, ``none`` as no numbers.

    Raises:
        UsageError: it is no such list.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if words == ["none"]:
        return []
    try:
        if words:
            return [int(word) for word in words]
        raise ValueError
    except ValueError:
        raise UsageError(f"--cache-intervals {text!r} is no list of numbers: write it as 2,3, or none") from None


@dataclass(frozen=True)
class LatencyOptions:
    """What is timed, and how."""

    backend: str = option("auto", "Of vcut; as vcut run takes it.")
    cut_steps: Sequence[CutStep] | None = option(
        None,
        "Of vcut, such as none,10,17,20. Peers are compared with the first. [default: the bundle's, and none]",
        parse=parse_cut_steps,
    )
    cache_intervals: Sequence[int] | None = option(
        None,
        "Of vcut, such as 2,3, or none: also time shallow steps, never cut and at the first cut. "
        "[default: 2,3 if the bundle has shallow steps]",
        parse=parse_intervals,
    )
    peers: str = option("all", f"all, none, or from: {', '.join(PEERS)}.")
    repeats: int = option(5, "Videos of each that count.")
    warm_up: int = option(1, "Videos of each that do not count.")
    threads: int | None = option(None, "CPU threads of every side. [default: all]")
    reference: str | None = option(
        None, "Checkpoint that the bundle was made from. [default: the bundle's, or random weights if unavailable]"
    )
    image: Path | None = option(None, "A photograph. [default: smooth random colours]")

    def __post_init__(self) -> None:
        check_numbers(self, repeats=1, warm_up=1, threads=1)
        choose_peers(self.peers)


def measure(
    bundle: str | Path,
    options: LatencyOptions | None = None,
    *,
    progress: Progress = lambda stage, done, total: None,
    open_worker: Open | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Time videos of a bundle and of its peers, in turns.

    Args:
        bundle: its folder.
        options: what is timed, and how.
        progress: called with what is done, done and total.
        open_worker: opens a side; a process by default.
        fields: of the options, in their place.

    Returns:
        Provenance, ``roofline`` (MACs per second) and ``configurations`` by name: seconds of ``video``, ``step_loop``,
        each stage and a step of each stage (median, 95th percentile, spread and all values), peak memory in bytes,
        ``psnr`` against diffusers in dB (100 is equal), the ratios of each turn, ``roofline_share``; or ``skipped``.

    Raises:
        UsageError: an option is impossible, or the backend cannot run here.
        VcutError: the bundle's own side failed.
    """
    options = merge(LatencyOptions, options, fields)
    opened = open_bundle(bundle, hashes=False)
    manifest = opened.manifest
    chosen = choose(opened, options.backend).name
    cuts = _cuts(manifest, options.cut_steps)
    intervals = _intervals(manifest, options.cache_intervals)
    names = choose_peers(options.peers)
    threads = options.threads or _usable_cpus()
    job = PeerJob(
        side=OURS,
        bundle=str(opened.root),
        backend=chosen,
        threads=threads,
        cut_step=cuts[0],
        reference=options.reference,
        image=None if options.image is None else str(options.image),
    )
    ref, lacking = choose_reference(manifest, options.reference) if names else (None, None)
    rows = configurations(manifest, cuts, names, intervals)
    contest = Contest(list(rows), progress)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vcut-latency-")))
        stack.callback(contest.close)
        sides = [*dict.fromkeys(row.side for row in rows), ROOFLINE]
        contest.open(job, sides, open_worker or (lambda job: Worker(asdict(job), job.threads)))
        first = contest.warm_up(options.warm_up, folder)
        turns = contest.take_turns(options.repeats)
        limit = contest.limit(ROOFLINE, options.repeats)
        psnr = {name: _psnr(folder, name) for name in turns if not (name.startswith(OURS) and lacking)}
    macs = roofline.macs_per_step(manifest) if limit else {}
    found = {}
    for row in rows:
        if row.name not in turns:
            found[row.name] = {"title": row.title, "skipped": contest.skipped[row.side]}
            continue
        found[row.name] = {
            "title": row.title,
            **_about(row),
            **contest.workers[row.side].facts,
            "first_video": first[row.name],
            "psnr": psnr.get(row.name),
            **summarize(turns[row.name]),
            **_share(manifest, row, turns[row.name], macs, limit),
        }
    _compare(found, turns, rows[0].name)
    return {
        "benchmark": "latency",
        **provenance("vcut bench latency"),
        "device": device(),
        **about(manifest),
        "tca": manifest.tca,
        "steps": manifest.steps,
        "cut_step": cuts[0],
        "cache_intervals": intervals,
        "backend": chosen,
        "threads": threads,
        "repeats": options.repeats,
        "warm_up": options.warm_up,
        "reference": None if ref is None else ref.describe(),
        "reference_weights": f"random: {lacking}" if lacking else "the bundle's",
        "roofline": {"macs_per_step": macs, "macs_per_second": limit, "skipped": contest.skipped.get(ROOFLINE)},
        "configurations": found,
    }


def configurations(
    manifest: Manifest, cut_steps: Sequence[CutStep], peers: Sequence[str], cache_intervals: Sequence[int] = ()
) -> list[Configuration]:
    """Return all rows of a result, ours first."""
    rows = []
    settings: list[tuple[CutStep, int]] = [(cut, 1) for cut in cut_steps]
    twice: list[CutStep] = [cut_steps[0]] if cut_steps[0] == "none" else [cut_steps[0], "none"]
    settings.extend((cut, interval) for interval in cache_intervals for cut in twice)
    for cut, interval in settings:
        what = "never cut" if cut == "none" else f"c={cut}"
        name = f"{OURS} c={setting_name(cut, interval)}"
        steps = steps_by_graph(manifest, cut, interval)
        if interval > 1:
            shallow = sum(count for graph, count in steps.items() if GRAPHS[graph].full)
            what += f", cache interval {interval}: {manifest.steps - shallow} full steps + {shallow} shallow"
        else:
            guided, rest = steps["semantic_binding"], steps["quality_improvement"]
            what += f": {guided} guided + {rest}" if rest else f": {guided} guided steps"
        rows.append(Configuration(name, f"{OURS}, {what}", OURS, {"cut_step": cut, "cache_interval": interval}))
    return [*rows, *(Configuration(name, PEERS[name].title, name, {}) for name in peers)]


def choose_peers(peers: str) -> list[str]:
    """Return the names of peers to run.

    Raises:
        UsageError: there is no such peer.
    """
    words = [word.strip() for word in peers.split(",") if word.strip()]
    if words == ["all"]:
        return list(PEERS)
    if words == ["none"]:
        return []
    if unknown := [word for word in words if word not in PEERS]:
        raise UsageError(f"unknown --peers {unknown[0]!r}: choose all, none, or from {', '.join(PEERS)}")
    return list(dict.fromkeys(words))


def device() -> str:
    """Return what computes: the GPU where there is one, else the CPU."""
    from vcut_runtime.backends.cuda import Cuda

    try:
        cuda = Cuda()
    except VcutError:
        return str(provenance("")["device"])
    return f"{cuda.name}, compute capability {cuda.compute_capability}, driver for CUDA {cuda.driver}"


def numbers(result: Mapping[str, Any]) -> list[Numbers]:
    """Return the step loops beside the peers, seconds by stage, peers beside like settings, and who was skipped."""
    rows = {name: row for name, row in result["configurations"].items() if "skipped" not in row}
    skipped = [[row["title"], row["skipped"]] for row in result["configurations"].values() if "skipped" in row]
    tables = [
        Numbers(
            "Step loop",
            ["", "step loop", "p95", "spread", "over diffusers", "range", "PSNR", "of the limit"],
            [_loop_cells(row) for row in rows.values()],
            "c is the cut step: the first step without guidance. Times are medians; the spread is the distance between "
            "the quartiles. Ratios compare the videos of one turn. PSNR compares the frames with those of diffusers. "
            "The limit is the fastest matrix product or convolution on this device.",
        ),
        Numbers(
            "Seconds by stage, and peak memory",
            ["", "condition", "guided", "cond.", "decode", "video", "guided step", "cond. step", "GB"],
            [_stage_cells(row) for row in rows.values()],
            "Peers that guide every step have no conditional steps. Memory is that of the GPU, or on a CPU of the "
            "process.",
        ),
    ]
    if pairs := _like_for_like(rows, result.get("cut_step")):
        tables.append(
            Numbers(
                "Like for like",
                ["peer", "PSNR", "slower by", "range", "than this setting", "PSNR"],
                pairs,
                "Peers that compute the video of diffusers are compared with vcut that never cuts. The other peers are "
                "compared with a setting that changes the video as much or less.",
            )
        )
    return [*tables, Numbers("Skipped", ["peer", "reason"], skipped)] if skipped else tables


def label(row: Mapping[str, Any]) -> str:
    """Return a configuration's title without its count of steps."""
    return str(row["title"]).split(":")[0]


def _loop_cells(row: Mapping[str, Any]) -> list[str]:
    loop, speedup, share = row["step_loop"], row.get("speedup_over_diffusers"), row.get("roofline_share")
    return [
        label(row),
        f"{loop['median']:.2f} s",
        f"{loop['p95']:.2f} s",
        f"{100 * loop['spread']:.0f} %",
        "" if speedup is None else f"{speedup['median']:.2f} x",
        "" if speedup is None else "{:.2f} to {:.2f}".format(*speedup["range"]),
        _decibels(row["psnr"]),
        "" if share is None else f"{100 * share:.0f} %",
    ]


def _stage_cells(row: Mapping[str, Any]) -> list[str]:
    medians = [row["stages"].get(stage, {}).get("median") for stage in STAGES]
    steps = [row["steps"].get(stage, {}).get("median") for stage in STAGES[1:3]]
    return [label(row), *(_short(value) for value in (*medians, row["video"]["median"], *steps, _memory(row) / 1e9))]


def _like_for_like(rows: Mapping[str, Any], cut_step: int | None) -> list[list[str]]:
    """Return each peer beside its counterpart of ours."""
    pairs = []
    for peer, setting in COUNTERPARTS.items():
        theirs, ours = rows.get(peer), rows.get(f"{OURS} c={setting or cut_step}")
        if theirs is not None and ours is not None:
            ratio = ratios(*(row["step_loop"]["values"] for row in (theirs, ours)))
            low, high = ratio["range"]
            times = [f"{ratio['median']:.2f} x", f"{low:.2f} to {high:.2f}"]
            pairs.append([label(theirs), _decibels(theirs["psnr"]), *times, label(ours), _decibels(ours["psnr"])])
    return pairs


def _decibels(psnr: float | None) -> str:
    return "" if psnr is None else "equal" if psnr >= 100 else f"{psnr:.1f} dB"


def _short(value: float | None) -> str:
    """Return a number in at most five characters."""
    if value is None:
        return ""
    return f"{value:.{3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0}f}"


@takes_options
def latency_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", show_default=False)],
    options: LatencyOptions,
    output: Annotated[Path | None, OUTPUT] = None,
    json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Time videos, stage by stage, in turns with diffusers, torch.compile, DeepCache, T-GATE and unfolded engines."""
    with progress_bars(quiet or json) as progress:
        result = measure(bundle, options, progress=progress)
    deliver(result, output, json)


def _memory(found: Mapping[str, Any]) -> int:
    """Return the peak of the device, or where there is none of the process."""
    return found["peak_device_memory_bytes"] or found["peak_host_memory_bytes"]


def _cuts(manifest: Manifest, cut_steps: Sequence[CutStep] | None) -> list[CutStep]:
    """Return the cut steps, the bundle's own first if it is among them."""
    never = manifest.steps + 1
    asked = [manifest.cut_step, "none"] if cut_steps is None else list(cut_steps)
    numbers = dict.fromkeys(check_cut_step(cut, manifest.steps) for cut in asked)
    if not numbers:
        raise UsageError("--cut-steps is empty: give some, such as none,10,17,20")
    return ["none" if cut == never else cut for cut in sorted(numbers, key=lambda cut: cut != manifest.cut_step)]


def _intervals(manifest: Manifest, cache_intervals: Sequence[int] | None) -> list[int]:
    """Cache intervals to time: 2 and 3 unless others are asked for, where the bundle has shallow steps."""
    if cache_intervals is None:
        return [2, 3] if manifest.deep_features else []
    found = distinct_intervals(cache_intervals)
    if found and not manifest.deep_features:
        raise UsageError("--cache-intervals needs a bundle with shallow steps: export it with --deep-cache")
    return found


def _about(row: Configuration) -> dict[str, Any]:
    if row.side == OURS:
        return {"cache_interval": row.options["cache_interval"]}
    peer = PEERS[row.side]
    return {"exact": peer.exact, "how": peer.how}


def _psnr(folder: Path, name: str) -> float | None:
    """PSNR of a configuration's frames against diffusers', where both are there."""
    from vcut_bench.metrics import psnr

    with suppress(OSError):
        return psnr(np.load(folder / f"{name}.npy"), np.load(folder / f"{BASELINE}.npy"))
    return None


def _share(
    manifest: Manifest,
    row: Configuration,
    turns: Sequence[Mapping[str, Any]],
    macs: Mapping[str, Any],
    limit: Mapping[str, float],
) -> dict[str, float]:
    """The share of the limit; not of peers that leave out work in some steps, which nobody counted."""
    network = "vcut" if row.side == OURS else "original"
    if row.side.startswith(("deepcache", "tgate")) or network not in macs or not limit:
        return {}
    steps: Mapping[str, int] = turns[0]["steps"]
    if row.side == OURS:
        steps = steps_by_graph(manifest, **row.options)
    seconds = statistics.median(step_loop(turn) for turn in turns)
    return {"roofline_share": roofline.share(macs[network], steps, seconds, max(limit.values()))}


def _compare(found: dict[str, Any], turns: Mapping[str, Sequence[Mapping[str, Any]]], ours: str) -> None:
    """Enter each configuration's ratios: over diffusers, and how much longer than our first it takes."""
    for key, base, inverse in (("speedup_over_diffusers", BASELINE, False), ("vcut_is_faster_by", ours, True)):
        for name in turns if base in turns else ():
            longer, shorter = (name, base) if inverse else (base, name)
            found[name][key] = ratios(map(step_loop, turns[longer]), map(step_loop, turns[shorter]))


def _usable_cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1
