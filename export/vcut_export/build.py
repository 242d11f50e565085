"""The part of an export that needs torch: load, fold, trace, write. The UNet is gone before the rest is loaded."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from vcut_export import weights
from vcut_export.cpu_layers import prefer_cpu_kernels
from vcut_export.deep_features import split_unet
from vcut_export.feed_forward import chunk_feed_forwards
from vcut_export.fold import Projection, fold, project_cross_attention
from vcut_export.graphs import STEPS, Condition, Decode
from vcut_export.onnx_files import write_graph, write_weights
from vcut_export.plan import WEIGHTS, Plan
from vcut_export.tracing import GraphSpec, trace_all
from vcut_runtime import __version__
from vcut_runtime.graphs import graph_tensors
from vcut_runtime.manifest import SHALLOW, BiasSlice, FileEntry, GraphEntry, describe_sizes

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
Clock = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Built:
    """The files that were made. ``slices`` is None if no graph that has ``sca_bias`` was."""

    graphs: Mapping[str, GraphEntry]
    weights: Mapping[str, FileEntry]
    slices: tuple[BiasSlice, ...] | None


def build(plan: Plan, folder: Path, stale: tuple[str, ...], clock: Clock) -> Built:
    """Make the graphs named in ``stale`` in ``folder``, the bundle's ``onnx``."""
    writer = _Writer(plan, folder, clock)
    slices, projection = None, None
    if "semantic_binding" in stale or "condition" in stale:
        with clock("load unet"):
            unet = weights.load_unet(plan.checkpoint, plan.precision, DTYPES[plan.precision])
        with clock("fold cross-attention"):
            projection = project_cross_attention(unet, plan.tca)
            packed = fold(unet, projection, plan.frame_positions)
            if plan.low_memory:
                chunk_feed_forwards(unet)
            if plan.precision == "fp32":
                prefer_cpu_kernels(unet)
            slices = projection.slices
            writer.bias_channels = len(projection.bias)
        if "semantic_binding" in stale:
            shallow = split_unet(unet, packed) if plan.deep_cache else None
            modules: dict[str, torch.nn.Module] = {name: step(unet, packed) for name, step in STEPS.items()}
            if shallow is not None:
                modules |= {SHALLOW[name]: step(shallow, packed) for name, step in STEPS.items()}
            writer.write(modules)
            del modules, shallow
        del unet, packed
        gc.collect()
    rest: dict[str, torch.nn.Module] = {}
    with clock("load image encoder and vae"):
        if "condition" in stale and projection is not None:
            rest["condition"] = _condition(plan, projection)
        if "decode" in stale:
            vae = weights.load_vae(plan.checkpoint, plan.precision, DTYPES[plan.precision])
            rest["decode"] = Decode(vae, plan.frames_at_once)
    if rest:
        writer.write(rest)
    return Built(writer.graphs, writer.weights, slices)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep torch's exporter, diffusers and transformers from printing what a user can do nothing about."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.get_verbosity()  # both set their loggers up at first use, and would undo what follows
    transformers.utils.logging.get_verbosity()
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _no_bars():
                yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Hide the bars that transformers shows while it loads; its switch turns those of the hub too."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    bars, hubs = is_progress_bar_enabled(), not are_progress_bars_disabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            enable_progress_bar()
            if not hubs:
                disable_progress_bars()


def weight_bytes(plan: Plan) -> int:
    """Return an upper bound of the bundle's size, from the architectures alone."""
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionModelWithProjection

    unet = weights.empty(plan.checkpoint, "unet", UNetSpatioTemporalConditionModel)
    vae = weights.empty(plan.checkpoint, "vae", AutoencoderKLTemporalDecoder)
    encoder = weights.empty(plan.checkpoint, "image_encoder", CLIPVisionModelWithProjection)
    body = sum(p.numel() for module in (unet, encoder, vae.decoder) for p in module.parameters())
    vae_encoder = sum(p.numel() for p in vae.encoder.parameters())
    return body * DTYPES[plan.precision].itemsize + vae_encoder * 4


