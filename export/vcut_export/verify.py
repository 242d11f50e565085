"""Compare a bundle's graphs with unmodified diffusers and transformers modules of the same checkpoint."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from vcut_export.checkpoint import weights
from vcut_export.plan import Plan
from vcut_runtime.backends.onnxruntime import OnnxRuntimeBackend
from vcut_runtime.bundle import Bundle
from vcut_runtime.bundle.geometry import Sizes
from vcut_runtime.bundle.graph import FEATURES
from vcut_runtime.comparison import TOLERANCE, Arrays, inputs_of, relative_error, sample_inputs
from vcut_runtime.errors import VcutError

Clock = Callable[[str], AbstractContextManager[None]]


def verify_bundle(bundle: Bundle, plan: Plan, clock: Clock) -> dict[str, float]:
    """Run every graph with ONNX Runtime and its reference with torch on the same random inputs.

    The references are the checkpoint's own modules in float32, driven step by step as diffusers'
    ``StableVideoDiffusionPipeline`` drives them. With ``tca="remove"`` the temporal blocks' ``attn2`` is taken out.

    If sizes are free, the smallest sizes are compared too.

    Returns:
        By graph, the largest error relative to the output's largest magnitude. For ``decode`` both are taken of the
        8-bit values, whose own rounding is within half a level; an error of one level (1/255) is not counted.

    Raises:
        VcutError: a graph is off by more than the precision's tolerance.
    """
    geometry = plan.geometry
    with clock("verify"):
        measured = [_errors(bundle, plan, sizes) for sizes in dict.fromkeys((geometry.sizes, geometry.smallest))]
        errors = {name: max(by_graph[name] for by_graph in measured) for name in bundle.manifest.graphs}
    tolerance = TOLERANCE[plan.precision]
    for name, error in errors.items():
        if not error <= tolerance:  # also catches NaN
            raise VcutError(
                f"graph {name} is off by {error:.1e} of the output's largest magnitude, more than {tolerance:.0e} for "
                f"{plan.precision}: the export failed; try --precision fp32 or report the model"
            )
    return errors


def _errors(bundle: Bundle, plan: Plan, sizes: Sizes) -> dict[str, float]:
    """Return each graph's error for videos of ``sizes``."""
    inputs = sample_inputs(bundle.manifest, sizes)
    references = _condition_and_decode(plan, inputs)
    embedding = references.pop("embedding")["embedding"]
    outputs = {"condition": _run(bundle, "condition", inputs)}
    inputs["step"]["sca_bias"] = outputs["condition"]["sca_bias"]  # the bias that the compiled graph gives
    for name, reference in _steps(plan, inputs, embedding).items():
        outputs[name] = _run(bundle, name, inputs)
        references[name] = reference
    outputs["decode"] = _run(bundle, "decode", inputs)
    return {
        name: max(relative_error(result[key], references[name][key]) for key in references[name])
        for name, result in outputs.items()
    }


def _run(bundle: Bundle, graph: str, samples: Mapping[str, Arrays]) -> Arrays:
    backend = OnnxRuntimeBackend(bundle, "onnxruntime-cpu")  # a new one each time: one graph is in memory at a time
    inputs = inputs_of(graph, samples, bundle.manifest)
    outputs = backend.run(graph, {name: backend.upload(value) for name, value in inputs.items()})
    return {name: backend.download(value) for name, value in outputs.items()}


