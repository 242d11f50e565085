"""What a bundle will be, decided and checked before any work: sizes, precision, and a fingerprint per graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from vcut_export.checkpoint import Checkpoint, scheduler_constants
from vcut_export.decode_size import decode_context, default_decode_chunk
from vcut_export.fingerprint import graph_keys
from vcut_export.lora import AdapterFile
from vcut_export.options import ExportOptions, Ranges
from vcut_runtime import __version__
from vcut_runtime.bundle.geometry import DIMENSIONS, MOST, Dimension, Geometry, SizeRange, Sizes
from vcut_runtime.bundle.manifest import (
    SCHEMA_VERSION,
    Adapter,
    BiasSlice,
    EngineSet,
    FileEntry,
    GraphEntry,
    Guidance,
    Manifest,
    Measurement,
    Model,
    Operators,
    Precision,
    encoder_size,
)
from vcut_runtime.errors import UsageError
from vcut_runtime.schedule import CutStep, check_cut_step, named_schedules, paper_cut_step


@dataclass(frozen=True)
class Plan:
    """Everything that decides a bundle's content.

    Attributes:
        checkpoint: the model.
        options: with every default filled in.
        geometry: sizes, those that a run may choose included.
        keys: fingerprint by graph; the bundle has these graphs.
    """

    checkpoint: Checkpoint
    options: ExportOptions
    geometry: Geometry
    keys: Mapping[str, str]

    @property
    def precision(self) -> Precision:
        """Of the network bodies."""
        assert self.options.precision is not None
        return self.options.precision

    @property
    def operators(self) -> Operators:
        """Which kind of device the graphs' operators suit."""
        assert self.options.operators is not None
        return self.options.operators

    @property
    def decode_overlap(self) -> int:
        """Frames decoded on each side of a seam for context."""
        return 0 if self.geometry.decode_frames is None else decode_context(self.geometry.decode_chunk)


def make_plan(checkpoint: Checkpoint, options: ExportOptions | None = None) -> Plan:
    """Fill in the model's defaults and check that everything fits together.

    Raises:
        UsageError: an option is impossible for this model; the message names a possible value.
    """
    _check_unet(checkpoint)
    options = options or ExportOptions()
    checkpoint = replace(
        checkpoint,
        adapters=tuple(AdapterFile.parse(text) for text in options.lora),
        ignore_unexpected=options.ignore_unexpected,
    )
    given = {name: getattr(options, name) for name in ("height", "width", "precision")}
    chosen = {name: checkpoint.defaults[name] if value is None else value for name, value in given.items()}
    options = replace(
        options,
        **chosen,
        operators=options.operators or (checkpoint.defaults["operators"] if chosen["precision"] == "fp32" else "gpu"),
        frames=checkpoint.configs["unet"].get("num_frames", 25) if options.frames is None else options.frames,
        cut_step=_cut_step(checkpoint, options.steps, options.cut_step),
    )
    if options.operators == "cpu" and options.precision != "fp32":
        raise UsageError(
            f"--operators cpu needs --precision fp32, not {options.precision}: choose fp32, or --operators gpu"
        )
    if options.upcast_attention and options.precision == "fp32":
        raise UsageError("--upcast-attention is for fp16 and bf16, fp32 attention is fp32 already: leave it out")
    geometry = _geometry(checkpoint, options)
    options = replace(options, decode_chunk=geometry.decode_chunk)
    return Plan(checkpoint, options, geometry, graph_keys(checkpoint, options, geometry))


def make_manifest(
    plan: Plan,
    slices: tuple[BiasSlice, ...],
    graphs: Mapping[str, GraphEntry],
    weights: Mapping[str, FileEntry],
    old: Manifest | None = None,
) -> Manifest:
    """Return the manifest of a bundle with these files.

    Of the ``old`` bundle it keeps what was added to it and belongs to these graphs: engines and tuned schedules.
    """
    checkpoint, options, geometry = plan.checkpoint, plan.options, plan.geometry
    scheduler = scheduler_constants(checkpoint.configs["scheduler"])
    assert isinstance(options.cut_step, int)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        vcut_version=__version__,
        model=Model(
            id=checkpoint.id,
            revision=checkpoint.revision,
            random_weights=checkpoint.seed is not None,
            seed=checkpoint.seed,
            unet=checkpoint.unet,
            adapters=tuple(Adapter(a.path.name, a.sha256, a.scale) for a in checkpoint.adapters),
            configs=dict(checkpoint.configs),
        ),
        height=geometry.sizes.height,
        width=geometry.sizes.width,
        frames=geometry.sizes.frames,
        dynamic=dict(geometry.dynamic),
        latent_channels=geometry.latent_channels,
        vae_scale_factor=geometry.vae_scale_factor,
        precision=plan.precision,
        operators=plan.operators,
        tca=options.tca,
        guidance=Guidance(min=1.0, max=3.0),
        scheduler=scheduler,
        schedules=named_schedules(scheduler, options.steps, options.cut_step),
        measurements=_measurements(plan),
        decode_chunk=geometry.decode_chunk,
        decode_overlap=plan.decode_overlap,
        deep_features=geometry.deep_features,
        sca_bias=slices,
        graphs={name: graphs[name] for name in plan.keys},
        weights=dict(weights),
        engines={},
    )
    if old is None:
        return manifest
    engines = _belonging(old.engines, manifest)
    same = all(name in old.graphs and old.sources(name) == manifest.sources(name) for name in manifest.graphs)
    tuned = old.measurements if same else {}
    return msgspec.structs.replace(
        manifest,
        engines=engines,
        schedules={**manifest.schedules, **{name: old.schedules[name] for name in tuned}},
        measurements={**manifest.measurements, **tuned},
    )


