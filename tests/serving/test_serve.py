"""``vcut serve`` on a real Ray, over real HTTP."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from commands import run_here
from drills.serving_kills import drill, wait_idle
from photographs import png
from service_here import listening
from vcut_bench.service import Service, ended, form, serving
from vcut_runtime import Pipeline
from vcut_runtime.cli import main
from videos import is_same_video


@pytest.fixture(scope="module")
def service(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(small_bundle, tmp_path_factory.mktemp("serve"), "--queue", "50", workers=2) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


@pytest.fixture(scope="module")
def pipeline(small_bundle: Path) -> Pipeline:
    return Pipeline.load(small_bundle, "onnxruntime-cpu", threads=1)


def local(pipeline: Pipeline, image: bytes, **options: Any) -> bytes:
    file = BytesIO()
    pipeline(image, **options).save(file, "mp4")
    return file.getvalue()


def test_a_video_is_that_of_a_local_run(client: httpx.Client, pipeline: Pipeline, photo: Image.Image) -> None:
    expected = local(pipeline, png(photo), seed=5, motion_bucket_id=64)
    created = client.post("/v1/videos", **form(png(photo), seed="5", motion_bucket_id="64"))
    assert created.status_code == 200, created.text
    state = ended(client, created.json()["id"])
    assert state["status"] == "completed", state
    assert is_same_video(client.get(f"/v1/videos/{state['id']}/content").content, expected)
    waited = client.post("/v1/videos/sync", **form(png(photo), seed="5", motion_bucket_id="64"))
    assert is_same_video(waited.content, expected)
    with client.stream("GET", f"/v1/videos/{state['id']}/events") as events:
        assert "event: completed" in "".join(events.iter_text())


def test_a_client_that_goes_away_frees_the_worker(service: Service, client: httpx.Client, photo: Image.Image) -> None:
    before = set(service.results.iterdir())
    with pytest.raises(httpx.ReadTimeout), service.client() as hasty:
        hasty.post("/v1/videos/sync", **form(png(photo), steps="1000", cut_step="none"), timeout=2)
    start = time.monotonic()
    while set(service.results.iterdir()) - before:
        assert time.monotonic() - start < 20, "the job of a client that went away is still there"
        time.sleep(0.1)
    jobs = [client.post("/v1/videos", **form(png(photo))).json()["id"] for _ in range(2)]
    assert [ended(client, job)["status"] for job in jobs] == ["completed"] * 2  # a thousand steps take minutes


def test_raw_requests_are_refused_and_leave_nothing(service: Service, client: httpx.Client) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    before = set(service.results.iterdir())
    kind = b"Content-Type: multipart/form-data; boundary=x\r\n"
    for request, status in (
        (b"POST /v1/videos HTTP/1.1\r\nHost: a\r\n" + kind + b"Content-Length: 99999999999\r\n\r\n", b"413"),
        (b"POST /v1/videos HTTP/1.1\r\nHost: a\r\n" + kind + b"Content-Length: -5\r\n\r\n", b"400"),
        (b"GET /v1/videos/../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", b"404"),
        (b"GET /v1/videos/%2e%2e%2fetc HTTP/1.1\r\nHost: a\r\n\r\n", b"404"),
        (b"PUT /v1/videos HTTP/1.1\r\nHost: a\r\n\r\n", b"405"),
        (b"\x16\x03\x01 no HTTP\r\n\r\n", b"400"),
    ):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(request)
            answer = connection.recv(4096)
        assert status in answer.split(b"\r\n")[0], (request, answer)
        assert b"Traceback" not in answer
    assert set(service.results.iterdir()) == before
    assert client.get("/health").status_code == 200


@pytest.mark.slow
def test_killed_workers_and_a_killed_front_lose_nothing(
    service: Service, client: httpx.Client, pipeline: Pipeline, photo: Image.Image
) -> None:
    """``python -m drills.serving_kills`` does this with 40 jobs and 20 kills."""
    assert drill(service, pipeline, png(photo), jobs=8, kills=3, front_kills=1, seed=0) == []


@pytest.mark.slow
def test_a_crowd_is_turned_away_and_a_stopped_service_goes_on_later(
    small_bundle: Path, tmp_path: Path, photo: Image.Image, pipeline: Pipeline
) -> None:
    with serving(small_bundle, tmp_path, "--queue", "3") as service, service.client() as client:
        with ThreadPoolExecutor(12) as crowd:
            work = [crowd.submit(client.post, "/v1/videos", **form(png(photo), steps="20")) for _ in range(12)]
            answers = [future.result() for future in work]
        assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 9
        for answer in answers:
            if answer.status_code == 200:
                assert ended(client, answer.json()["id"])["status"] == "completed"
        wait_idle(client)

        options = {"steps": "40", "cut_step": "none"}
        jobs = [client.post("/v1/videos", **form(png(photo), seed=str(i), **options)).json()["id"] for i in range(2)]
        while client.get(f"/v1/videos/{jobs[0]}").json()["status"] == "queued":
            time.sleep(0.05)
        children = psutil.Process(service.process.pid).children(recursive=True)
        assert service.stop() == 143
        _, alive = psutil.wait_procs(children, 10)
        assert alive == []
        assert (service.results / jobs[0] / "video.mp4").exists()
    with listening(small_bundle, service.results) as address, httpx.Client(base_url=address) as client:
        assert [ended(client, job)["status"] for job in jobs] == ["completed"] * 2
        content = client.get(f"/v1/videos/{jobs[1]}/content").content
        expected = local(pipeline, png(photo), seed=1, num_inference_steps=40, cut_step="none")
        assert is_same_video(content, expected)
        assert not is_same_video(content, local(pipeline, png(photo), seed=0, num_inference_steps=40, cut_step="none"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--port", "0"], "port is 0"),
        (["--workers", "0"], "workers is 0"),
        (["--workers", "1000"], "and there are"),
        (["--queue", "-1"], "queue is -1"),
        (["--expiry", "nan"], "expiry is nan"),
        (["--backend", "quick"], "unknown backend 'quick'"),
        (["--results", "nowhere://x"], "cannot keep videos at nowhere://x"),
    ],
)
def test_what_cannot_be_served_is_one_line(small_bundle: Path, tmp_path: Path, words: list[str], says: str) -> None:
    done = run_here(main, "serve", small_bundle, "--results", tmp_path / "r", *words)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    assert done.stderr.count("\n") == 1


def test_a_taken_port_is_told(small_bundle: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run_here(main, "serve", small_bundle, "--results", tmp_path / "r", "--port", port)
    assert done.returncode == 1
    assert f"port {port} is taken" in done.stderr
