"""Many photographs to videos: in this process, or on Ray with a pipeline in each worker.

A video is written whole or not at all, and its seed depends on its photograph's name. So a batch that was stopped goes
on where it was, and a photograph that is done twice gives the same video.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from vcut_runtime import BackendOptions, Pipeline, RunOptions, UsageError, VcutError, open_bundle
from vcut_runtime.bundle.claims import locked
from vcut_runtime.bundle.manifest import Manifest, encode
from vcut_runtime.errors import first_line
from vcut_runtime.run_plan import plan_run
from vcut_runtime.video import PARTIAL, check_output
from vcut_serving.photos import Photo

_IDENTITY = "vcut-batch.json"  # in the folder of the videos: what they are made with
Outcome = Literal["made", "kept", "failed"]


@dataclass(frozen=True)
class Job:
    """What a worker needs to make any video of a batch."""

    bundle: str
    backend: str
    backend_options: BackendOptions
    options: RunOptions
    quality: int


@dataclass(frozen=True)
class Result:
    """What became of one photograph.

    Attributes:
        image: its path.
        output: the video's path.
        seed: of the video, to make it again with ``vcut run --seed``.
        outcome: ``made``, ``kept`` from an earlier run, or ``failed``.
        error: why it failed, on one line; empty if it did not.
        seconds: that it took.
        notes: what a user should know, such as that the photograph was stretched.
    """

    image: str
    output: str
    seed: int
    outcome: Outcome
    error: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


class Maker:
    """Makes videos of a batch with one pipeline, which is loaded at the first photograph."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._pipeline: Pipeline | None = None

    def make(self, photo: Photo) -> Result:
        """Make one video. A photograph that cannot be read is a result too.

        Raises:
            VcutError: the bundle cannot run here, so no video of the batch can be made.
        """
        result = Result(str(photo.path), str(photo.output), photo.seed, "made")
        if is_whole(photo.output):
            return replace(result, outcome="kept")
        if self._pipeline is None:
            self._pipeline = Pipeline.load(self.job.bundle, self.job.backend, self.job.backend_options)
        start = time.perf_counter()
        try:
            video = self._pipeline(photo.path, self.job.options, seed=photo.seed)
            video.save(photo.output, quality=self.job.quality)
        except VcutError as error:
            return replace(result, outcome="failed", error=str(error))
        except Exception as error:  # of one photograph: the others go on
            return replace(result, outcome="failed", error=f"{type(error).__name__}: {first_line(error)}")
        return replace(result, seconds=round(time.perf_counter() - start, 3), notes=video.notes)


def is_whole(path: Path) -> bool:
    """Tell whether a video is there and can be read to its end. Videos appear whole; a copy of one may not."""
    try:
        if path.stat().st_size == 0:
            return False
        if path.suffix.lower() != ".mp4":
            return True
        import av

        with av.open(str(path)) as container:
            return sum(packet.size > 0 for packet in container.demux(video=0)) == container.streams.video[0].frames
    except Exception:  # FFmpeg's errors are of many kinds
        return False


def check_batch(job: Job, photos: Sequence[Photo], output: Path, seed: int) -> Manifest:
    """Check what can be checked before the work, and mark the folder of the videos with what they are made with.

    Raises:
        UsageError: an option does not fit the bundle, or the folder holds videos of other options or another bundle.
        BundleError: the bundle is damaged.
    """
    manifest = open_bundle(job.bundle, hashes=False).manifest
    plan_run(manifest, job.options)
    for photo in photos:
        check_output(photo.output)
    identity = {
        "bundle": msgspec.json.decode(encode(manifest))["graphs"],
        "options": msgspec.to_builtins(job.options),
        "quality": job.quality,
        "seed": seed,
    }
    path = output / _IDENTITY
    try:
        kept = msgspec.json.decode(path.read_bytes()) if path.exists() else None
    except (OSError, ValueError):
        raise UsageError(f"{path} cannot be read: give a new folder") from None
    if kept is not None and kept != msgspec.json.decode(msgspec.json.encode(identity)):
        changed = next(key for key, value in identity.items() if kept.get(key) != value)
        raise UsageError(f"{output} holds videos of another {changed.rstrip('s')}: give a new folder with --output")
    try:
        output.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(identity)))
    except OSError as error:
        raise UsageError(f"cannot write {path} ({error.strerror or error}): give another folder") from None
    return manifest


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Keep other batches out of the folder of the videos, and remove what killed ones had begun there.

    Raises:
        UsageError: another batch runs there.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(output, wait=False))
        except BlockingIOError:
            raise UsageError(f"another batch writes to {output}: wait for its end, or give another folder") from None
        for folder in output.rglob(f"{PARTIAL}*"):
            shutil.rmtree(folder, ignore_errors=True)
        yield


def run_here(job: Job, photos: Sequence[Photo]) -> Iterator[Result]:
    """Make the videos in this process, one after the other."""
    maker = Maker(job)
    for photo in photos:
        yield maker.make(photo)


def summary(results: Sequence[Result], seconds: float) -> dict[str, Any]:
    """Return the counts of a batch, its failures by cause, and every result, for machines."""
    outcomes = Counter(result.outcome for result in results)
    causes = Counter(_cause(result) for result in results if result.outcome == "failed")
    return {
        "made": outcomes["made"],
        "kept": outcomes["kept"],
        "failed": outcomes["failed"],
        "causes": dict(causes.most_common()),
        "seconds": round(seconds, 1),
        "results": [asdict(result) for result in results],
    }


def _cause(result: Result) -> str:
    """Return the error without the name of the photograph."""
    return result.error.replace(result.image, "the photograph")
