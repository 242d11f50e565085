"""The service in this process: the API, what it refuses, the queue, progress, cancelling, and jobs that survive."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from photographs import png
from service_here import in_thread
from vcut_runtime import Pipeline, RunOptions, open_bundle
from vcut_serving.app import build_app
from vcut_serving.queue import RunJob
from vcut_serving.settings import Settings
from vcut_serving.store import JobStore, Request, State, new_id
from vcut_serving.worker import Worker
from videos import is_same_video


@asynccontextmanager
async def serving(
    bundle: Path, results: Path, run_job: RunJob | None = None, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a service that keeps its jobs in ``results``."""
    run_job = run_job or in_thread(Worker(str(bundle), str(results), "onnxruntime-cpu"))
    app = build_app(open_bundle(bundle).manifest, Settings(str(results), **settings), run_job)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://vcut", timeout=60) as client:
            yield client


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(work())  # pyright: ignore[reportArgumentType]


async def ended(client: httpx.AsyncClient, job: str) -> dict[str, Any]:
    for _ in range(600):
        state = (await client.get(f"/v1/videos/{job}")).json()
        if state["status"] in ("completed", "failed", "cancelled"):
            return state
        await asyncio.sleep(0.05)
    raise AssertionError(f"{job} does not end")


def form(photo: Image.Image, **fields: Any) -> dict[str, Any]:
    return {"files": {"input_reference": ("p.png", png(photo), "image/png")}, "data": fields}


def test_a_video_is_that_of_a_local_run(small_bundle: Path, tmp_path: Path, photo: Image.Image) -> None:
    async def work() -> None:
        async with serving(small_bundle, tmp_path / "r") as client:
            created = await client.post("/v1/videos", **form(photo, seed="5", motion_bucket_id="64", prompt="a cat"))
            job = created.json()
            assert (created.status_code, job["object"], job["status"], job["seed"]) == (200, "video", "queued", 5)
            assert "SVD has no text input: prompt was ignored" in job["notes"]
            state = await ended(client, job["id"])
            assert (state["status"], state["progress"], state["error"]) == ("completed", 100, None)
            content = await client.get(f"/v1/videos/{job['id']}/content")
            assert content.headers["content-type"] == "video/mp4"
            assert content.headers["x-seed"] == "5"
            listed = (await client.get("/v1/videos")).json()
            assert [item["id"] for item in listed["data"]] == [job["id"]]
            local = io.BytesIO()
            pipeline = Pipeline.load(small_bundle, "onnxruntime-cpu")
            pipeline(png(photo), seed=5, motion_bucket_id=64).save(local, "mp4")
            assert is_same_video(content.content, local.getvalue())
            assert (await client.delete(f"/v1/videos/{job['id']}")).json()["deleted"] is True
            assert (await client.get(f"/v1/videos/{job['id']}")).status_code == 404
            assert list((tmp_path / "r").glob("video_*")) == []

    run(work)


def test_json_waiting_and_events(small_bundle: Path, tmp_path: Path, photo: Image.Image) -> None:
    async def work() -> None:
        async with serving(small_bundle, tmp_path / "r") as client:
            image = base64.b64encode(png(photo)).decode()
            body = {
                "input_reference": {"image_url": f"data:image/png;base64,{image}"},
                "seed": 5,
                "motion_bucket_id": 64,
            }
            waited = await client.post("/v1/videos/sync", json=body)
            assert waited.status_code == 200
            job = (await client.post("/v1/videos", json=body)).json()["id"]
            events = (await client.get(f"/v1/videos/{job}/events")).text.strip().split("\n\n")
            states = [json.loads(event.partition("data: ")[2]) for event in events]
            assert events[-1].startswith("event: completed")
            progress = [state["progress"] for state in states]
            assert progress == sorted(progress)
            assert progress[-1] == 100
            content = (await client.get(f"/v1/videos/{job}/content")).content
            assert content == waited.content
            metrics = (await client.get("/metrics")).text
            assert 'vcut_jobs_total{outcome="completed"} 2.0' in metrics
            assert 'vcut_stage_seconds_count{stage="decode"} 2.0' in metrics

    run(work)


REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("nothing", {"data": {"seed": "1"}}, 400, "the content type is 'application/x-www-form-urlencoded'"),
    ("no photo", {"files": {"other": ("a", b"a")}}, 400, "there is no photograph"),
    ("bad JSON", {"content": b"{", "headers": {"content-type": "application/json"}}, 400, "the body is not JSON"),
    ("deep JSON", {"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 400, "not JSON"),
    ("a list", {"json": [1]}, 400, "the body is no object"),
    ("a number", {"json": {"input_reference": 5}}, 400, "input_reference is no text"),
    ("a URL", {"json": {"input_reference": "http://127.0.0.1/x.png"}}, 400, "this server fetches nothing"),
    ("a file", {"json": {"input_reference": "file:///etc/passwd"}}, 400, "this server fetches nothing"),
    ("not base64", {"json": {"input_reference": "///###"}}, 400, "input_reference is not base64"),
    ("not an image", {"files": {"input_reference": ("a", b"no image")}}, 400, "is not an image that vcut reads"),
    ("no boundary", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "cannot be read"),
    ("text", {"content": b"x", "headers": {"content-type": "text/plain"}}, 400, "the content type is 'text/plain'"),
]
OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"seed": "-1"}, "seed is -1: give at least 0"),
    ({"seed": "9" * 30}, "seed is"),
    ({"seed": "nan"}, "seed is nan"),
    ({"fps": "1e39"}, "fps is"),
    ({"motion_bucket_id": "inf"}, "motion_bucket_id is inf: give a finite number"),
    ({"steps": "100000000"}, "num_inference_steps is 100000000: give at most"),
    ({"schedule": "quick"}, "unknown schedule 'quick'"),
    ({"fit": "zoom"}, "unknown fit 'zoom'"),
    ({"size": "64"}, "give WIDTHxHEIGHT"),
    ({"size": "640x480"}, "this bundle makes"),
    ({"model": "sora-2"}, "this server has"),
    ({"latent": "1"}, "unknown option 'latent'"),
    ({"sigmas": "1,2,3"}, "sigmas"),
    ({"guidance": "[object Object]"}, "guidance"),
]


