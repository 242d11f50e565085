"""What a bundle will be, decided and checked before any work: sizes, graph specs, and a fingerprint per graph."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import msgspec

from vcut_export.checkpoint import Checkpoint, scheduler_constants
from vcut_runtime import __version__
from vcut_runtime.errors import UsageError
from vcut_runtime.manifest import (
    DIMENSIONS,
    SCHEMA_VERSION,
    SHALLOW,
    BiasSlice,
    Dimension,
    EngineSet,
    FileEntry,
    GraphEntry,
    Guidance,
    Manifest,
    Model,
    Precision,
    SizeRange,
    Sizes,
    Tca,
    describe_sizes,
)
from vcut_runtime.schedule import check_cut_step, scale_cut_step

DEFAULT_STEPS, DEFAULT_CUT_STEP = 25, 17  # the paper's
WEIGHTS = {
    "condition": "condition.weights",
    "semantic_binding": "unet.weights",
    "quality_improvement": "unet.weights",
    **dict.fromkeys(SHALLOW.values(), "unet.weights"),
    "decode": "decode.weights",
}
# How many of a video's frames are decoded at a time so that decoding takes less activation memory than a guided step,
# as TensorRT-RTX's builder reports both: 11 of 25 take 5.28 GB of a step's 5.32 GB at 576x1024 in fp16, and 7 of 25
# take 3.32 GB of the 3.48 GB of a step whose feed-forwards run in parts. Both grow alike with size and frames. Up to
# that size a step with any size free takes 6.82 GB, a decoder with height and width free 6.64 GB for 10 of 25.
_DECODED, _DECODED_LOW_MEMORY, _DECODED_FREE, _OF = 11, 7, 10, 25
_DECODE_FRAME_BYTES = 775e6 / (576 * 1024 * 2)  # per pixel and byte of precision, of a decoder without frame groups
_DECODE_WHOLE_BYTES = 1.5e9  # a video that takes no more is decoded whole


@dataclass(frozen=True)
class Plan:
    """Everything that decides a bundle's content."""

    checkpoint: Checkpoint
    height: int  # pixels
    width: int
    frames: int
    precision: Precision
    tca: Tca
    steps: int
    cut_step: int  # 1-based; steps + 1 never cuts
    low_memory: bool  # feed-forwards in parts, smaller decode chunks
    deep_cache: bool  # shallow steps too
    decode_chunk: int  # frames
    dynamic: Mapping[Dimension, SizeRange]  # what a run may choose
    keys: Mapping[str, str]  # fingerprint by graph

    @property
    def sizes(self) -> Sizes:
        """Of a video for which nothing else is asked."""
        return Sizes(self.frames, self.height, self.width)

    @property
    def smallest(self) -> Sizes:
        """The least frames, height and width."""
        return self.sizes.smallest(self.dynamic)

    @property
    def largest(self) -> Sizes:
        """The most frames, height and width."""
        return self.sizes.largest(self.dynamic)

    @property
    def deep_features(self) -> int:
        """Channels of what full steps hand on to shallow ones, 0 without those."""
        return self.feature_channels if self.deep_cache else 0

    @property
    def feature_channels(self) -> int:
        """Channels of the UNet's first level, which deep features have."""
        return self.checkpoint.configs["unet"].get("block_out_channels", [320])[0]

    @property
    def resizes(self) -> bool:
        """Whether ``condition`` takes the matrices that resize its image."""
        return "height" in self.dynamic or "width" in self.dynamic

    @property
    def examples(self) -> dict[str, int]:
        """Sizes to trace free dimensions with: no two the same, none 1, whatever the ranges."""
        height, width = 2 * size_multiple(self.checkpoint), 3 * size_multiple(self.checkpoint)
        factor = self.checkpoint.vae_scale_factor
        return {"n": 2, "F": 5, "H": height, "W": width, "h": height // factor, "w": width // factor}

    @property
    def frame_positions(self) -> int:
        """Rows of the frame position table: the most frames, and no fewer than are traced with where they are free."""
        return max(self.largest.frames, self.examples["F"]) if "frames" in self.dynamic else self.frames

    @property
    def latent_height(self) -> int:
        """Height of the latents."""
        return self.height // self.checkpoint.vae_scale_factor

    @property
    def latent_width(self) -> int:
        """Width of the latents."""
        return self.width // self.checkpoint.vae_scale_factor

    @property
    def decode_overlap(self) -> int:
        """Frames decoded on each side of a seam for context."""
        return decode_context(self.decode_chunk) if self.decode_chunk < self.largest.frames else 0

    @property
    def decode_frames(self) -> int | None:
        """Frames that ``decode`` takes, None for any number: where a video is decoded whole."""
        return self.decode_chunk if self.decode_chunk < self.largest.frames else None

    @property
    def frames_at_once(self) -> int | None:
        """Frames that the decoder's last level takes at a time, None for all: a third of a chunk measured least."""
        return None if self.decode_frames is None else max(1, self.decode_frames // 3)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.checkpoint.configs["vae"].get("latent_channels", 4)


def make_plan(
    checkpoint: Checkpoint,
    *,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    steps: int = DEFAULT_STEPS,
    cut_step: int | None = None,
    never_cut: bool = False,
    precision: Precision | None = None,
    tca: Tca = "remove",
    low_memory: bool = False,
    deep_cache: bool = False,
    decode_chunk: int | None = None,
    dynamic: Mapping[str, tuple[int, int]] | None = None,
) -> Plan:
    """Fill in the model's defaults and check that everything fits together.

    ``dynamic`` gives the least and the most of the sizes that a run may choose, by ``frames``, ``height``, ``width``.

    Raises:
        UsageError: an option is impossible; the message names one that is possible.
    """
    pixels: tuple[int, int] = (
        checkpoint.defaults["height"] if height is None else height,
        checkpoint.defaults["width"] if width is None else width,
    )
    count: int = checkpoint.configs["unet"].get("num_frames", 25) if frames is None else frames
    body: Precision = checkpoint.defaults["precision"] if precision is None else precision
    factor = checkpoint.vae_scale_factor
    for name, value in zip(("height", "width"), pixels, strict=True):
        if value < factor or value % factor:
            near = max(factor, round(value / factor) * factor)
            raise UsageError(f"--{name} {value} is not a multiple of {factor}, the model's factor: use {near}")
    for name, value in (("frames", count), ("steps", steps)):
        if value < 1:
            raise UsageError(f"--{name} {value} is below 1: use at least 1")
    if body not in get_args(Precision):
        raise UsageError(f"unknown --precision {body!r}: choose {', '.join(get_args(Precision))}")
    if tca not in get_args(Tca):
        raise UsageError(f"unknown --tca {tca!r}: choose {' or '.join(get_args(Tca))}")
    if never_cut:
        cut = check_cut_step(None, steps)
    elif cut_step is None:
        cut = scale_cut_step(DEFAULT_CUT_STEP, DEFAULT_STEPS, steps)
    else:
        cut = check_cut_step(cut_step, steps)
    if low_memory and dynamic:
        raise UsageError(
            "--low-memory does not go with --dynamic, as feed-forwards run in parts of a fixed size: "
            "leave one out, smaller ranges take less memory too"
        )
    _check_unet(checkpoint)
    ranges = _ranges(checkpoint, Sizes(count, *pixels), dynamic or {})
    plan = Plan(checkpoint, *pixels, count, body, tca, steps, cut, low_memory, deep_cache, 1, ranges, {})
    plan = replace(plan, decode_chunk=_decode_chunk(plan, decode_chunk))
    return replace(plan, keys=_keys(plan))


def size_multiple(checkpoint: Checkpoint) -> int:
    """Return what a free height or width must be a multiple of: every level of the UNet halves the latents evenly."""
    return checkpoint.vae_scale_factor * 2 ** (len(checkpoint.configs["unet"]["block_out_channels"]) - 1)


def _ranges(checkpoint: Checkpoint, sizes: Sizes, dynamic: Mapping[str, tuple[int, int]]) -> dict[Dimension, SizeRange]:
    """Check the ranges of free sizes. Raises UsageError."""
    result: dict[Dimension, SizeRange] = {}
    for name in DIMENSIONS:
        if name not in dynamic:
            continue
        low, high = dynamic[name]
        found = SizeRange(low, high, 1 if name == "frames" else size_multiple(checkpoint))
        own = getattr(sizes, name)
        if not 1 <= low <= high or low not in found or high not in found:
            steps = "" if found.multiple == 1 else f" in multiples of {found.multiple}"
            raise UsageError(f"--dynamic {name}={low}:{high} is no range{steps}: give the least and the most")
        if own not in found:
            raise UsageError(f"--dynamic {name}={found} leaves out --{name} {own}, the default of runs: change one")
        result[name] = found
    if unknown := sorted(set(dynamic) - set(result)):
        raise UsageError(f"--dynamic has no {unknown[0]!r}: give ranges of {', '.join(DIMENSIONS)}")
    if {"height", "width"} & set(result):
        multiple = size_multiple(checkpoint)
        for name in ("height", "width"):
            if getattr(sizes, name) % multiple:
                raise UsageError(
                    f"--{name} {getattr(sizes, name)} is not a multiple of {multiple}, which a free size wants"
                )
    return result


def _decode_chunk(plan: Plan, wanted: int | None) -> int:
    """Return the frames to decode at a time: for the largest video, and no more than the shortest one has.

    A decoder that takes a whole video takes any number of frames. Raises UsageError.
    """
    fewest, (most, height, width) = plan.smallest.frames, plan.largest
    if wanted is None:
        chunk = default_decode_chunk(height * width, most, plan.precision, plan.low_memory, plan.resizes)
        return chunk if chunk == most else min(chunk, fewest)
    if not (1 <= wanted <= fewest or wanted == most):
        whole = "" if most == fewest else f", or use {most}, those of the longest"
        raise UsageError(f"--decode-chunk {wanted} is outside 1..{fewest}, the frames of the shortest video{whole}")
    return wanted


def decode_context(chunk: int) -> int:
    """Return how many frames of context each side of a seam gets in chunks of ``chunk`` frames.

    Each takes the error that a seam adds to the change from frame to frame down by a factor of 2.4 to 4: with random
    weights and a smooth video from 31 levels of 255 to 8, then 3.
    """
    return min(2, (chunk + 1) // 4)


def default_decode_chunk(
    pixels: int, frames: int, precision: Precision, low_memory: bool, free_pixels: bool = False
) -> int:
    """Return how many frames to decode at a time: as many as memory allows, or as few as give the same chunks."""
    width = 4 if precision == "fp32" else 2
    if frames * pixels * width * _DECODE_FRAME_BYTES <= _DECODE_WHOLE_BYTES:
        return frames
    share = _DECODED_LOW_MEMORY if low_memory else _DECODED_FREE if free_pixels else _DECODED
    fitting = max(1, share * frames // _OF)
    context = decode_context(fitting)
    count = 1 + math.ceil((frames - fitting) / (fitting - 2 * context))
    return math.ceil((frames + 2 * context * (count - 1)) / count)


def make_manifest(
    plan: Plan,
    slices: tuple[BiasSlice, ...],
    graphs: Mapping[str, GraphEntry],
    weights: Mapping[str, FileEntry],
    engines: Mapping[str, EngineSet] | None = None,
) -> Manifest:
    """Return the manifest of a bundle with these files; of ``engines``, those stay that belong to these graphs."""
    checkpoint = plan.checkpoint
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        vcut_version=__version__,
        model=Model(
            id=checkpoint.id,
            revision=checkpoint.revision,
            random_weights=checkpoint.seed is not None,
            seed=checkpoint.seed,
            configs=dict(checkpoint.configs),
        ),
        height=plan.height,
        width=plan.width,
        frames=plan.frames,
        latent_channels=plan.latent_channels,
        vae_scale_factor=checkpoint.vae_scale_factor,
        precision=plan.precision,
        tca=plan.tca,
        steps=plan.steps,
        cut_step=plan.cut_step,
        guidance=Guidance(min=1.0, max=3.0),
        scheduler=scheduler_constants(checkpoint.configs["scheduler"]),
        decode_chunk=plan.decode_chunk,
        decode_overlap=plan.decode_overlap,
        dynamic=dict(plan.dynamic),
        deep_features=plan.deep_features,
        sca_bias=slices,
        graphs=dict(graphs),
        weights=dict(weights),
    )
    return msgspec.structs.replace(manifest, engines=_belonging(engines or {}, manifest))


def _belonging(engines: Mapping[str, EngineSet], manifest: Manifest) -> dict[str, EngineSet]:
    """Drop engines of graphs that are no more, and targets that are left without any."""
    result = {}
    for target, found in engines.items():
        kept = {
            name: engine
            for name, engine in found.engines.items()
            if name in manifest.graphs and (engine.graph, engine.weights) == manifest.sources(name)
        }
        if kept:
            result[target] = msgspec.structs.replace(found, engines=kept)
    return result


def _check_unet(checkpoint: Checkpoint) -> None:
    """The wiring between UNet, VAE and image encoder that SVD's pipeline assumes."""
    unet, vae = checkpoint.configs["unet"], checkpoint.configs["vae"]
    channels = vae.get("latent_channels", 4)
    if unet.get("in_channels", 8) != 2 * channels or unet.get("out_channels", 4) != channels:
        raise UsageError(
            f"the UNet maps {unet.get('in_channels')} to {unet.get('out_channels')} channels, the VAE has {channels}: "
            "choose components of one SVD model"
        )
    embedding = checkpoint.configs["image_encoder"].get("projection_dim", 512)
    attention = unet.get("cross_attention_dim", 1024)
    if any(size != embedding for size in (attention if isinstance(attention, list) else [attention])):
        raise UsageError(
            f"the UNet attends to {attention} channels, the image encoder gives {embedding}: "
            "choose components of one SVD model"
        )
    if unet.get("projection_class_embeddings_input_dim", 768) != 3 * unet.get("addition_time_embed_dim", 256):
        raise UsageError("the UNet's micro-conditioning is not SVD's three numbers: choose an SVD checkpoint")


def _keys(plan: Plan) -> dict[str, str]:
    """A graph is rebuilt when its key changes: the options that touch it, the checkpoint, and what compiles it."""
    try:
        libraries = ("torch", "diffusers", "transformers", "onnxscript", "onnx-ir")
        made_by = {name: metadata.version(name) for name in libraries}
    except metadata.PackageNotFoundError as error:
        raise UsageError(f"exporting needs {error.name}: pip install 'vcut[export]'") from None
    sizes = describe_sizes(plan.sizes, plan.dynamic)
    common: dict[str, Any] = {
        "by": {"vcut": _sources(), **made_by},
        "weights": plan.checkpoint.identity,
        "size": [sizes["height"], sizes["width"]],
        "precision": plan.precision,
    }
    step = {name: getattr(plan, name) for name in ("tca", "low_memory", "deep_cache")}
    step["frames"] = sizes["frames"]
    parts: dict[str, dict[str, Any]] = {
        "condition": {"tca": plan.tca},
        "semantic_binding": step,
        "quality_improvement": step,
        **(dict.fromkeys(SHALLOW.values(), step) if plan.deep_cache else {}),
        "decode": {"frames": plan.decode_frames, "frames_at_once": plan.frames_at_once},
    }
    return {
        graph: hashlib.sha256(json.dumps({"graph": graph, **common, **own}, sort_keys=True).encode()).hexdigest()
        for graph, own in parts.items()
    }


def _sources() -> str:
    """A fingerprint of the compiler itself: an edited or upgraded one makes new graphs."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
