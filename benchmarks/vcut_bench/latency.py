"""How long a video takes, stage by stage and step by step, beside the peers, and how far that is from the limit.

    vcut bench latency BUNDLE [--cut-steps none,10,17,20] [--cache-intervals 2,3] [--peers all] [--repeats 5]

Each side loads in a process of its own, see :mod:`vcut_bench.peer_process`. Then the configurations take turns, one
video each, and every turn begins with another one. So what slows the machine for a while slows all alike, and the
ratios of a turn compare neighbours in time. Videos before the first turn do not count. Peers get the same images,
latents, noise, threads and sizes. Two errors stand beside the times: PSNR to diffusers' own 25 steps, and PSNR to the
converged video of the bundle.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from vcut_bench import roofline
from vcut_bench.compiled import Progress, distinct_intervals, evaluations, parse_intervals, setting_name, steps_by_graph
from vcut_bench.peer_process import PeerProcess
from vcut_bench.peers import OURS, PEERS, ROOFLINE, PeerJob, choose_peers
from vcut_bench.provenance import about, provenance
from vcut_bench.reference import choose_reference
from vcut_bench.results import OUTPUT, deliver
from vcut_bench.takes import converged_schedule
from vcut_bench.turns import Configuration, Contest, ratios, step_loop, summarize
from vcut_bench.work import MOST_VIDEOS, find_images
from vcut_runtime import open_bundle
from vcut_runtime.backends import choose
from vcut_runtime.bundle.graph import GRAPHS
from vcut_runtime.bundle.manifest import Manifest
from vcut_runtime.command_options import MOST_THREADS, check_numbers, merge, option, takes_options
from vcut_runtime.errors import UsageError, VcutError
from vcut_runtime.host import usable_cpus
from vcut_runtime.schedule import FIXED_SCHEDULES, CutStep, check_cut_step, parse_cut_steps
from vcut_runtime.terminal import JSON, QUIET, progress_bars

BASELINE = "diffusers"


def parse_names(text: str) -> list[str]:
    """Return ``balanced,fast`` as a list; ``none`` is an empty one."""
    return [] if text.strip() == "none" else [word.strip() for word in text.split(",")]


@dataclass(frozen=True)
class LatencyOptions:
    """What is timed, and how.

    Raises:
        UsageError: a value is impossible for every bundle.
    """

    backend: str = option("auto", "Backend of vcut; as vcut run takes it.")
    cut_steps: Sequence[CutStep] | None = option(
        None,
        "Of vcut, such as none,10,17,20. Peers are compared with the first. [default: the bundle's, and none]",
        parse=parse_cut_steps,
    )
    cache_intervals: Sequence[int] | None = option(
        None,
        "Of vcut, such as 2,3, or none; never cut, and cut at the first cut step. "
        "[default: 2,3 if the bundle has shallow steps]",
        parse=parse_intervals,
    )
    peers: str = option("all", f"all, none, or from: {', '.join(PEERS)}.")
    repeats: int = option(5, "Videos of each that count.", least=1, most=MOST_VIDEOS)
    warm_up: int = option(1, "Videos of each that do not count.", least=1, most=MOST_VIDEOS, command=False)
    threads: int | None = option(None, "CPU threads of every side. [default: all]", least=1, most=MOST_THREADS)
    reference: str | None = option(
        None, "Checkpoint that the bundle was made from. [default: the bundle's, or random weights]"
    )
    schedules: Sequence[str] | None = option(
        None, "Of vcut, by name. [default: the bundle's, except those of the cut steps]", parse=parse_names
    )
    image: Path | None = option(
        None, "A photograph, or a folder of them: errors are means over all. [default: smooth random colours]"
    )

    def __post_init__(self) -> None:
        check_numbers(self)
        choose_peers(self.peers)


def measure(
    bundle: str | Path,
    options: LatencyOptions | None = None,
    *,
    progress: Progress = lambda stage, done, total: None,
    start: Callable[[PeerJob], Any] = PeerProcess,
    **fields: Any,
) -> dict[str, Any]:
    """Time videos of a bundle and of its peers, in turns. ``start`` opens a side.

    Returns:
        Provenance, ``roofline`` (MACs per second) and ``configurations`` by name: seconds of ``video``, ``step_loop``,
        each stage and a step of each stage (median, 95th percentile, spread and all values), peak memory in bytes,
        ``psnr`` against diffusers in dB (100 is equal), ``converged_psnr`` against the bundle's converged video, the
        ratios of each turn, ``roofline_share``; or ``skipped``.

    Raises:
        UsageError: an option is impossible, or the backend cannot run here.
        VcutError: the bundle's own side failed.
    """
    options = merge(LatencyOptions, options, fields)
    opened = open_bundle(bundle, hashes=False)
    manifest, backend = opened.manifest, choose(opened, options.backend).name
    cuts, intervals = _cut_steps(manifest, options.cut_steps), options.cache_intervals
    intervals = distinct_intervals(([2, 3] if manifest.deep_features else []) if intervals is None else intervals)
    schedules = _schedules(manifest, options.schedules)
    images = _images(options.image)
    peers, threads = choose_peers(options.peers), options.threads or usable_cpus()
    job = PeerJob(OURS, str(opened.root), backend, threads, cuts[0], options.reference, images)
    ref, lacking = choose_reference(manifest, options.reference) if peers else (None, None)
    rows = configurations(manifest, cuts, peers, intervals, schedules)
    videos = len(images) or 1
    converged = Configuration("converged", "", OURS, {"schedule": converged_schedule(manifest)})
    contest, limit = Contest(progress), Configuration(ROOFLINE, "", ROOFLINE)
    with closing(contest):
        contest.open(job, list(dict.fromkeys(row.side for row in [*rows, limit])), start)
        whole = contest.take_turns("converged", [converged], videos, videos, frames=True)["converged"]
        first = contest.take_turns("warm up", rows, max(options.warm_up, videos), videos, frames=True)
        turns = contest.take_turns("turns", rows, options.repeats, videos)
        products = contest.take_turns(ROOFLINE, [limit], options.repeats).get(ROOFLINE, [])
    measured = [answer["macs_per_second"] for answer, _ in products]
    limits = {name: max(rates[name] for rates in measured) for name in (measured[0] if measured else ())}
    macs = roofline.macs_per_step(manifest) if limits else {}
    loops = {name: [step_loop(video) for video, _ in videos] for name, videos in turns.items()}
    results: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.name not in turns:
            results[row.name] = {"title": row.title, "skipped": contest.skipped[row.side]}
            continue
        ours, timed = row.side == OURS, [video for video, _ in turns[row.name]]
        frames = [video for _, video in first[row.name]][:videos]
        theirs = [video for _, video in first.get(BASELINE, [])][:videos]
        results[row.name] = {
            "title": row.title,
            **({"cache_interval": row.options.get("cache_interval", 1)} if ours else {"exact": PEERS[row.side].exact}),
            **contest.processes[row.side].facts,
            "first_video": first[row.name][0][0]["video"],
            "psnr": _mean_psnr(frames, theirs) if theirs and not (ours and lacking) else None,
            "converged_psnr": None if lacking and not ours else _mean_psnr(frames, [video for _, video in whole]),
            **summarize(timed),
            **({"speedup_over_diffusers": ratios(loops[BASELINE], loops[row.name])} if BASELINE in loops else {}),
            "vcut_is_faster_by": ratios(loops[row.name], loops[rows[0].name]),
        }
        if limits and (ours or not PEERS[row.side].reuses):
            steps = steps_by_graph(manifest, **row.options) if ours else timed[0]["steps"]
            network, seconds = macs["vcut" if ours else "original"], results[row.name]["step_loop"]["median"]
            results[row.name]["roofline_share"] = roofline.share(network, steps, seconds, max(limits.values()))
    return {
        "benchmark": "latency",
        **provenance("vcut bench latency"),
        **_gpu(),
        **about(manifest),
        "tca": manifest.tca,
        "steps": manifest.steps,
        "cut_step": cuts[0],
        "cache_intervals": intervals,
        "schedules": schedules,
        "images": len(images),
        "backend": backend,
        "threads": threads,
        "repeats": options.repeats,
        "warm_up": options.warm_up,
        "reference": None if ref is None else ref.describe(),
        "reference_weights": f"random: {lacking}" if lacking else "the bundle's",
        "roofline": {"macs_per_step": macs, "macs_per_second": limits, "skipped": contest.skipped.get(ROOFLINE)},
        "configurations": results,
    }


def configurations(
    manifest: Manifest,
    cut_steps: Sequence[CutStep],
    peers: Sequence[str],
    cache_intervals: Sequence[int] = (),
    schedules: Sequence[str] = (),
) -> list[Configuration]:
    """Return all rows of a result, ours first.

    Raises:
        UsageError: the bundle cannot run with one of ``cache_intervals``.
    """
    rows = []
    twice: list[CutStep] = ["none"] if cut_steps[0] == "none" else [cut_steps[0], "none"]
    settings: list[tuple[CutStep, int]] = [(cut, 1) for cut in cut_steps]
    settings.extend((cut, interval) for interval in cache_intervals for cut in twice)
    for cut, interval in settings:
        steps = steps_by_graph(manifest, cut_step=cut, cache_interval=interval)
        shallow = sum(count for graph, count in steps.items() if GRAPHS[graph].full)
        guided, rest = steps["semantic_binding"], steps["quality_improvement"]
        title = f"{OURS}, " + ("never cut" if cut == "none" else f"c={cut}")
        if interval > 1:
            title += f", cache interval {interval}: {manifest.steps - shallow} full steps + {shallow} shallow"
        else:
            title += f": {guided} guided + {rest}" if rest else f": {guided} guided steps"
        options = {"cut_step": cut, "cache_interval": interval}
        rows.append(Configuration(f"{OURS} c={setting_name(cut, interval)}", title, OURS, options))
    for name in schedules:
        schedule = manifest.schedules[name]
        title = f"{OURS}, {name}: {len(schedule)} steps, {evaluations(schedule)} evaluations"
        rows.append(Configuration(f"{OURS} {name}", title, OURS, {"schedule": name}))
    return [*rows, *(Configuration(name, PEERS[name].title, name) for name in peers)]


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


def _cut_steps(manifest: Manifest, given: Sequence[CutStep] | None) -> list[CutStep]:
    """Return the cut steps, each once, the bundle's own first if it is among them."""
    asked = [manifest.cut_step, "none"] if given is None else given
    steps = dict.fromkeys(check_cut_step(cut, manifest.steps) for cut in asked)
    if not steps:
        raise UsageError("--cut-steps is empty: give some, such as none,10,17,20")
    ordered = sorted(steps, key=lambda cut: cut != manifest.cut_step)
    return ["none" if cut > manifest.steps else cut for cut in ordered]


