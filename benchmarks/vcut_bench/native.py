"""The C++ runtime beside the Python runtime: seconds to the first step, of the step loop, and memory of many videos.

    python -m vcut_bench.native BUNDLE PHOTO --program runtime/cpp/build/release/tests/vcut_timings [--json results/...]

Both make the same videos on ONNX Runtime's CPU with one thread, each in processes of its own, in turns.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vcut_bench.numbers import Numbers
from vcut_bench.provenance import provenance
from vcut_bench.results import deliver
from vcut_bench.turns import ratios, statistics_of
from vcut_runtime import open_bundle
from vcut_runtime.errors import VcutError, last_line

TURNS, VIDEOS, THREADS = 5, 2, 1
_PYTHON = """
import sys
from vcut_runtime import Pipeline
bundle, photo, threads, videos = sys.argv[1:]
pipeline, told = Pipeline.load(bundle, "onnxruntime-cpu", threads=int(threads)), []
def progress(stage, done, total):
    if not told and done and stage != "condition":
        told.append(True)
        print("step", flush=True)
for seed in range(int(videos)):
    seconds = pipeline(photo, fit="crop", seed=seed, progress=progress).timings
    resident = int(open("/proc/self/statm").read().split()[1]) * 4096
    print(seconds["semantic_binding"] + seconds["quality_improvement"], resident, flush=True)
"""


def time_process(command: Sequence[str]) -> dict[str, Any]:
    """Run a side once and return seconds to its first step, of its step loops, and its memory after each video.

    Raises:
        VcutError: it failed.
    """
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        to_first_step = time.perf_counter() - start
        rows = [line.split() for line in process.stdout]
        complaint = process.stderr.read()
    if process.returncode or first != "step\n":
        raise VcutError(f"{command[0]} failed ({last_line(Exception(complaint))}): build it with 'make cpp-library'")
    return {
        "first_step": to_first_step,
        "step_loops": [float(seconds) for seconds, _ in rows],
        "memory": [int(resident) for _, resident in rows],
    }


def measure(bundle: Path, photo: Path, program: Path, many: int = 0, small: Path | None = None) -> dict[str, Any]:
    """Measure both sides in turns, then the memory of ``many`` videos of the bundle ``small`` in C++."""
    manifest = open_bundle(bundle, hashes=False).manifest
    arguments = [str(bundle), str(photo), str(THREADS)]
    sides = {"C++": [str(program.resolve())], "Python": [sys.executable, "-c", _PYTHON]}
    for command in sides.values():  # files come into the system's cache
        time_process([*command, *arguments, "1"])
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for turn in range(TURNS):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            turns[name].append(time_process([*sides[name], *arguments, str(VIDEOS)]))

    def of(name: str, what: str) -> list[float]:
        return [min(turn[what]) if what == "step_loops" else turn[what] for turn in turns[name]]

    words = [str(small or bundle), *arguments[1:], str(many)]
    memory = time_process([*sides["C++"], *words])["memory"] if many else []
    return {
        "benchmark": "native",
        **provenance("vcut_bench.native"),
        "model": manifest.model.id,
        "precision": manifest.precision,
        "shape": {"frames": manifest.frames, "height": manifest.height, "width": manifest.width},
        "threads": THREADS,
        "sides": {
            name: {what: statistics_of(of(name, what)) for what in ("first_step", "step_loops")} for name in sides
        },
        "ratios": {what: ratios(of("Python", what), of("C++", what)) for what in ("first_step", "step_loops")},
        "memory": {"videos": many, "after_tenth": memory[len(memory) // 10], "last": memory[-1]} if memory else None,
    }


def numbers(result: Mapping[str, Any]) -> list[Numbers]:
    """Return the times of both sides, and what many videos do to the memory."""
    titles = {"first_step": "start to first step", "step_loops": "step loop"}
    rows = []
    for what, title in titles.items():
        seconds = [f"{result['sides'][name][what]['median']:.3f} s" for name in ("Python", "C++")]
        rows.append([title, *seconds, f"{result['ratios'][what]['median']:.2f} x"])
    memory = result["memory"]
    note = "Medians of processes in turns; the step loop is the faster of two videos."
    if memory:
        early, late = (memory[key] / 1e6 for key in ("after_tenth", "last"))
        note += f" {memory['videos']} videos in C++: {early:.0f} MB after a tenth of them, {late:.0f} MB at the end."
    return [Numbers("C++ beside Python", ["", "Python", "C++", "Python over C++"], rows, note)]


def main(
    bundle: Annotated[Path, typer.Argument(help="A bundle for the CPU.")],
    photo: Annotated[Path, typer.Argument(help="A JPEG or PNG file.")],
    program: Annotated[Path, typer.Option(help="vcut_timings, which 'make cpp-library' builds.")],
    many: Annotated[int, typer.Option(help="Videos in a row for the memory; 0 leaves that out.")] = 0,
    small: Annotated[Path | None, typer.Option(help="Bundle of these videos, of a small model.")] = None,
    output: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Measure the C++ runtime beside the Python runtime."""
    deliver(measure(bundle, photo, program, many, small), output, json=True)


if __name__ == "__main__":
    typer.run(main)
