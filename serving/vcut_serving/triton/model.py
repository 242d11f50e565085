"""The model that Triton's Python backend runs: a pipeline in each instance, one video at a time.

Triton's own module ``triton_python_backend_utils`` is there only inside the server.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from vcut_runtime import BackendOptions, Cancelled, Pipeline, UsageError, VcutError
from vcut_runtime.errors import first_line, printable
from vcut_runtime.images import Photo, open_image
from vcut_runtime.video import QUALITY, Video, check_quality
from vcut_serving.fields import run_options
from vcut_serving.given_photo import from_text
from vcut_serving.triton.signature import FORMATS, INPUTS, OUTPUTS, TEXT

BUNDLE = "bundle"  # beside model.py
_KINDS = {tensor.name: tensor.kind for tensor in OUTPUTS}


class TritonPythonModel:
    """What the Python backend loads, calls and unloads."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the bundle.

        Args:
            args: of Triton: the configuration, the folder, and the instance's device.
        """
        import triton_python_backend_utils as triton  # pyright: ignore[reportMissingImports]

        self._triton = triton
        parameters = {
            name: value["string_value"] for name, value in json.loads(args["model_config"])["parameters"].items()
        }
        if args["model_instance_kind"] == "GPU":
            os.environ["CUDA_VISIBLE_DEVICES"] = visible_gpu(int(args["model_instance_device_id"]), os.environ)
        self._most_pixels = int(parameters["most_megapixels"]) * 1_000_000
        self._metrics = _Metrics(triton, args["model_name"])
        folder = Path(args["model_repository"]) / args["model_version"] / BUNDLE
        options = BackendOptions(**json.loads(parameters["backend_options"]))
        self._pipeline = Pipeline.load(folder, parameters["backend"], options)
        for note in self._pipeline.backend.notes:
            triton.Logger.log_info(note)

    def execute(self, requests: list[Any]) -> None:
        """Answer each request with responses of its own; Triton does not wait for a return value."""
        for request in requests:
            sender = request.get_response_sender()
            response = self._answer(request, sender)
            sender.send(response, flags=self._triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self) -> None:
        """Give back the memory."""
        self._pipeline.close()

    def _answer(self, request: Any, sender: Any) -> Any:
        """Make the video of a request, and return the last response. The server counts errors as successes too."""
        codes = self._triton.TritonError
        try:
            response = self._make(_values(self._triton, request), sender)
            self._metrics.ended("completed")
        except Cancelled as error:
            return self._error(str(error), codes.CANCELLED, "cancelled")
        except UsageError as error:
            return self._error(str(error), codes.INVALID_ARG, "refused")
        except VcutError as error:
            return self._error(str(error), codes.INTERNAL, "failed")
        except Exception as error:  # a fault of ours: the next request is answered all the same
            return self._error(f"{type(error).__name__}: {first_line(error)}", codes.INTERNAL, "failed")
        return response

    def _error(self, message: str, code: int, outcome: str) -> Any:
        self._metrics.ended(outcome)
        return self._triton.InferenceResponse(error=self._triton.TritonError(printable(message), code))

    def _make(self, values: dict[str, Any], sender: Any) -> Any:
        """Make a video. A request is cancelled between two steps.

        Raises:
            Cancelled: the client went away.
            UsageError: an input is impossible.
            VcutError: the video cannot be made.
        """
        cancel = threading.Event()
        kind, quality = values.pop("format", FORMATS[0]), values.pop("quality", QUALITY)
        told = values.pop("progress", False)
        if kind not in FORMATS:
            raise UsageError(f"unknown format {kind!r}: choose {', '.join(FORMATS)}")
        check_quality(quality)
        photo = _photo(values, self._most_pixels)
        options = run_options(values)

        def progress(stage: str, done: int, total: int) -> None:
            if sender.is_cancelled():
                cancel.set()
            elif told:
                sender.send(self._response(stage=[stage], done=[done], total=[total]))

        video = self._pipeline(photo, options, progress=progress, cancel=cancel)
        self._metrics.made(video)
        facts: dict[str, Any] = {"used_seed": [video.seed], "notes": video.notes}
        if kind == "frames":
            return self._response(frames=video.frames, **facts)
        file = BytesIO()
        video.save(file, "mp4", quality=quality)
        content = file.getvalue()
        return self._response(video=[base64.b64encode(content) if kind == "mp4-base64" else content], **facts)

    def _response(self, **outputs: Any) -> Any:
        tensors = []
        for name, value in outputs.items():
            if _KINDS[name] == TEXT:
                value = [text.encode() if isinstance(text, str) else text for text in value]
            kind = self._triton.triton_string_to_numpy(_KINDS[name])
            tensors.append(self._triton.Tensor(name, np.array(value, kind)))
        return self._triton.InferenceResponse(tensors)


class _Metrics:
    """Counts outcomes and seconds, which the server does not. It keeps each family: Triton would drop it."""

    def __init__(self, triton: Any, model: str) -> None:
        kind = triton.MetricFamily.COUNTER
        self._model = model
        self._videos = triton.MetricFamily("vcut_videos_total", "Videos by outcome.", kind)
        self._stages = triton.MetricFamily("vcut_stage_seconds_total", "Seconds of each stage.", kind)
        self._metrics: dict[tuple[str, str], Any] = {}

    def ended(self, outcome: str) -> None:
        self._add(self._videos, "outcome", outcome, 1)

    def made(self, video: Video) -> None:
        for stage, seconds in video.timings.items():
            self._add(self._stages, "stage", stage, seconds)

    def _add(self, family: Any, label: str, value: str, amount: float) -> None:
        metric = self._metrics.get((label, value))
        if metric is None:
            metric = family.Metric(labels={"model": self._model, label: value})
            self._metrics[label, value] = metric
        metric.increment(amount)


def visible_gpu(device: int, environment: Mapping[str, str]) -> str:
    """Return the name of Triton's GPU number ``device`` for this process alone.

    The server counts among the GPUs that it sees itself, which are numbers or UUIDs.
    """
    seen = environment.get("CUDA_VISIBLE_DEVICES")
    return seen.split(",")[device].strip() if seen else str(device)


def _values(triton: Any, request: Any) -> dict[str, Any]:
    """Return the inputs that a request has, as Python's values; ``image_pixels`` stays an array."""
    values: dict[str, Any] = {}
    for tensor in INPUTS:
        given = triton.get_input_tensor_by_name(request, tensor.name)
        if given is None:
            continue
        array = given.as_numpy()
        if len(tensor.shape) > 1:
            values[tensor.name] = array
            continue
        value = array.item()
        values[tensor.name] = _text(tensor.name, value) if tensor.kind == TEXT and tensor.name != "image" else value
    return values


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not UTF-8: send text") from None


def _photo(values: dict[str, Any], most_pixels: int) -> Photo:
    """Take the photograph out of the inputs.

    Raises:
        UsageError: there is none, or two, or it cannot be decoded.
    """
    file, pixels = values.pop("image", None), values.pop("image_pixels", None)
    if (file is None) == (pixels is None):
        raise UsageError("give one photograph, as image or as image_pixels")
    if pixels is not None:
        return open_image(pixels)
    if file.isascii():  # no image file is; JSON carries no other bytes
        file = from_text("image", file.decode())
    return open_image(file, most_pixels)
