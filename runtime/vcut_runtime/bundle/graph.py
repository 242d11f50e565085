"""The graphs of a bundle, one record each.

Everything that makes, builds, runs, checks or shows a graph reads :data:`GRAPHS`. To add an input: add it here and to
the torch module in ``vcut_export.graphs.modules``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from vcut_runtime.bundle.manifest import Manifest, Precision, TensorSpec

Shape = tuple[int | str, ...]

SYMBOLS: Mapping[str, str] = {
    "F": "frames of the video",
    "H": "height in pixels",
    "W": "width in pixels",
    "C": "channels of the latents",
    "h": "height of the latents",
    "w": "width of the latents",
    "N": "channels of the packed bias",
    "D": "channels of the deep features; 0 in a bundle without shallow steps",
    "S": "height and width of the image that the image encoder sees",
    "n": "frames decoded at a time",
}


@dataclass(frozen=True)
class Condition:
    """Decides whether a tensor or graph exists in a bundle; ``holds`` gets the symbols that have a value there."""

    words: str
    holds: Callable[[Mapping[str, int]], bool]


FREE_SIZE = Condition("height or width is free", lambda bound: not {"H", "W"} <= bound.keys())
DEEP_CACHE = Condition("D is not 0", lambda bound: bound["D"] > 0)


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph.

    Attributes:
        name: its name in the ONNX graph.
        shape: numbers and symbols of :data:`SYMBOLS`.
        about: what it holds, in a few words.
        dtype: ``features`` is float16 in a bundle of precision fp16, else float32.
        default: of an input, the value of all elements if a run does not set it; None if a run must set it.
        only_if: when it exists; None: always.
    """

    name: str
    shape: Shape
    about: str = ""
    dtype: Literal["float32", "uint8", "features"] = "float32"
    default: float | None = None
    only_if: Condition | None = None


@dataclass(frozen=True)
class Graph:
    """One ONNX graph.

    Attributes:
        name: its name in the manifest, and of its file.
        about: what it computes, in one sentence.
        weights: name of the weights file. Graphs with the same file share its tensors.
        inputs: in order.
        outputs: in order.
        rows: of a denoising step, its batch: 2 with classifier-free guidance, 1 without; 0 for other graphs.
        full: of a shallow step, the full step whose deep features it takes.
        only_if: when it exists; None: always.
    """

    name: str
    about: str
    weights: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    rows: int = 0
    full: str | None = None
    only_if: Condition | None = None

    @property
    def is_step(self) -> bool:
        """Whether it is a denoising step. Steps run many times in a video."""
        return self.rows > 0

    @property
    def stage(self) -> str:
        """The stage that it belongs to: the full step's name for both kinds of steps, else its own."""
        return self.full or self.name


FEATURES = "deep_features"
_VIDEO: Shape = (1, "F", "C", "h", "w")


def _step(name: str, about: str, rows: int, *, shallow: bool = False) -> Graph:
    features = Tensor(
        FEATURES,
        (rows, "F", "D", "h", "w"),
        "what the layers before the last give; shallow steps take it from an earlier full step",
        "features",
        only_if=DEEP_CACHE,
    )
    inputs = (
        Tensor("latents", _VIDEO, "noisy latents"),
        Tensor("image_latents", (1, "C", "h", "w"), "as `condition` gives them"),
        Tensor("sca_bias", (rows, "N"), "packed bias of the folded cross-attentions, a row of each batch row"),
        Tensor("sigma", (1,), "noise level of `latents`"),
        Tensor("added_time_ids", (1, 3), "fps - 1, motion bucket, noise augmentation"),
        Tensor("previous_denoised", _VIDEO, "`denoised` of the step before", default=0.0),
        Tensor("coefficients", (3,), "k0, k1, k2 of the update"),
        *((Tensor("guidance_scale", ("F",), "of each frame"),) if rows == 2 else ()),
        *((features,) if shallow else ()),
    )
    outputs = (
        Tensor("next_latents", _VIDEO, "k0 latents + k1 denoised + k2 previous_denoised"),
        Tensor("denoised", _VIDEO, "the predicted video without noise (x0)"),
        *(() if shallow else (features,)),
    )
    full = name.removesuffix("_shallow") if shallow else None
    return Graph(name, about, "unet.weights", inputs, outputs, rows, full, DEEP_CACHE if shallow else None)