def vae_encoder_dtype(plan: Plan) -> torch.dtype:
    """Return float32 for the VAE encoder where the checkpoint asks for it (``force_upcast``), as diffusers does."""
    upcast = plan.checkpoint.configs["vae"].get("force_upcast", True)
    return torch.float32 if upcast else DTYPES[plan.precision]


def _condition(plan: Plan, projection: Projection) -> Condition:
    encoder = weights.load_image_encoder(plan.checkpoint, plan.precision, DTYPES[plan.precision])
    vae = weights.load_vae(plan.checkpoint, plan.precision, vae_encoder_dtype(plan))
    extractor = plan.checkpoint.configs["feature_extractor"]
    fixed = () if plan.resizes else (plan.height, plan.width)
    return Condition(encoder, vae, projection, extractor, *fixed)


class _Writer:
    """Traces modules and writes their graphs; modules that share a weights file are traced and written together."""

    def __init__(self, plan: Plan, folder: Path, clock: Clock) -> None:
        self.plan, self.folder, self.clock = plan, folder, clock
        self.bias_channels = 0
        self.graphs: dict[str, GraphEntry] = {}
        self.weights: dict[str, FileEntry] = {}

    def write(self, modules: Mapping[str, torch.nn.Module]) -> None:
        specs = {name: _spec(self.plan, name, self.bias_channels) for name in modules}
        with self.clock(f"trace {', '.join(modules)}"):
            models = trace_all({name: (module.eval(), specs[name]) for name, module in modules.items()})
        for file in dict.fromkeys(WEIGHTS[name] for name in modules):
            sharing = {name: model for name, model in models.items() if WEIGHTS[name] == file}
            with self.clock(f"write {file}"):
                self._write(file, sharing, specs)

    def _write(self, file: str, models: Mapping[str, ir.Model], specs: Mapping[str, GraphSpec]) -> None:
        entry, placed = write_weights(list(models.values()), self.folder / file)
        self.weights[file] = FileEntry(f"onnx/{entry.file}", entry.bytes, entry.sha256)
        for name, model in models.items():
            written = write_graph(model, self.folder / f"{name}.onnx", placed, _metadata(self.plan, name))
            self.graphs[name] = GraphEntry(
                file=f"onnx/{written.file}",
                bytes=written.bytes,
                sha256=written.sha256,
                weights=file,
                key=self.plan.keys[name],
                inputs=specs[name].inputs,
                outputs=specs[name].outputs,
            )


def _spec(plan: Plan, name: str, bias: int) -> GraphSpec:
    tensors = graph_tensors(
        plan.sizes,
        latent=(plan.latent_channels, plan.latent_height, plan.latent_width),
        bias_channels=bias,
        decode_frames=plan.decode_frames,
        dynamic=plan.dynamic,
        encoder_size=plan.checkpoint.configs["image_encoder"].get("image_size", 224),
        deep_features=plan.deep_features,
        precision=plan.precision,
    )[name]
    return GraphSpec(name, tensors.inputs, tensors.outputs, plan.precision == "fp32", plan.examples)


_DESCRIPTIONS = {
    "condition": "Image to VAE latents and to the packed bias of the folded cross-attentions.",
    "semantic_binding": "One denoising step with classifier-free guidance (VCUT's semantic binding stage).",
    "quality_improvement": "One conditional denoising step (VCUT's quality improvement stage).",
    "semantic_binding_shallow": "A guided denoising step that takes the deep features of an earlier one.",
    "quality_improvement_shallow": "A conditional denoising step that takes the deep features of an earlier one.",
    "decode": "Latents of a chunk of frames to 8-bit RGB.",
}


def _metadata(plan: Plan, name: str) -> dict[str, str]:
    values: dict[str, Any] = {
        "description": _DESCRIPTIONS[name],
        "vcut_version": __version__,
        "model": plan.checkpoint.id,
        "revision": plan.checkpoint.revision or "",
        "random_weights": str(plan.checkpoint.seed is not None).lower(),
        "graph": name,
        "precision": plan.precision,
        "tca": plan.tca,
        **describe_sizes(plan.sizes, plan.dynamic),
    }
    return {key: str(value) for key, value in values.items()}