def _measurements(plan: Plan) -> dict[str, Measurement]:
    """Return what the named schedules were measured as, if the model is compiled as it was then."""
    defaults, options = plan.checkpoint.defaults, plan.options
    if any(getattr(options, name) != defaults.get(name) for name in ("height", "width", "precision")):
        return {}
    return msgspec.convert(defaults.get("measurements", {}), dict[str, Measurement])


def _belonging(engines: Mapping[str, EngineSet], manifest: Manifest) -> dict[str, EngineSet]:
    """Drop engines of other graphs than the manifest's, and targets that are left without any."""
    result = {}
    for target, engine_set in engines.items():
        kept = {
            name: engine
            for name, engine in engine_set.engines.items()
            if name in manifest.graphs and (engine.graph, engine.weights) == manifest.sources(name)
        }
        if kept:
            result[target] = msgspec.structs.replace(engine_set, engines=kept)
    return result


def _cut_step(checkpoint: Checkpoint, steps: int, cut_step: CutStep | None) -> int:
    if cut_step is None:
        return paper_cut_step(scheduler_constants(checkpoint.configs["scheduler"]), steps)
    return check_cut_step(cut_step, steps)


def _geometry(checkpoint: Checkpoint, options: ExportOptions) -> Geometry:
    """Return the sizes, checked against the model and each other."""
    assert options.frames is not None
    assert options.height is not None
    assert options.width is not None
    assert options.precision is not None
    sizes, factor = Sizes(options.frames, options.height, options.width), checkpoint.vae_scale_factor
    for name, value in (("height", sizes.height), ("width", sizes.width)):
        if value % factor:
            near = max(factor, round(value / factor) * factor)
            raise UsageError(f"--{name} {value} is not a multiple of {factor}, the model's factor: use {near}")
    unet = checkpoint.configs["unet"]
    geometry = Geometry(
        sizes=sizes,
        dynamic=_ranges(checkpoint, sizes, options.dynamic or {}),
        latent_channels=checkpoint.configs["vae"].get("latent_channels", 4),
        vae_scale_factor=factor,
        encoder_size=encoder_size(checkpoint.configs["image_encoder"]),
        decode_chunk=1,
        deep_features=unet.get("block_out_channels", [320])[0] if options.deep_cache else 0,
    )
    return replace(geometry, decode_chunk=_decode_chunk(geometry, options))


def _ranges(checkpoint: Checkpoint, sizes: Sizes, dynamic: Ranges) -> dict[Dimension, SizeRange]:
    """Check the ranges of free sizes. Raises UsageError."""
    result: dict[Dimension, SizeRange] = {}
    for name in DIMENSIONS:
        if name not in dynamic:
            continue
        low, high = dynamic[name]
        allowed = SizeRange(low, high, 1 if name == "frames" else checkpoint.vae_scale_factor)
        own, most = getattr(sizes, name), getattr(MOST, name)
        if high > most:
            raise UsageError(f"--dynamic {name}={low}:{high} is too large: give at most {most}")
        if not 1 <= low <= high or low not in allowed or high not in allowed:
            steps = "" if allowed.multiple == 1 else f" in multiples of {allowed.multiple}"
            raise UsageError(f"--dynamic {name}={low}:{high} is not a range{steps}: give the least and the most")
        if own not in allowed:
            raise UsageError(f"--dynamic {name}={allowed} leaves out --{name} {own}, the default of runs: change one")
        result[name] = allowed
    if unknown := sorted(set(dynamic) - set(result)):
        raise UsageError(f"--dynamic has no {unknown[0]!r}: give ranges of {', '.join(DIMENSIONS)}")
    return result


def _decode_chunk(geometry: Geometry, options: ExportOptions) -> int:
    """Return the frames to decode at a time: for the largest video, and no more than the shortest one has.

    A decoder that takes a whole video takes any number of frames. Raises UsageError.
    """
    assert options.precision is not None
    fewest, (most, height, width) = geometry.smallest.frames, geometry.largest
    asked = options.decode_chunk
    if asked is None:
        chunk = default_decode_chunk(height * width, most, options.precision, options.small_gpu, geometry.has_free_size)
        return chunk if chunk == most else min(chunk, fewest)
    if not (1 <= asked <= fewest or asked == most):
        whole = "" if most == fewest else f", or use {most}, those of the longest"
        raise UsageError(f"--decode-chunk {asked} is outside 1..{fewest}, the frames of the shortest video{whole}")
    return asked


def _check_unet(checkpoint: Checkpoint) -> None:
    """Check the wiring between UNet, VAE and image encoder that SVD's pipeline assumes."""
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
