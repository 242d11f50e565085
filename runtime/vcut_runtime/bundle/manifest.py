"""``manifest.json``: what a bundle says about itself. The format is specified in ``runtime/README.md``."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from vcut_runtime.bundle.geometry import Dimension, Geometry, SizeRange, Sizes
from vcut_runtime.schedule import DEFAULT_SCHEDULE, Schedule, Scheduler, cut_step_of

SCHEMA_VERSION = 5
MANIFEST = "manifest.json"

Precision = Literal["fp16", "bf16", "fp32"]
Operators = Literal["cpu", "gpu"]
Tca = Literal["remove", "fold"]
EngineLibrary = Literal["tensorrt", "tensorrt-rtx"]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the manifest. It never changes, and a field that this version does not know is an error."""


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
    """One ONNX graph; ``weights`` names the entry of ``Manifest.weights`` that its external data lies in.

    The file has standard operators alone, and engines are built from it. ``contrib`` is the same graph with operators
    of ONNX Runtime's own (``com.microsoft``). Its CPU runs them faster and in less memory. None: the graph has nothing
    that such an operator would replace.
    """

    file: str
    bytes: int
    sha256: str
    contrib: FileEntry | None
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


class LocalFiles(_Record, frozen=True):
    """A file or folder of the machine that made the bundle: its name, and a fingerprint of what it held."""

    name: str
    fingerprint: str


class Adapter(_Record, frozen=True):
    """A LoRA that is merged into the UNet's weights."""

    file: str  # its name, without the folder
    sha256: str
    scale: float


class Model(_Record, frozen=True):
    """Where the weights come from."""

    id: str
    revision: str | None
    random_weights: bool
    seed: int | None
    unet: LocalFiles | None  # where the UNet comes from that took the place of the model's own
    adapters: tuple[Adapter, ...]  # in the order of their merging
    configs: dict[str, dict[str, Any]]  # diffusers' own, by component


class Guidance(_Record, frozen=True):
    """Default guidance scale of the first and of the last frame; linear in between."""

    min: float
    max: float


class BiasSlice(_Record, frozen=True):
    """Channels ``offset`` .. ``offset + channels`` of ``sca_bias`` belong to this transformer block."""

    block: str
    kind: Literal["sca", "tca"]
    offset: int
    channels: int


class Measurement(_Record, frozen=True):
    """What a named schedule was measured as: its PSNR to the converged video of this bundle, on unseen photographs."""

    psnr: float  # dB, mean
    low: float | None  # lower end of the mean's 95 % interval; None for a single photograph
    images: int
    seeds: int  # videos of an image
    seconds: float  # of the step loop
    device: str
    backend: str
    date: str


class Manifest(_Record, frozen=True):
    """The whole of ``manifest.json``."""

    schema_version: int
    vcut_version: str
    model: Model
    height: int  # pixels
    width: int
    frames: int
    dynamic: dict[Dimension, SizeRange]  # the sizes that a run may choose
    latent_channels: int
    vae_scale_factor: int  # pixels per latent pixel
    precision: Precision  # of the network bodies
    operators: Operators  # which kind of device the graphs' operators suit
    tca: Tca
    guidance: Guidance
    scheduler: Scheduler
    schedules: dict[str, Schedule]  # by name; "vcut" is the default of a run
    measurements: dict[str, Measurement]  # by schedule; those without one are untuned
    decode_chunk: int  # frames decoded at a time
    decode_overlap: int  # frames decoded on each side of a chunk and not kept
    deep_features: int  # channels of what full steps hand on to shallow steps; 0: the bundle has no shallow graphs
    sca_bias: tuple[BiasSlice, ...]
    graphs: dict[str, GraphEntry]
    weights: dict[str, FileEntry]
    engines: dict[str, EngineSet]  # by target

    @property
    def sizes(self) -> Sizes:
        """Sizes of a video, if a run does not choose others."""
        return Sizes(self.frames, self.height, self.width)

    @property
    def geometry(self) -> Geometry:
        """Everything that decides the shapes of tensors, except N."""
        return Geometry(
            self.sizes,
            self.dynamic,
            self.latent_channels,
            self.vae_scale_factor,
            encoder_size(self.model.configs.get("image_encoder", {})),
            self.decode_chunk,
            self.deep_features,
        )

    @property
    def bias_channels(self) -> int:
        """N, the width of ``sca_bias``."""
        return sum(entry.channels for entry in self.sca_bias)

    @property
    def schedule(self) -> Schedule:
        """The default schedule of a run."""
        return self.schedules[DEFAULT_SCHEDULE]

    @property
    def steps(self) -> int:
        """Number of steps of the default schedule."""
        return len(self.schedule)

    @property
    def cut_step(self) -> int:
        """First quality improvement step of the default schedule, 1-based; ``steps`` + 1 if it never cuts."""
        return cut_step_of(self.schedule)

    def sources(self, graph: str) -> tuple[str, str]:
        """Return the sha256 of a graph and of its weights file: what an engine of it is made from."""
        entry = self.graphs[graph]
        return entry.sha256, self.weights[entry.weights].sha256

    def files(self) -> list[Entry]:
        """Return every file that the manifest lists."""
        return [*self.onnx_files(), *self.engine_files()]

    def onnx_files(self) -> list[Entry]:
        """Return the graphs and their weights."""
        return [*graph_files(*self.graphs.values()), *self.weights.values()]

    def engine_files(self) -> list[Entry]:
        """Return the engines of every target."""
        return [entry for target in self.engines.values() for entry in target.engines.values()]


Entry = GraphEntry | FileEntry | EngineEntry


def graph_files(*graphs: GraphEntry) -> list[Entry]:
    """Return the files of graphs without their weights: one or two of each graph."""
    return [file for graph in graphs for file in (graph, graph.contrib) if file is not None]


def encoder_size(config: dict[str, Any]) -> int:
    """Return the height and width of what an image encoder with this configuration sees; 0 if it is not a number."""
    size = config.get("image_size", 224)  # transformers' default
    return size if isinstance(size, int) else 0


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
    if version != SCHEMA_VERSION:
        fix = "upgrade vcut" if version > SCHEMA_VERSION else "export the bundle again with --force"
        raise ValueError(f"manifest.json has schema version {version}, this vcut reads {SCHEMA_VERSION}: {fix}")
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
