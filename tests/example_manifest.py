"""A manifest without a bundle: its shapes are written out by hand, so that they check the records of graphs."""

from __future__ import annotations

from typing import Any

from vcut_runtime.bundle.manifest import (
    SCHEMA_VERSION,
    Adapter,
    BiasSlice,
    EngineEntry,
    EngineSet,
    FileEntry,
    GraphEntry,
    Guidance,
    Manifest,
    Model,
    Profile,
    TensorSpec,
)
from vcut_runtime.schedule import Scheduler, named_schedules

Shapes = dict[str, tuple[int | str, ...]]

SCHEDULER = Scheduler(0.002, 700.0, 7.0, 0.0, (700.0**2 + 1) ** 0.5)  # stabilityai/stable-video-diffusion-img2vid-xt
TARGET = "tensorrt-rtx-portable"


def example(*, deep: bool = False) -> Manifest:
    """Return the manifest of a bundle of 14 frames of 64x96 with engines; ``deep`` adds shallow steps."""
    graphs = {name: _graph(name, *sides) for name, sides in _shapes(deep).items()}
    return Manifest(
        schema_version=SCHEMA_VERSION,
        vcut_version="0.1.0",
        model=Model(
            id="Stable Vidéo 动画",
            revision=None,
            random_weights=True,
            seed=0,
            unet=None,
            adapters=(Adapter("motion.safetensors", "ef" * 32, 0.8),),
            configs={"unet": {"num_attention_heads": [5, 10, 20, 20], "deep": {"scaling": 0.18215, "none": None}}},
        ),
        height=64,
        width=96,
        frames=14,
        dynamic={},
        latent_channels=4,
        vae_scale_factor=8,
        precision="fp32",
        operators="cpu",
        tca="remove",
        guidance=Guidance(min=1.0, max=3.0),
        scheduler=SCHEDULER,
        schedules=named_schedules(SCHEDULER, 25, 17),
        measurements={},
        decode_chunk=14,
        decode_overlap=3,
        deep_features=32 if deep else 0,
        sca_bias=(BiasSlice("down.0", "sca", 0, 64), BiasSlice("mid", "tca", 64, 32)),
        graphs=graphs,
        weights={"unet": FileEntry("unet.bin", 2**40, "cd" * 32)},
        engines={TARGET: _engines(graphs)},
    )


def _shapes(deep: bool) -> dict[str, tuple[Shapes, Shapes]]:
    """Return each graph's inputs and outputs."""
    image, latents, video = (1, 3, 64, 96), (1, 4, 8, 12), (1, 14, 4, 8, 12)
    step: Shapes = {
        "latents": video,
        "image_latents": latents,
        "sigma": (1,),
        "added_time_ids": (1, 3),
        "previous_denoised": video,
        "coefficients": (3,),
    }
    result: Shapes = {"next_latents": video, "denoised": video}
    guided: Shapes = {**step, "sca_bias": (2, 96), "guidance_scale": (14,)}
    conditional: Shapes = {**step, "sca_bias": (1, 96)}
    features: list[Shapes] = [{"deep_features": (rows, 14, 32, 8, 12)} if deep else {} for rows in (2, 1)]
    shapes: dict[str, tuple[Shapes, Shapes]] = {
        "condition": (
            {"image": image, "noise": image, "noise_aug_strength": (1,)},
            {"image_latents": latents, "sca_bias": (2, 96)},
        ),
        "semantic_binding": (guided, result | features[0]),
        "quality_improvement": (conditional, result | features[1]),
        "decode": ({"latents": ("n", 4, 8, 12)}, {"frames": ("n", 64, 96, 3)}),
    }
    if deep:
        shapes["semantic_binding_shallow"] = (guided | features[0], result)
        shapes["quality_improvement_shallow"] = (conditional | features[1], result)
    return shapes


def _graph(name: str, inputs: Shapes, outputs: Shapes) -> GraphEntry:
    def specs(side: Shapes) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(key, "uint8" if key == "frames" else "float32", shape) for key, shape in side.items())

    return GraphEntry(f"{name}.onnx", 1000, "ab" * 32, None, "unet", "key", specs(inputs), specs(outputs))


def _engines(graphs: dict[str, GraphEntry]) -> EngineSet:
    """Return the engines of ``graphs``; decode takes 1 to 14 frames."""
    profile = Profile((1, 4, 8, 12), (14, 4, 8, 12), (14, 4, 8, 12))
    engines: dict[str, Any] = {}
    for name, graph in graphs.items():
        engines[name] = EngineEntry(
            file=f"engines/{name}.engine",
            bytes=2**33,
            sha256="ef" * 32,
            key="key",
            graph=graph.sha256,
            weights="cd" * 32,
            inputs=graph.inputs,
            outputs=graph.outputs,
            profile={"latents": profile} if name == "decode" else {},
            activation_bytes=2**30,
            weight_bytes=2**32,
            layers=1,
            build_seconds=12.5,
        )
    return EngineSet("tensorrt-rtx", "1.7.1.116", None, "NVIDIA A10G", engines)
