"""The model in a real Triton server: the same frames as a local run, over gRPC and HTTP."""

from __future__ import annotations

import base64
import json
import queue
import re
import time
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpc
from PIL import Image

from commands import run_here
from photographs import png
from triton_server import ROOT, Server, running
from vcut_runtime import Pipeline, RunOptions, Video
from vcut_runtime.cli import main
from vcut_serving.triton.signature import INPUTS
from videos import is_same_video

KINDS: Mapping[str, tuple[str, type]] = {
    "TYPE_STRING": ("BYTES", object),
    "TYPE_INT64": ("INT64", np.int64),
    "TYPE_FP64": ("FP64", np.float64),
    "TYPE_BOOL": ("BOOL", bool),
    "TYPE_UINT8": ("UINT8", np.uint8),
}
OPTIONS: dict[str, Any] = {
    "seed": 5,
    "motion_bucket_id": 64.0,
    "noise_aug_strength": 0.03,
    "fit": "crop",
    "cut_step": "2",
    "guidance": "triangle",
    "sigmas": "700,20.5,3,0",
}
LOCAL = RunOptions(**{**OPTIONS, "cut_step": 2, "sigmas": (700, 20.5, 3, 0)})


@pytest.fixture(scope="module")
def server(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("triton")
    models = folder / "models"
    words = ["triton", small_bundle, "-o", models, "--threads", "1", "--backend", "onnxruntime-cpu"]
    written = run_here(main, *words, "--name", "vcut")
    assert written.returncode == 0, written.stderr
    written = run_here(main, *words, "--name", "two", "--instances", "2", "--copy", "--json", "--most-megapixels", "1")
    assert json.loads(written.stdout) == {"model": str(models / "two")}
    with running(models, folder / "log") as server:
        yield server


@pytest.fixture(scope="module")
def pipeline(small_bundle: Path) -> Pipeline:
    return Pipeline.load(small_bundle, "onnxruntime-cpu", threads=1)


def mp4(video: Video) -> bytes:
    file = BytesIO()
    video.save(file, "mp4")
    return file.getvalue()


class Stream:
    """Responses of one request over gRPC."""

    def __init__(self, server: Server, model: str = "vcut", **values: Any) -> None:
        tensors = {tensor.name: tensor for tensor in INPUTS}
        inputs = []
        for name, value in values.items():
            kind, dtype = KINDS[tensors[name].kind]
            array = value if isinstance(value, np.ndarray) else np.array([value], dtype)
            given = grpc.InferInput(name, list(array.shape), kind)
            given.set_data_from_numpy(array)
            inputs.append(given)
        self.responses: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.client = grpc.InferenceServerClient(server.grpc)
        self.client.start_stream(lambda result, error: self.responses.put((result, error)))
        self.client.async_stream_infer(model, inputs, enable_empty_final_response=True)

    def next(self) -> tuple[Any, Any]:
        return self.responses.get(timeout=60)

    def all(self) -> list[Any]:
        """Return the results; an error is raised."""
        results = []
        while True:
            result, error = self.next()
            if error is not None:
                self.client.stop_stream()
                raise error
            results.append(result)
            if result.get_response().parameters["triton_final_response"].bool_param:
                self.client.stop_stream()
                return results


def test_frames_over_grpc_are_those_of_a_local_run(server: Server, pipeline: Pipeline, photo: Image.Image) -> None:
    local = pipeline(png(photo), LOCAL)
    results = Stream(server, image=png(photo), format="frames", progress=True, **OPTIONS).all()
    last = results[-1]
    assert np.array_equal(last.as_numpy("frames"), local.frames)
    assert last.as_numpy("used_seed").tolist() == [5]
    assert [note.decode() for note in last.as_numpy("notes")] == list(local.notes)
    told = [(r.as_numpy("stage")[0].decode(), *r.as_numpy("done"), *r.as_numpy("total")) for r in results[:-1]]
    assert [step for step in told if step[0] == "semantic_binding"] == [("semantic_binding", i, 1) for i in (0, 1)]
    assert [step for step in told if step[0] == "quality_improvement"][-1] == ("quality_improvement", 2, 2)
    assert told[-1][1] == told[-1][2]


def test_pixels_and_both_instances_of_a_copied_bundle(server: Server, pipeline: Pipeline, photo: Image.Image) -> None:
    pixels = np.asarray(photo.resize((64, 48)))
    local = pipeline(pixels, seed=7)
    streams = [Stream(server, "two", image_pixels=pixels, seed=7) for _ in range(2)]
    for stream in streams:
        (last,) = stream.all()
        assert is_same_video(last.as_numpy("video")[0], mp4(local))


def test_http_carries_base64(server: Server, pipeline: Pipeline, photo: Image.Image) -> None:
    local = pipeline(png(photo), LOCAL)
    image = base64.b64encode(png(photo)).decode()
    body = {"image": image, "format": "mp4-base64", **OPTIONS}
    answer = httpx.post(f"http://{server.http}/v2/models/vcut/generate", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert is_same_video(base64.b64decode(answer.json()["video"]), mp4(local))
    stream = httpx.post(
        f"http://{server.http}/v2/models/vcut/generate_stream", json=body | {"progress": True}, timeout=60
    )
    events = [json.loads(line.removeprefix("data: ")) for line in stream.text.splitlines() if line.startswith("data: ")]
    assert is_same_video(base64.b64decode(events[-1]["video"]), mp4(local))
    assert {event["stage"] for event in events[:-1]} >= {"semantic_binding", "quality_improvement", "decode"}


def test_the_client_on_the_page_works(
    server: Server, pipeline: Pipeline, photo: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(png(photo))
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "serving/README.md").read_text("utf-8"), re.DOTALL)
    exec(compile(code.replace("localhost:8001", server.grpc), "README.md", "exec"), {})
    assert is_same_video(Path("out.mp4").read_bytes(), mp4(pipeline("photo.jpg", seed=0)))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "give one photograph"),
    ({"image": b"\xff\xd8 no photograph"}, "is not an image that vcut reads"),
    ({"image": b"http://127.0.0.1/p.png"}, "this server fetches nothing"),
    ({"image": b"/etc/passwd"}, "not an image|not base64"),
    ({"seed": -1}, "seed is -1: give at least 0"),
    ({"fps": float("nan")}, "fps is nan: give a finite number"),
    ({"fps": 1e39}, "fps is 1e\\+39"),
    ({"fit": "zoom"}, "unknown fit 'zoom'"),
    ({"fit": b"\xff"}, "fit is not UTF-8"),
    ({"format": "avi"}, "unknown format 'avi'"),
    ({"quality": 0}, "quality is 0"),
    ({"height": 640}, "this bundle makes"),
    ({"num_inference_steps": 10**8}, "give at most"),
]


