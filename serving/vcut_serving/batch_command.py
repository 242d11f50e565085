"""``vcut batch``: parse, run, print."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vcut_runtime import BackendOptions, Manifest, RunOptions, UsageError, VcutError
from vcut_runtime.backends import BACKENDS
from vcut_runtime.command_options import MOST_THREADS, takes_options
from vcut_runtime.host import usable_cpus
from vcut_runtime.terminal import JSON, QUIET, print_json, progress_bars, say
from vcut_runtime.video import QUALITY, check_quality
from vcut_serving.batch import Job, Result, alone, check_batch, run_here, summary
from vcut_serving.devices import gpus_here, gpus_of_worker, runs_on_gpu
from vcut_serving.photos import Photo, list_photos

_SHOWN = 10  # failures that are printed one by one


@takes_options
def batch_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", show_default=False)],
    photos: Annotated[list[Path], typer.Argument(help="Photographs, and folders of them.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the videos.", show_default=False)],
    options: RunOptions,
    backend_options: BackendOptions,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Pipelines at a time. 1 without --ray runs in this process, more run on Ray. "
            "[default: one on each GPU, or 1]"
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Ray cluster to run on, such as auto or ray://host:10001. Its machines must see the same paths. "
            "[default: this machine]",
        ),
    ] = None,
    suffix: Annotated[str, typer.Option("--format", help="Of the videos: mp4, gif or webp.")] = "mp4",
    backend: Annotated[str, typer.Option(help=f"{', '.join(BACKENDS)}, or auto.")] = "auto",
    quality: Annotated[int, typer.Option(help="Of an MP4 or WebP, 1 to 100, where the file is largest.")] = QUALITY,
    json: Annotated[bool, JSON] = False,
    quiet: Annotated[bool, QUIET] = False,
) -> None:
    """Turn many photographs into videos. A second call makes what is missing.

    The seed of each video follows from its photograph's name and --seed (0 by default). A photograph that cannot be
    read costs a line in the summary.
    """
    check_quality(quality)
    if workers is not None and not 1 <= workers <= MOST_THREADS:
        raise UsageError(f"workers is {workers}: give 1 to {MOST_THREADS}")
    seed = 0 if options.seed is None else options.seed
    todo = list_photos(photos, output, f".{suffix.removeprefix('.')}", seed)
    job = Job(str(bundle.resolve()), backend, backend_options, replace(options, seed=None), quality)
    manifest = check_batch(job, todo, output, seed)
    start, results = time.perf_counter(), list[Result]()
    with alone(output), progress_bars(quiet or json) as progress:
        progress("photographs", 0, len(todo))
        for result in _run(job, manifest, todo, workers, ray):
            results.append(result)
            progress("photographs", len(results), len(todo))
    facts = summary(results, time.perf_counter() - start)
    if json:
        print_json(facts)
    elif not quiet:
        say(f"{output}: {facts['made']} made, {facts['kept']} kept, {facts['failed']} failed, {facts['seconds']} s")
    failures = [result for result in results if result.outcome == "failed"]
    if failures:
        if not json:
            for result in failures[:_SHOWN]:
                say(f"{result.image}: {result.error}")
        raise VcutError(f"{len(failures)} of {len(results)} photographs failed: mend them and run the command again")


def _run(
    job: Job, manifest: Manifest, photos: list[Photo], workers: int | None, address: str | None
) -> Iterator[Result]:
    if address is None and workers is None:
        workers = max(1, gpus_here()) if runs_on_gpu(manifest, job.backend) else 1
    if address is None and workers == 1:
        yield from run_here(job, photos)
        return
    from vcut_serving.batch_ray import run_on_ray
    from vcut_serving.ray_cluster import connected

    with connected(address) as ray:
        resources = ray.cluster_resources()
        gpus = gpus_of_worker(manifest, job.backend, resources.get("GPU", 0))
        if workers is None:
            workers = max(1, int(resources.get("GPU", 0) if gpus else resources.get("CPU", 1)))
        if not gpus and job.backend_options.threads is None:  # each worker has its share of the cores
            threads = max(1, usable_cpus() // workers)
            job = replace(job, backend_options=replace(job.backend_options, threads=threads))
        yield from run_on_ray(ray, job, photos, workers, gpus)
