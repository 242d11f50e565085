"""The reference of every fidelity figure: diffusers' unmodified pipeline on the checkpoint that a bundle was made from.

Both pipelines get the same numbers without a change to diffusers. Its latents are an argument. The noise of its
augmentation is the first thing that it draws from its generator, so :func:`draw` draws that too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np

from vcut_export.checkpoint import Checkpoint, presets, resolve
from vcut_runtime import Pipeline
from vcut_runtime.bundle.manifest import Manifest, Precision
from vcut_runtime.errors import UsageError, VcutError
from vcut_runtime.run_plan import resize_matrices

_NEEDED = ("torch", "diffusers", "skimage")
_COMPARED = ("unet", "vae", "image_encoder", "scheduler")
_TOLERANCE: Mapping[str, float] = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 5e-2}  # of the largest bias


@dataclass(frozen=True)
class Reference:
    """What diffusers runs, and for which bundle.

    Attributes:
        manifest: of the bundle.
        source: the checkpoint as arguments of ``vcut_export.resolve`` and ``vcut_export.export``.
        checkpoint: what it resolved to.
        steps: denoising steps of a run.
        decode_chunk: frames that diffusers decodes at a time. None is all of them, diffusers' own default.
    """

    manifest: Manifest
    source: Mapping[str, Any]
    checkpoint: Checkpoint
    steps: int
    decode_chunk: int | None

    @property
    def device(self) -> str:
        """Where diffusers runs."""
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def precision(self) -> Precision:
        """The bundle's precision on a GPU, where people use it; fp32 on a CPU."""
        return self.manifest.precision if self.device == "cuda" else "fp32"

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides its frames, except for image and seed."""
        return {
            "checkpoint": self.checkpoint.identity,
            "size": list(self.manifest.sizes),
            "steps": self.steps,
            "guidance": [self.manifest.guidance.min, self.manifest.guidance.max],
            "reference_precision": f"{self.precision} on {self.device}",
            "decode_chunk": self.decode_chunk,
            "diffusers": metadata.version("diffusers"),
        }

    def describe(self) -> dict[str, Any]:
        """Return what a result says of it."""
        return {
            "checkpoint": self.checkpoint.id,
            "revision": self.checkpoint.revision if self.checkpoint.hub else None,
            "random_weights": self.checkpoint.seed is not None,
            "pipeline": "diffusers StableVideoDiffusionPipeline",
            "precision": self.precision,
            "device": self.device,
            "decode_chunk": self.decode_chunk,
        }


def find_reference(
    manifest: Manifest, given: str | None = None, *, steps: int | None = None, decode_chunk: int | None = None
) -> Reference:
    """Return the reference of a bundle: the checkpoint that its manifest names, or the one ``given``.

    Raises:
        UsageError: there is no such checkpoint, it is another model, or a package is missing.
        VcutError: the hub is unavailable.
    """
    for package in _NEEDED:
        if find_spec(package) is None:
            raise UsageError(f"comparing with diffusers needs {package}: pip install 'vcut[export,bench]'")
    model = manifest.model
    if model.adapters and given is None:
        raise UsageError(
            f"the bundle has the LoRA {model.adapters[0].file} merged and does not know where it is: give a diffusers "
            "folder with it merged as --reference"
        )
    source: dict[str, Any] = {"random_weights": model.random_weights, "seed": model.seed or 0}
    if given is not None:
        source["model"] = given
    elif model.unet is not None:
        raise UsageError(
            f"the bundle has the UNet of {model.unet.name!r} and does not know where it is: save the model with that "
            "UNet as a diffusers folder, and give it with --reference"
        )
    elif model.id in (known := presets()) or "/" in model.id:
        from_hub = "hub" in known.get(model.id, {"hub": model.id}) and not model.random_weights
        source |= {"model": model.id, "revision": model.revision if from_hub else None}
    else:
        raise UsageError(
            f"the bundle was made from files named {model.id!r} and does not know where they are: "
            "give them with --reference"
        )
    checkpoint = resolve(**source)
    for component in _COMPARED:
        ours, theirs = model.configs.get(component, {}), checkpoint.configs[component]
        for key in sorted(ours.keys() & theirs.keys()):
            if not key.startswith("_") and ours[key] != theirs[key]:
                raise UsageError(
                    f"{source['model']} is not the bundle's model: its {component} has {key}={theirs[key]!r}, the "
                    f"bundle was made from {ours[key]!r}; give the bundle's own checkpoint with --reference"
                )
    return Reference(manifest, source, checkpoint, steps or manifest.steps, decode_chunk)


def random_checkpoint(manifest: Manifest) -> Checkpoint:
    """Return the architecture of a bundle with random weights."""
    return Checkpoint(manifest.model.id, manifest.model.configs, None, None, 0, {})


def choose_reference(manifest: Manifest, given: str | None) -> tuple[Reference, str | None]:
    """Return the reference of a bundle, and None. If it is unavailable: random weights, and the reason.

    Random weights take as long. Diffusers decodes as many frames at a time as the bundle.

    Raises:
        UsageError: the checkpoint ``given`` is unavailable.
    """
    chunk = manifest.decode_chunk if manifest.decode_chunk < manifest.frames else None
    try:
        return find_reference(manifest, given, decode_chunk=chunk), None
    except VcutError as error:
        if given is not None or find_spec("torch") is None:
            raise
        return Reference(manifest, {}, random_checkpoint(manifest), manifest.steps, chunk), str(error)


def load_diffusers(reference: Reference) -> Any:
    """Load diffusers' pipeline onto its device, silent.

    Raises:
        VcutError: its weights are unavailable.
    """
    from vcut_export.checkpoint.hub import download
    from vcut_export.checkpoint.weights import load_pipeline, torch_dtype
    from vcut_export.libraries import quiet_libraries

    precision = reference.manifest.precision
    with quiet_libraries():
        checkpoint = download(reference.checkpoint, precision)
        pipeline = load_pipeline(checkpoint, precision, torch_dtype(reference.precision))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(reference.device)


def draw(manifest: Manifest, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the noise [1, 3, H, W] and latents [1, F, C, h, w], float32, that diffusers draws for ``seed``."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 3, manifest.height, manifest.width, generator=generator)
    latents = torch.randn(1, manifest.frames, *manifest.geometry.latent_shape(), generator=generator)
    return noise.numpy(), latents.numpy()


def video_options(reference: Reference, seed: int) -> dict[str, Any]:
    """Return what diffusers' pipeline is called with for the bundle's video, apart from the image; see :func:`draw`."""
    import torch

    from vcut_export.checkpoint.weights import torch_dtype

    manifest = reference.manifest
    _, latents = draw(manifest, seed)
    return {
        "height": manifest.height,
        "width": manifest.width,
        "num_frames": manifest.frames,
        "num_inference_steps": reference.steps,
        "min_guidance_scale": manifest.guidance.min,
        "max_guidance_scale": manifest.guidance.max,
        "latents": torch.from_numpy(latents).to(torch_dtype(reference.precision)),
        "generator": torch.Generator().manual_seed(seed),
        "decode_chunk_size": reference.decode_chunk,
        "output_type": "np",
    }


def diffusers_frames(reference: Reference, pipeline: Any, image: np.ndarray, seed: int) -> np.ndarray:
    """Return diffusers' video of ``image`` [H, W, 3], uint8, as uint8 [F, H, W, 3].

    Raises:
        VcutError: the GPU's memory is too small.
    """
    import torch
    from PIL import Image

    try:
        frames = pipeline(Image.fromarray(image), **video_options(reference, seed)).frames[0]
    except torch.OutOfMemoryError:
        raise VcutError(
            "diffusers ran out of GPU memory: give --decode-chunk with fewer frames, or close other programs"
        ) from None
    return (frames * 255).round().astype(np.uint8)


def attention_biases(pipeline: Any) -> dict[str, list[float]]:
    """Return the output bias of every cross-attention of diffusers' UNet, by block."""
    kinds = {"BasicTransformerBlock", "TemporalBasicTransformerBlock"}
    return {
        name: module.attn2.to_out[0].bias.float().cpu().tolist()
        for name, module in pipeline.unet.named_modules()
        if type(module).__name__ in kinds and module.attn2 is not None
    }


