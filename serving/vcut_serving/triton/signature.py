"""What the model takes and gives in Triton, and its configuration.

Every option of a run is an optional input of the same name. So a new option is an input too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

from vcut_runtime import RunOptions
from vcut_runtime.option_types import words_of

TEXT, INTEGER, NUMBER, TRUTH, BYTE = "TYPE_STRING", "TYPE_INT64", "TYPE_FP64", "TYPE_BOOL", "TYPE_UINT8"
FORMATS = ("mp4", "mp4-base64", "frames")


@dataclass(frozen=True)
class Tensor:
    """An input or an output.

    Attributes:
        name: of it.
        kind: Triton's data type.
        about: what it is.
        shape: -1 for any size.
    """

    name: str
    kind: str
    about: str
    shape: tuple[int, ...] = (1,)


def _option_kind(field: Any, hint: Any) -> str:
    parts = (hint, *get_args(hint))
    if field.metadata["parse"] or words_of(hint) or str in parts:
        return TEXT
    return NUMBER if float in parts else INTEGER


def _options() -> tuple[Tensor, ...]:
    hints = get_type_hints(RunOptions)
    return tuple(Tensor(f.name, _option_kind(f, hints[f.name]), f.metadata["about"]) for f in fields(RunOptions))


OPTIONS = _options()
INPUTS = (
    Tensor("image", TEXT, "The photograph's file, as bytes or in base64. Or give image_pixels."),
    Tensor("image_pixels", BYTE, "The photograph as RGB, [height, width, 3].", (-1, -1, 3)),
    Tensor("format", TEXT, "mp4 (default), mp4-base64 for clients that speak JSON, or frames."),
    Tensor("quality", INTEGER, "Of the MP4, 1 to 100."),
    Tensor("progress", TRUTH, "Whether a response is sent after each step."),
    *OPTIONS,
)
OUTPUTS = (
    Tensor("video", TEXT, "The MP4 file, in the last response."),
    Tensor("frames", BYTE, "[frames, height, width, 3], in the last response if format is frames.", (-1, -1, -1, 3)),
    Tensor("used_seed", INTEGER, "The seed, to make the video again."),
    Tensor("notes", TEXT, "What a user should know, such as that the photograph was stretched.", (-1,)),
    Tensor("stage", TEXT, "What is being made; in a response of progress."),
    Tensor("done", INTEGER, "Steps of the stage that are done; likewise."),
    Tensor("total", INTEGER, "Steps of the stage; likewise."),
)


def config_text(
    name: str,
    *,
    on_gpu: bool,
    instances: int,
    parameters: Mapping[str, str],
    warm_up: bool,
) -> str:
    """Return ``config.pbtxt``.

    Args:
        name: of the model.
        on_gpu: whether there are instances on each GPU, or on the CPU.
        instances: on each of them.
        parameters: for :mod:`vcut_serving.triton.model`.
        warm_up: whether each instance makes a video of a black photograph before it is ready.
    """
    lines = [
        "# Written by `vcut triton`.",
        f"name: {_quoted(name)}",
        'backend: "python"',
        "max_batch_size: 0",
        "model_transaction_policy { decoupled: true }  # progress, then the video",
        f"instance_group [ {{ kind: {'KIND_GPU' if on_gpu else 'KIND_CPU'} count: {instances} }} ]",
        *_tensors("input", INPUTS, optional=True),
        *_tensors("output", OUTPUTS, optional=False),
    ]
    for key, value in parameters.items():
        lines.append(f"parameters {{ key: {_quoted(key)} value: {{ string_value: {_quoted(value)} }} }}")
    if warm_up:
        photograph = f"data_type: {BYTE} dims: [ 64, 64, 3 ] zero_data: true"
        lines.append(f'model_warmup [ {{ name: "black" inputs {{ key: "image_pixels" value: {{ {photograph} }} }} }} ]')
    return "\n".join(lines) + "\n"


def _tensors(kind: str, tensors: Sequence[Tensor], *, optional: bool) -> list[str]:
    more = " optional: true" if optional else ""
    shown = []
    for tensor in tensors:
        shape = ", ".join(map(str, tensor.shape))
        shown += [
            f"# {tensor.about}",
            f"{kind} [ {{ name: {_quoted(tensor.name)} data_type: {tensor.kind} dims: [ {shape} ]{more} }} ]",
        ]
    return shown


def _quoted(text: str) -> str:
    return json.dumps(text)  # the escapes of protobuf's text format, for what is printable