@torch.no_grad()
def _condition_and_decode(plan: Plan, inputs: Mapping[str, Any]) -> dict[str, Arrays]:
    """References of ``condition`` and ``decode``, and the image embedding [1, 1, D]."""
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing

    image, noise = (torch.from_numpy(inputs["condition"][name]) for name in ("image", "noise"))
    vae = weights.load_vae(plan.checkpoint, plan.precision, torch.float32)
    augmented = 2.0 * image - 1.0 + 0.02 * noise
    image_latents = vae.encode(augmented).latent_dist.mode()
    latents = torch.from_numpy(inputs["decode"]["latents"])
    frames = vae.decode(latents / vae.config.scaling_factor, num_frames=len(latents)).sample
    frames = (frames / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    del vae
    gc.collect()

    encoder = weights.load_image_encoder(plan.checkpoint, plan.precision, torch.float32)
    size = encoder.config.image_size
    extractor = plan.checkpoint.configs["feature_extractor"]
    mean, std = (torch.tensor(extractor[key]).view(1, 3, 1, 1) for key in ("image_mean", "image_std"))
    small = (_resize_with_antialiasing(image * 2.0 - 1.0, (size, size)) + 1.0) / 2.0
    embedding = encoder((small - mean) / std).image_embeds[:, None].numpy()
    del encoder
    gc.collect()
    return {
        "condition": {"image_latents": image_latents.numpy(), "sca_bias": _bias(plan, embedding)},
        "decode": {"frames": (frames * 255).round().astype(np.uint8)},
        "embedding": {"embedding": embedding},
    }


@torch.no_grad()
def _bias(plan: Plan, embedding: np.ndarray) -> np.ndarray:
    """Both rows of ``sca_bias``, read off the unmodified blocks: run each ``attn2`` on arbitrary queries."""
    unet = weights.load_unet(plan.checkpoint, plan.precision, torch.float32)
    rows = torch.from_numpy(np.concatenate([np.zeros_like(embedding), embedding]))  # [2, 1, D]
    kinds = ["BasicTransformerBlock", "TemporalBasicTransformerBlock"]
    constants = [
        module.attn2(torch.randn(2, 1, module.attn2.to_q.in_features), encoder_hidden_states=rows)[:, 0]
        for kind in (kinds if plan.options.tca == "fold" else kinds[:1])
        for module in unet.modules()
        if type(module).__name__ == kind and module.attn2 is not None
    ]
    del unet
    gc.collect()
    return torch.cat(constants, dim=1).numpy()


@torch.no_grad()
def _steps(plan: Plan, inputs: Mapping[str, Any], embedding: np.ndarray) -> dict[str, Arrays]:
    """References of the steps: diffusers' UNet and diffusers' scheduler arithmetic.

    For a shallow step diffusers' UNet runs whole, and one layer's output is exchanged for the deep features.
    """
    unet = weights.load_unet(plan.checkpoint, plan.precision, torch.float32)
    if plan.options.tca == "remove":
        for module in unet.modules():
            if type(module).__name__ == "TemporalBasicTransformerBlock":
                module.attn2 = None
    step = {name: torch.from_numpy(value) for name, value in inputs["step"].items()}
    latents, sigma = step["latents"], step["sigma"]
    image = step["image_latents"][:, None].expand_as(latents)
    scaled = latents / (sigma**2 + 1) ** 0.5
    conditional = torch.cat([scaled, image], dim=2)
    unconditional = torch.cat([scaled, torch.zeros_like(image)], dim=2)
    e = torch.from_numpy(embedding)
    block = unet.up_blocks[-1]
    layer = (block.attentions if hasattr(block, "attentions") else block.resnets)[-2]

    def velocity(
        sample: torch.Tensor, hidden: torch.Tensor, taken: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the velocity and the deep features, those of this step or those ``taken``, both [1, F, ., h, w]."""
        seen: list[torch.Tensor] = []

        def exchange(_: Any, __: Any, output: Any) -> Any:
            seen.append(output[0] if isinstance(output, tuple) else output)
            if taken is None:
                return output
            return (taken[0],) if isinstance(output, tuple) else taken[0]

        ids = step["added_time_ids"].repeat(len(sample), 1)
        with layer.register_forward_hook(exchange):
            v = unet(sample, 0.25 * sigma[0].log(), hidden, added_time_ids=ids, return_dict=False)[0]
        return v, seen[0][None]

    def update(v: torch.Tensor) -> Arrays:
        """Return what a step gives for the velocity ``v``."""
        denoised = v * (-sigma / (sigma**2 + 1) ** 0.5) + latents / (sigma**2 + 1)
        parts = zip(step["coefficients"], (latents, denoised, step["previous_denoised"]), strict=True)
        return {"next_latents": sum(k * part for k, part in parts).numpy(), "denoised": denoised.numpy()}  # pyright: ignore

    guidance = step["guidance_scale"][None, :, None, None, None]

    def both(taken: torch.Tensor | None) -> tuple[Arrays, Arrays]:
        """Return a guided and a conditional step."""
        v_uncond, of_uncond = velocity(unconditional, torch.zeros_like(e), None if taken is None else taken[:1])
        v_cond, of_cond = velocity(conditional, e, None if taken is None else taken[1:])
        guided, alone = update(v_uncond + guidance * (v_cond - v_uncond)), update(v_cond)
        if plan.options.deep_cache and taken is None:
            guided[FEATURES], alone[FEATURES] = torch.cat([of_uncond, of_cond]).numpy(), of_cond.numpy()
        return guided, alone

    references: dict[str, Arrays] = {}
    references["semantic_binding"], references["quality_improvement"] = both(None)
    if plan.options.deep_cache:
        shallow = both(torch.from_numpy(inputs["step"][FEATURES]).float())
        references["semantic_binding_shallow"], references["quality_improvement_shallow"] = shallow
    return references