def check_same_weights(biases: Mapping[str, list[float]], pipeline: Pipeline, model: str) -> None:
    """Refuse a checkpoint whose weights are not the bundle's.

    The unconditional row of ``sca_bias`` is the output bias of every folded attention. It differs even between a model
    and its fine-tuned versions.

    Raises:
        UsageError: the weights differ.
    """
    manifest, backend = pipeline.manifest, pipeline.backend
    image = np.zeros((1, 3, manifest.height, manifest.width), dtype=np.float32)
    inputs = {
        "image": image,
        "noise": image,
        "noise_aug_strength": np.zeros(1, dtype=np.float32),
        **resize_matrices(manifest, manifest.sizes),
    }
    outputs = backend.run("condition", {name: backend.upload(value) for name, value in inputs.items()})
    row = backend.download(outputs["sca_bias"])[0]
    expected = np.concatenate([biases.get(entry.block, [np.nan] * entry.channels) for entry in manifest.sca_bias])
    if expected.shape == row.shape:
        error = np.abs(row - expected).max() / max(np.abs(expected).max(), 1e-6)
        if error <= _TOLERANCE[manifest.precision]:  # False for NaN
            return
    raise UsageError(
        f"the weights of {model} are not those of the bundle {pipeline.bundle.root}: give the bundle's own checkpoint "
        "with --reference"
    )
