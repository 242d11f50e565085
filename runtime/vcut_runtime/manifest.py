"""``manifest.json``: what a bundle says about itself. The format is specified in ``runtime/README.md``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

SCHEMA_VERSION = 4  # 1 had no engines, 2 no ranges, 3 no deep features; all are still read
GRAPHS = ("condition", "semantic_binding", "quality_improvement", "decode")
SHALLOW = {"semantic_binding": "semantic_binding_shallow", "quality_improvement": "quality_improvement_shallow"}

Precision = Literal["fp16", "bf16", "fp32"]
Tca = Literal["remove", "fold"]
EngineLibrary = Literal["tensorrt", "tensorrt-rtx"]
Dimension = Literal["frames", "height", "width"]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Decided once, never changed; a field that this version does not know is an error."""


class TensorSpec(_Record, frozen=True):
    """An input or output of a graph; a dimension given by name is free."""

    name: str
    dtype: Literal["float32", "float16", "uint8"]
    shape: tuple[int | str, ...]


class FileEntry(_Record, frozen=True):
    """A file of the bundle: path relative to the bundle with ``/``, size in bytes, sha256 in hex."""

    file: str
    bytes: int
    sha256: str


class GraphEntry(_Record, frozen=True):
    """One ONNX graph; ``weights`` names the entry of ``Manifest.weights`` that its external data lies in."""

    file: str
    bytes: int
    sha256: str
    weights: str
    key: str  # fingerprint of everything the graph was made from
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Profile(_Record, frozen=True):
    """Shapes of one dynamic input that an engine accepts and was optimised for."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


class EngineEntry(_Record, frozen=True):
    """One graph as a TensorRT engine."""

    file: str
    bytes: int
    sha256: str
    key: str  # fingerprint of everything the engine was made from
    graph: str  # sha256 of the ONNX graph it was made from
    weights: str  # sha256 of that graph's weights file
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profile: dict[str, Profile]  # by dynamic input
    activation_bytes: int  # device memory of a run, as the builder reports it
    weight_bytes: int  # device memory of the weights
    layers: int  # after the builder's fusions
    build_seconds: float


class EngineSet(_Record, frozen=True):
    """Engines of one library for one kind of GPU."""

    library: EngineLibrary
    version: str  # of the library that built them and alone can load them
    compute_capability: str | None  # such as "8.6"; None runs on Ampere and later
    gpu: str | None  # what they were built on or for, in words
    engines: dict[str, EngineEntry]  # by graph


class Model(_Record, frozen=True):
    """Where the weights come from."""

    id: str
    revision: str | None
    random_weights: bool
    seed: int | None
    configs: dict[str, dict[str, Any]]  # diffusers' own, by component


class Scheduler(_Record, frozen=True):
    """Constants of the Euler v-prediction schedule; sigmas are Karras et al.'s (2022), equation 5."""

    sigma_min: float
    sigma_max: float
    rho: float
    final_sigma: float
    initial_noise_scale: float  # standard deviation of the first latents


class Guidance(_Record, frozen=True):
    """Default guidance scale of the first and of the last frame; linear in between."""

    min: float
    max: float


class SizeRange(_Record, frozen=True):
    """Sizes that a bundle's videos can have: ``min`` .. ``max`` in steps of ``multiple``, frames or pixels."""

    min: int
    max: int
    multiple: int

    def __contains__(self, size: int) -> bool:
        return self.min <= size <= self.max and size % self.multiple == 0

    def __str__(self) -> str:
        steps = "" if self.multiple == 1 else f" in steps of {self.multiple}"
        return f"{self.min}..{self.max}{steps}"


class Sizes(NamedTuple):
    """Frames, and pixels of each."""

    frames: int
    height: int
    width: int

    def smallest(self, dynamic: Mapping[Dimension, SizeRange]) -> Sizes:
        """Return the least of every size that ``dynamic`` leaves open."""
        return self._replace(**{name: found.min for name, found in dynamic.items()})

    def largest(self, dynamic: Mapping[Dimension, SizeRange]) -> Sizes:
        """Return the most of every size that ``dynamic`` leaves open."""
        return self._replace(**{name: found.max for name, found in dynamic.items()})


DIMENSIONS: tuple[Dimension, ...] = ("frames", "height", "width")