@pytest.mark.parametrize(("values", "says"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_impossible_costs_one_line(
    server: Server, photo: Image.Image, values: dict[str, Any], says: str
) -> None:
    image = {} if "image" in values or not values else {"image": png(photo)}
    with pytest.raises(grpc.InferenceServerException, match=says) as caught:
        Stream(server, **image, **values).all()
    assert "\n" not in caught.value.message()
    assert "Traceback" not in caught.value.message()


def test_a_photograph_with_too_many_pixels_is_refused(server: Server, photo: Image.Image) -> None:
    with pytest.raises(grpc.InferenceServerException, match="more than 1 megapixels"):
        Stream(server, "two", image=png(photo, (1100, 1000))).all()


def test_an_error_has_a_code(server: Server, photo: Image.Image) -> None:
    """Over gRPC the server tells none in a stream, and 24.10 ends with a fault if it is asked to."""
    image = base64.b64encode(png(photo)).decode()
    for values, says in (
        ({"seed": -1}, "seed is -1"),
        ({"fit": "zoom"}, "unknown fit"),
        ({"image": "?"}, "not base64"),
    ):
        body = {"image": image, **values}
        answer = httpx.post(f"http://{server.http}/v2/models/vcut/generate", json=body, timeout=60)
        assert answer.status_code == 400
        assert says in answer.json()["error"]


def metric(server: Server, name: str) -> float:
    for line in httpx.get(f"http://{server.metrics}/metrics").text.splitlines():
        if line.startswith(name):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def test_a_client_that_goes_away_frees_the_instance(server: Server, photo: Image.Image) -> None:
    cancelled = metric(server, 'vcut_videos_total{model="vcut",outcome="cancelled"}')
    stream = Stream(server, image=png(photo), progress=True, num_inference_steps=1000, cut_step="none")
    while stream.next()[0].as_numpy("stage")[0] != b"semantic_binding":
        pass
    stream.client.stop_stream(cancel_requests=True)
    start = time.monotonic()
    assert Stream(server, image=png(photo), seed=1).all()
    assert time.monotonic() - start < 20  # a thousand steps take minutes
    assert metric(server, 'vcut_videos_total{model="vcut",outcome="cancelled"}') == cancelled + 1


def test_metrics_tell_outcomes_and_stages(server: Server, photo: Image.Image) -> None:
    assert Stream(server, "two", image=png(photo), seed=1).all()
    assert metric(server, 'vcut_videos_total{model="two",outcome="completed"}') >= 1
    assert metric(server, 'vcut_stage_seconds_total{model="two",stage="decode"}') > 0