def hostile_images(photo: Image.Image) -> list[tuple[str, bytes]]:
    """Files that are no photographs, or claim to be huge."""
    whole = png(photo)
    huge = bytearray(whole)
    huge[16:24] = (100_000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    return [
        ("cut off", whole[: len(whole) // 2]),
        ("a header of 10 gigapixels", bytes(huge)),
        ("a PNG of no size", whole[:16] + b"\0" * 8 + whole[24:]),
        ("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"),
        ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"),
        ("a program", b"\x7fELF" + b"\0" * 100),
        ("a pickle", b"cos\nsystem\n(S'true'\ntR."),
        ("empty", b""),
    ]


def test_what_is_malformed_costs_one_line(small_bundle: Path, tmp_path: Path, photo: Image.Image) -> None:
    async def work() -> None:
        async with serving(small_bundle, tmp_path / "r", most_bytes=1 << 20, most_pixels=10_000) as client:
            cases = [(name, given, status, says) for name, given, status, says in REFUSED]
            cases += [(str(values), form(photo, **values), 400, says) for values, says in OPTIONS]
            big = {"files": {"input_reference": ("a", b"\0" * (2 << 20))}}
            wide = {"files": {"input_reference": ("a", png(photo, (200, 100)))}}
            cases += [("bytes", big, 413, "the body has more"), ("pixels", wide, 413, "more than 0.01 megapixels")]
            for name, image in hostile_images(photo):
                status = 413 if "giga" in name else 400
                cases.append((name, {"files": {"input_reference": ("../../p.png", image)}}, status, ""))
            cases += [(f.name, form(photo, **{f.name: "\u0000{}"}), 400, "") for f in fields(RunOptions)]
            asked = 0
            for name, given, status, says in cases:
                for path in ("/v1/videos", "/v1/videos/sync"):
                    answer = await client.post(path, **given)
                    message = answer.json()["error"]["message"]
                    assert (answer.status_code, says in message) == (status, True), (name, message)
                    assert message
                    assert "\n" not in message
                    assert "Traceback" not in message
                    asked += 1
            assert asked > 100
            for name in ("..%2f..%2fetc", "video_x", "video_" + "0" * 32, "video_" + "A" * 32, "%00", "a" * 5000):
                for tail in ("", "/content", "/events"):
                    assert (await client.get(f"/v1/videos/{name}{tail}")).status_code == 404, name
                assert (await client.delete(f"/v1/videos/{name}")).status_code == 404
            assert list((tmp_path / "r").glob("video_*")) == []
            assert (await client.get("/health")).json() == {"status": "ok"}

    run(work)


def test_a_full_queue_answers_429(small_bundle: Path, tmp_path: Path, photo: Image.Image) -> None:
    async def work() -> None:
        go_on = asyncio.Event()

        async def wait(job: str) -> None:
            await go_on.wait()

        async with serving(small_bundle, tmp_path / "r", wait, queue=2) as client:
            answers = [await client.post("/v1/videos", **form(photo)) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
            assert answers[-1].headers["retry-after"] == "5"
            assert (await client.post("/v1/videos", json={})).status_code == 429  # before its body is read
            go_on.set()
            await asyncio.sleep(0.1)
            assert (await client.post("/v1/videos", **form(photo))).status_code == 200

    run(work)


def test_a_deleted_video_frees_its_worker(small_bundle: Path, tmp_path: Path, photo: Image.Image) -> None:
    async def work() -> None:
        async with serving(small_bundle, tmp_path / "r") as client:
            long = (await client.post("/v1/videos", **form(photo, steps="1000", cut_step="none"))).json()["id"]
            while (await client.get(f"/v1/videos/{long}")).json()["status"] == "queued":
                await asyncio.sleep(0.05)
            start = time.monotonic()
            assert (await client.get(f"/v1/videos/{long}/content")).status_code == 409
            await client.delete(f"/v1/videos/{long}")
            short = (await client.post("/v1/videos", **form(photo))).json()["id"]
            assert (await ended(client, short))["status"] == "completed"
            assert time.monotonic() - start < 20  # a thousand steps take minutes
            assert 'vcut_jobs_total{outcome="deleted"} 1.0' in (await client.get("/metrics")).text

    run(work)


def test_a_client_that_goes_away_while_its_job_is_kept_leaves_none(
    small_bundle: Path, tmp_path: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, kept = JobStore.create, list[str]()

    def create_slowly(self: JobStore, request: Request, image: bytes) -> None:
        time.sleep(0.5)
        create(self, request, image)
        kept.append(request.id)

    monkeypatch.setattr(JobStore, "create", create_slowly)

    async def work() -> None:
        async with serving(small_bundle, tmp_path / "r") as client:
            for path in ("/v1/videos", "/v1/videos/sync"):
                asking = asyncio.create_task(client.post(path, **form(photo, steps="1000", cut_step="none")))
                await asyncio.sleep(0.3)
                asking.cancel()
                await asyncio.sleep(2)
            assert len(kept) == 2
            for _ in range(100):
                if not list((tmp_path / "r").glob("video_*")):
                    return
                await asyncio.sleep(0.1)
            raise AssertionError("the jobs are still there")

    run(work)


def test_a_job_is_no_part_of_the_request_that_asked_for_it(small_bundle: Path, tmp_path: Path, photo: Any) -> None:
    """Ray Serve cancels calls that a request has made, which it knows by a context variable."""
    request, seen = ContextVar("request", default="none"), list[str]()

    async def run_job(job: str) -> None:
        seen.append(request.get())

    async def work() -> None:
        async with serving(small_bundle, tmp_path / "r", run_job) as client:
            request.set("the client's")
            assert (await client.post("/v1/videos", **form(photo))).status_code == 200
            while not seen:
                await asyncio.sleep(0.01)

    run(work)
    assert seen == ["none"]


def test_the_key(small_bundle: Path, tmp_path: Path, photo: Image.Image) -> None:
    async def work() -> None:
        async with serving(small_bundle, tmp_path / "r", api_key="geheim") as client:
            assert (await client.post("/v1/videos", **form(photo))).status_code == 401
            for name, key, status in (
                ("Authorization", b"Bearer wrong", 401),
                ("Authorization", "Bearer gehéim".encode(), 401),
                ("Authorization", b"Bearer geheim", 200),
                ("X-API-Key", b"geheim", 200),
            ):
                assert (await client.get("/v1/models", headers={name.encode(): key})).status_code == status
            assert (await client.get("/health")).status_code == 200

    run(work)


def test_expired_videos_go_even_if_the_folder_did_not_answer_before(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = JobStore(str(tmp_path / "r"))
    old = Request(new_id(), time.time() - 100, seed=0)
    store.create(old, b"")
    store.set_state(old.id, State("failed", finished=time.time() - 50))
    sweep, calls = JobStore.sweep, list[int]()

    def fails_first(self: JobStore) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("no answer")
        sweep(self)

    monkeypatch.setattr(JobStore, "sweep", fails_first)
    monkeypatch.setattr("vcut_serving.app._SWEEP_EVERY", 0.1)

    async def work() -> None:
        async with serving(small_bundle, tmp_path / "r", expiry=10) as client:
            for _ in range(100):
                if (await client.get(f"/v1/videos/{old.id}")).status_code == 404:
                    return
                await asyncio.sleep(0.1)
            raise AssertionError("the expired video is still there")

    run(work)
    assert "expired videos were not deleted (no answer): trying again in 0.1 s" in caplog.text


def test_jobs_outlive_the_service_and_its_workers(small_bundle: Path, tmp_path: Path, photo: Image.Image) -> None:
    """Jobs of a killed process are run by the next one; a worker that dies costs an attempt."""
    store = JobStore(str(tmp_path / "r"))
    jobs = [Request(new_id(), time.time() + i, seed=i) for i in range(3)]
    for job in jobs:
        store.create(job, png(photo))
    store.set_state(jobs[1].id, State("in_progress", 50, started=time.time()))
    store.set_state(jobs[2].id, State("failed", error="before", finished=time.time()))
    worker, died = Worker(str(small_bundle), str(tmp_path / "r"), "onnxruntime-cpu"), []

    async def dies_first(job: str) -> None:
        if job not in died:
            died.append(job)
            raise RuntimeError("the actor died")
        await asyncio.to_thread(worker.run, job)

    async def work() -> None:
        async with serving(small_bundle, tmp_path / "r", dies_first) as client:
            for job in jobs[:2]:
                assert (await ended(client, job.id))["status"] == "completed"
            assert (await ended(client, jobs[2].id))["error"]["message"] == "before"
            assert died == [job.id for job in jobs[:2]]
            assert "vcut_retries_total 2.0" in (await client.get("/metrics")).text

    run(work)


def test_finished_jobs_expire(small_bundle: Path, tmp_path: Path, photo: Image.Image) -> None:
    store = JobStore(str(tmp_path / "r"))
    old, new = Request(new_id(), 0.0, seed=0), Request(new_id(), 0.0, seed=0)
    for job, finished in ((old, time.time() - 100), (new, time.time())):
        store.create(job, b"photo")
        store.set_state(job.id, State("completed", 100, finished=finished))

    async def work() -> None:
        async with serving(small_bundle, tmp_path / "r", expiry=50.0) as client:
            await asyncio.sleep(0.2)
            assert [job["id"] for job in (await client.get("/v1/videos")).json()["data"]] == [new.id]

    run(work)


def test_the_description_lists_every_option(small_bundle: Path, tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(small_bundle, tmp_path / "r") as client:
            api = (await client.get("/openapi.json")).json()
            body = api["paths"]["/v1/videos"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
            fields = body["properties"]
            assert {"input_reference", "seed", "schedule", "fit", "motion_bucket_id", "size"} <= set(fields)
            assert fields["fit"]["enum"] == ["stretch", "crop", "pad", "blur"]
            assert all(field["description"] for field in fields.values())
            for page in ("/", "/page.js", "/page.css", "/docs", "/docs.js"):
                text = (await client.get(page)).text
                assert "http://" not in text.replace("http://www.w3.org", "")
                assert "https://" not in text

    run(work)