def _schedules(manifest: Manifest, given: Sequence[str] | None) -> list[str]:
    """Return the named schedules to time, each once. Raises UsageError."""
    if given is None:
        return [name for name in manifest.schedules if name not in FIXED_SCHEDULES]
    if unknown := [name for name in given if name not in manifest.schedules]:
        raise UsageError(f"unknown --schedules {unknown[0]!r}: choose from {', '.join(manifest.schedules)}, or none")
    return list(dict.fromkeys(given))


def _images(given: Path | None) -> tuple[str, ...]:
    """Return the photographs."""
    if given is None:
        return ()
    return tuple(map(str, find_images(given) if given.is_dir() else [given]))


def _mean_psnr(videos: Sequence[Any], references: Sequence[Any]) -> float:
    """Return the mean PSNR in dB over photographs."""
    from vcut_bench.metrics import psnr

    return statistics.mean(psnr(*pair) for pair in zip(videos, references, strict=True))


def _gpu() -> dict[str, str]:
    """Return the device of a result if it is a GPU."""
    from vcut_runtime.backends.cuda import Cuda

    try:
        cuda = Cuda()
    except VcutError:
        return {}
    return {"device": f"{cuda.name}, compute capability {cuda.compute_capability}, driver for CUDA {cuda.driver}"}
