"""Kills workers and the front of a service under load, and checks that every job ends with its right video.

    cd tests && python -m drills.serving_kills BUNDLE PHOTO --jobs 40 --kills 20 [--front-kills 3] [--seed 0]

The service has two workers. A kill is SIGKILL at a random moment. Afterwards every job must be completed with the video
of a local run of its seed, there must be no other job, and no file that was only begun.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import httpx

from vcut_bench.service import Service, ended, form, open_jobs, serving
from vcut_runtime import Pipeline, VcutError
from videos import is_same_video

FILES = {"image", "request.json", "state.json", "video.mp4"}


def drill(
    service: Service, pipeline: Pipeline, image: bytes, *, jobs: int, kills: int, front_kills: int, seed: int
) -> list[str]:
    """Return what is wrong after the kills; nothing if all is well.

    Args:
        service: with two workers.
        pipeline: makes the right videos.
        image: the photograph's file.
        jobs: that are asked for at once.
        kills: of workers, at random moments while jobs are left.
        front_kills: of the process that holds the queue, likewise.
        seed: of the moments.
    """
    dice, faults = random.Random(seed), list[str]()
    before = {path.name for path in service.results.iterdir()}
    with service.client() as client:
        asked: dict[str, int] = {}
        for number in range(jobs):
            created = client.post("/v1/videos", **form(image, seed=str(number), steps="12"))
            asked[created.json()["id"]] = number
        targets = ["workers"] * kills + ["api"] * front_kills
        dice.shuffle(targets)
        for target in targets:
            time.sleep(dice.uniform(0.1, 1.5))
            os.kill(dice.choice(wait_for_replicas(service, target)), signal.SIGKILL)
        print(f"{len(targets)} kills, {count_open(client)} of {jobs} jobs left after the last one", file=sys.stderr)
        for job, number in asked.items():
            state = ended(client, job, 300)
            if state["status"] != "completed":
                faults.append(f"{job} is {state['status']}: {state['error']}")
                continue
            expected = BytesIO()
            pipeline(image, seed=number, num_inference_steps=12).save(expected, "mp4")
            if not is_same_video(client.get(f"/v1/videos/{job}/content").content, expected.getvalue()):
                faults.append(f"{job} has another video than a local run with its seed")
        wait_idle(client)
    folders = {path.name for path in service.results.iterdir()} - before
    if folders != set(asked):
        faults.append(f"{len(folders ^ set(asked))} jobs are too many or too few")
    for job in folders:
        files = {path.name for path in (service.results / job).iterdir()}
        if files != FILES:
            faults.append(f"{job} holds {sorted(files ^ FILES)}")
    return faults


def wait_for_replicas(service: Service, name: str) -> list[int]:
    """Return the processes of a deployment once there are any: those that were killed start again."""
    for _ in range(600):
        if processes := service.replicas(name):
            return processes
        time.sleep(0.1)
    raise AssertionError(f"no process of {name} starts")


def count_open(client: httpx.Client) -> int:
    """Return how many jobs wait or run, once the front answers."""
    for _ in range(600):
        try:
            return open_jobs(client)
        except (httpx.TransportError, VcutError):
            time.sleep(0.1)
    raise AssertionError("the front does not answer")


def wait_idle(client: httpx.Client) -> None:
    """Wait until no job is open."""
    for _ in range(600):
        if count_open(client) == 0:
            return
        time.sleep(0.1)
    raise AssertionError("jobs are still open")


def main() -> None:
    """Run the drill."""
    parser = argparse.ArgumentParser(description="Kill workers and the front of a service under load.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photo", type=Path)
    for name, default in (("jobs", 40), ("kills", 20), ("front-kills", 3), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    pipeline = Pipeline.load(given.bundle, "onnxruntime-cpu", threads=1)
    with tempfile.TemporaryDirectory() as folder, serving(given.bundle, Path(folder), "--queue", "100", workers=2) as s:
        image = given.photo.read_bytes()
        numbers = {"jobs": given.jobs, "kills": given.kills, "front_kills": given.front_kills, "seed": given.seed}
        faults = drill(s, pipeline, image, **numbers)
    print("\n".join(faults) or "all well")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