GRAPHS: Mapping[str, Graph] = {
    graph.name: graph
    for graph in (
        Graph(
            "condition",
            "The image to its latents and to the packed bias of the folded cross-attentions.",
            "condition.weights",
            inputs=(
                Tensor("image", (1, 3, "H", "W"), "RGB in [0, 1]"),
                Tensor("noise", (1, 3, "H", "W"), "standard normal"),
                Tensor("noise_aug_strength", (1,), "factor of `noise`"),
                Tensor("resize_rows", ("S", "H"), "resizes the height, see below", only_if=FREE_SIZE),
                Tensor("resize_columns", ("W", "S"), "resizes the width", only_if=FREE_SIZE),
            ),
            outputs=(
                Tensor("image_latents", (1, "C", "h", "w"), "the VAE's latents of the image"),
                Tensor("sca_bias", (2, "N"), "row 0 unconditional, row 1 conditional"),
            ),
        ),
        _step(
            "semantic_binding", "One denoising step with classifier-free guidance (VCUT's semantic binding stage).", 2
        ),
        _step("quality_improvement", "One conditional denoising step (VCUT's quality improvement stage).", 1),
        Graph(
            "decode",
            "Latents of n frames to 8-bit RGB.",
            "decode.weights",
            inputs=(Tensor("latents", ("n", "C", "h", "w"), "of n frames"),),
            outputs=(Tensor("frames", ("n", "H", "W", 3), "RGB", "uint8"),),
        ),
        _step(
            "semantic_binding_shallow",
            "A guided denoising step that takes the deep features of an earlier step.",
            2,
            shallow=True,
        ),
        _step(
            "quality_improvement_shallow",
            "A conditional denoising step that takes the deep features of an earlier step.",
            1,
            shallow=True,
        ),
    )
}


class BoundGraph(NamedTuple):
    """A graph's tensors in one bundle. Dimensions that are free there are names."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def bind(bound: Mapping[str, int], precision: Precision) -> dict[str, BoundGraph]:
    """Return the graphs of a bundle by name, with the symbols in ``bound`` replaced by their values.

    Symbols without a value stay free. Graphs and tensors whose condition does not hold are left out.
    """

    def specs(tensors: tuple[Tensor, ...]) -> tuple[TensorSpec, ...]:
        kinds = {"features": "float16" if precision == "fp16" else "float32"}
        return tuple(
            TensorSpec(t.name, cast(Any, kinds.get(t.dtype, t.dtype)), sized(t.shape, bound, partly=True))
            for t in tensors
            if _exists(t, bound)
        )

    return {g.name: BoundGraph(specs(g.inputs), specs(g.outputs)) for g in GRAPHS.values() if _exists(g, bound)}


def bundle_graphs(manifest: Manifest) -> dict[str, BoundGraph]:
    """Return the graphs that a bundle with this manifest must have, by name."""
    return bind({**manifest.geometry.bound(), "N": manifest.bias_channels}, manifest.precision)


def sized(shape: Shape, values: Mapping[str, int], *, partly: bool = False) -> tuple:
    """Return ``shape`` with its symbols replaced by their ``values``; ``partly`` keeps symbols without a value."""
    return tuple((values.get(d, d) if partly else values[d]) if isinstance(d, str) else d for d in shape)


Actual = Mapping[str, tuple[str | None, tuple[Any, ...]]]


def unlike(actual: Actual, listed: Iterable[TensorSpec]) -> str | None:
    """Return the name of a tensor that is not as the manifest lists it, None if all are.

    Args:
        actual: type and shape of each tensor of a loaded graph or engine. A dimension that is no positive number is
            free.
        listed: the graph's inputs and outputs in the manifest.
    """
    right = {t.name: (t.dtype, tuple(d if isinstance(d, int) else None for d in t.shape)) for t in listed}
    real = {
        name: (dtype, tuple(d if isinstance(d, int) and d > 0 else None for d in shape))
        for name, (dtype, shape) in actual.items()
    }
    return next((name for name in sorted({*right, *real}) if right.get(name) != real.get(name)), None)


def share_stage(graph: str, other: str) -> bool:
    """Tell whether two graphs alternate within a stage: a full step and its shallow step."""
    return GRAPHS[graph].stage == GRAPHS[other].stage


def _exists(part: Tensor | Graph, bound: Mapping[str, int]) -> bool:
    return part.only_if is None or part.only_if.holds(bound)