def describe_sizes(sizes: Sizes, dynamic: Mapping[Dimension, SizeRange]) -> dict[Dimension, str]:
    """Return each size in words: a number, or the range that a run may choose from."""
    return {name: str(dynamic.get(name, size)) for name, size in zip(DIMENSIONS, sizes, strict=True)}


class BiasSlice(_Record, frozen=True):
    """Channels ``offset`` .. ``offset + channels`` of ``sca_bias`` belong to this transformer block."""

    block: str
    kind: Literal["sca", "tca"]
    offset: int
    channels: int


class Manifest(_Record, frozen=True):
    """The whole of ``manifest.json``."""

    schema_version: int
    vcut_version: str
    model: Model
    height: int  # pixels
    width: int
    frames: int
    latent_channels: int
    vae_scale_factor: int  # pixels per latent pixel
    precision: Precision
    tca: Tca
    steps: int
    cut_step: int  # first quality improvement step, 1-based; steps + 1 never cuts
    guidance: Guidance
    scheduler: Scheduler
    decode_chunk: int  # frames decoded at a time
    sca_bias: tuple[BiasSlice, ...]
    graphs: dict[str, GraphEntry]
    weights: dict[str, FileEntry]
    decode_overlap: int = 0  # frames decoded on each side of a chunk and not kept
    engines: dict[str, EngineSet] = msgspec.field(default_factory=dict)  # by target
    dynamic: dict[Dimension, SizeRange] = msgspec.field(default_factory=dict)  # what a run may choose
    deep_features: int = 0  # channels of what steps hand on to shallow ones; 0: the bundle has no shallow graphs

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
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one frame's latents."""
        return self.latent_shape_of(self.sizes)

    def latent_shape_of(self, sizes: Sizes) -> tuple[int, int, int]:
        """Return channels, height and width of one frame's latents in a video of ``sizes``."""
        factor = self.vae_scale_factor
        return (self.latent_channels, sizes.height // factor, sizes.width // factor)

    @property
    def encoder_size(self) -> int:
        """Pixels a side of what the image encoder sees."""
        size = self.model.configs.get("image_encoder", {}).get("image_size", 224)  # transformers' default
        return size if isinstance(size, int) else 0

    @property
    def bias_channels(self) -> int:
        """N, the width of ``sca_bias``."""
        return sum(entry.channels for entry in self.sca_bias)

    @property
    def graph_names(self) -> tuple[str, ...]:
        """The graphs that this bundle must have."""
        return (*GRAPHS, *SHALLOW.values()) if self.deep_features else GRAPHS

    @property
    def decode_frames(self) -> int | None:
        """Frames that ``decode`` takes: exactly so many, or any number (None)."""
        shapes = [tensor.shape for tensor in self.graphs["decode"].inputs if tensor.name == "latents" and tensor.shape]
        return shapes[0][0] if shapes and isinstance(shapes[0][0], int) else None

    def sources(self, graph: str) -> tuple[str, str]:
        """Return the sha256 of a graph and of its weights file: what an engine of it is made from."""
        entry = self.graphs[graph]
        return entry.sha256, self.weights[entry.weights].sha256

    def files(self) -> list[Entry]:
        """Return every file the manifest vouches for."""
        return [*self.onnx_files(), *self.engine_files()]

    def onnx_files(self) -> list[Entry]:
        """Return the graphs and their weights."""
        return [*self.graphs.values(), *self.weights.values()]

    def engine_files(self) -> list[Entry]:
        """Return the engines of every target."""
        return [entry for target in self.engines.values() for entry in target.engines.values()]


Entry = GraphEntry | FileEntry | EngineEntry


def encode(manifest: Manifest) -> bytes:
    """Return the manifest as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode(data: bytes) -> Manifest:
    """Parse a manifest.

    Raises:
        ValueError: it is not JSON, not a manifest, or one of a schema this version does not read; the message says
            which, on one line.
    """
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
    except msgspec.ValidationError:
        raise ValueError("manifest.json has no schema_version, so this is not a vcut bundle: check the path") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"manifest.json is not JSON ({_one_line(error)}): export the bundle again with --force"
        ) from None
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"manifest.json has schema version {version}, this vcut reads up to {SCHEMA_VERSION}: upgrade vcut"
        )
    if version < 1:
        raise ValueError(
            f"manifest.json has the impossible schema version {version}: export the bundle again with --force"
        )
    try:
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"manifest.json is damaged ({_one_line(error)}): export the bundle again with --force"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class _Version(msgspec.Struct):
    schema_version: int
