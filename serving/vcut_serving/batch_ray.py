"""A batch on Ray Data: one actor with a pipeline on each GPU, or on each share of a machine's cores."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from vcut_serving.batch import Job, Maker, Result
from vcut_serving.photos import Photo

_MOST_BLOCKS = 2000  # pieces of work that Ray keeps apart; what a killed actor had begun of one is done again


class _Actor:
    """A :class:`~vcut_serving.batch.Maker` as Ray Data calls it: rows of columns in, rows of columns out.

    Args:
        job: as msgpack. Ray keeps objects in its store, which an actor that starts again may not find there.
    """

    def __init__(self, job: bytes) -> None:
        self.maker = Maker(msgspec.msgpack.decode(job, type=Job))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        photo = Photo(Path(row["path"]), Path(row["output"]), int(row["seed"]))
        return asdict(self.maker.make(photo))


def run_on_ray(ray: Any, job: Job, photos: Sequence[Photo], workers: int, gpus: int) -> Iterator[Result]:
    """Make the videos on a connected Ray; results come as they are made, in any order.

    Photographs, bundle and output must lie on paths that every machine of the cluster sees. A killed actor is started
    again, and its photographs are done again: their seeds make the same videos.

    Args:
        ray: the connected module.
        job: what to make.
        photos: all photographs.
        workers: actors.
        gpus: of each actor, 0 or 1.

    Raises:
        VcutError: the bundle cannot run in a worker.
    """
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = 0
    # Absolute: a worker's folder is another one.
    items = [{"path": str(p.path.resolve()), "output": str(p.output.resolve()), "seed": p.seed} for p in photos]
    names = {item["output"]: photo for item, photo in zip(items, photos, strict=True)}
    data = ray.data.from_items(items, override_num_blocks=min(len(items), _MOST_BLOCKS))
    made = data.map(
        _Actor,
        fn_constructor_args=(msgspec.msgpack.encode(job),),
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(items))),
        num_gpus=gpus,
        num_cpus=1,
    )
    for row in made.iter_rows():
        photo = names[row["output"]]
        given = {"image": str(photo.path), "output": str(photo.output), "notes": tuple(row["notes"])}
        yield Result(**{**row, **given})
