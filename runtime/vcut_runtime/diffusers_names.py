"""Names of diffusers' pipeline: its generator, callback and output type work, and other names get advice.

``runtime/embedding.md`` has the table of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from vcut_runtime.errors import UsageError
from vcut_runtime.schedule import Step
from vcut_runtime.video import Video

if TYPE_CHECKING:
    from vcut_runtime.pipeline import Pipeline

OutputType = Literal["pil", "np"]
Callback = Callable[[int, Step, np.ndarray], Any]
CallbackOnStepEnd = Callable[["Pipeline", int, float, dict[str, Any]], Any]

_IGNORED: Mapping[str, tuple[Any, ...]] = {
    "return_dict": (True,),
    "callback_on_step_end_tensor_inputs": (["latents"], ("latents",), None),
}
_INSTEAD: Mapping[str, str] = {
    "return_dict": "leave it out; a call returns a Video, or with output_type an object with frames",
    "callback_on_step_end_tensor_inputs": "leave it out; callbacks get the latents",
    "guidance_scale": "use min_guidance_scale and max_guidance_scale, of the first and the last frame",
    "num_images_per_prompt": "use num_videos_per_prompt",
    "timesteps": "use sigmas",
    "prompt": "the model takes an image and no text",
    "negative_prompt": "the model takes an image and no text",
    "callback_steps": "use callback or callback_on_step_end, which are called after every step",
    "torch_dtype": "choose the precision at export, vcut-export --precision",
    "dtype": "choose the precision at export, vcut-export --precision",
    "variant": "choose the precision at export, vcut-export --precision",
    "device": "use backend, such as tensorrt or onnxruntime-cpu",
    "device_map": "use backend, such as tensorrt or onnxruntime-cpu",
}
_OTHER_OUTPUTS: Mapping[str, str] = {
    "pt": "use 'np' and torch.from_numpy(frames).permute(0, 1, 4, 2, 3)",
    "latent": "take the latents of the last step in callback",
}


@dataclass(frozen=True)
class FramesOutput:
    """The frames of one or more videos in the form of diffusers' ``StableVideoDiffusionPipelineOutput``.

    Attributes:
        frames: of each video: a list of PIL images, or, as one array [videos, F, H, W, 3], float32 in [0, 1]. Both are
            rounded to 8 bits.
        videos: the videos themselves, with seeds and timings.
    """

    frames: list[list[Image.Image]] | np.ndarray
    videos: list[Video]


def without_ignored(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``keywords`` without those of diffusers' that change nothing here.

    Raises:
        UsageError: a keyword is diffusers' and has no meaning here; the message says what to use.
    """
    kept = {}
    for name, value in keywords.items():
        if name in _IGNORED and value in _IGNORED[name]:
            continue
        if name in _INSTEAD:
            raise UsageError(f"vcut has no {name}: {_INSTEAD[name]}")
        kept[name] = value
    return kept


def check_output_type(output_type: Any) -> None:
    """Check diffusers' ``output_type``; None is vcut's own form.

    Raises:
        UsageError: it is unknown, or a form that vcut does not make.
    """
    if output_type not in (None, "pil", "np"):
        raise UsageError(f"output_type is {output_type!r}: {_OTHER_OUTPUTS.get(output_type, 'choose pil or np')}")


def frames_output(videos: list[Video], output_type: OutputType) -> FramesOutput:
    """Return ``videos`` in diffusers' form."""
    if output_type == "pil":
        return FramesOutput([video.to_pil() for video in videos], videos)
    return FramesOutput(np.stack([video.frames for video in videos]) / np.float32(255), videos)


def step_callback(pipeline: Pipeline, on_step_end: CallbackOnStepEnd) -> Callback:
    """Return a callback that calls ``on_step_end`` as diffusers does.

    It gets the pipeline, the step's number from 0 on, the timestep 0.25 ln(sigma), and a dict with the latents. It
    returns that dict, whose latents the next step takes, or None.
    """

    def callback(number: int, step: Step, latents: np.ndarray) -> Any:
        returned = on_step_end(pipeline, number - 1, 0.25 * math.log(step.sigma), {"latents": latents})
        if returned is None:
            return None
        if not isinstance(returned, Mapping) or not returned.keys() <= {"latents"}:
            raise UsageError("callback_on_step_end returned no dict of latents: return callback_kwargs, or None")
        return returned.get("latents")

    return callback


def seeds_from(generator: Any, videos: int) -> list[int]:
    """Return the seed of each video, drawn from ``generator``, which moves on as it does in diffusers.

    Args:
        generator: of torch or of numpy: it gives the first video's seed, and the others count up. Or a list of them,
            one for each video.
        videos: their number.

    Raises:
        UsageError: it is no generator, or the list has another length.
    """
    if isinstance(generator, (list, tuple)):
        if len(generator) != videos:
            raise UsageError(f"generator is a list of {len(generator)} for {videos} videos: give one for each")
        return [_seed_from(each) for each in generator]
    first = _seed_from(generator)
    return [first + i for i in range(videos)]


def _seed_from(generator: Any) -> int:
    if isinstance(generator, np.random.Generator):
        return int(generator.integers(2**31))
    if hasattr(generator, "get_state") and hasattr(generator, "initial_seed"):  # torch's, without importing torch
        state = generator.get_state()  # an array of bytes on the CPU, taken for its type
        drawn = state[:4].clone().to(generator.device).random_(generator=generator)
        return int.from_bytes(drawn.cpu().numpy().tobytes(), "little") >> 1
    raise UsageError(
        f"generator is of type {type(generator).__name__}: give a torch.Generator, a numpy Generator, or seed=NUMBER"
    )
