"""Do the seams between chunks of decoded frames show? SVD-XT's decoder at a small size, random weights, a smooth video.

    python -m vcut_bench.seams [--json results/...]

Each chunk setting is compared with decoding all frames at once, by diffusers' own decoder in fp32. A seam shows as an
error of the change from one frame to the next. The result has its root mean square in levels of 255, at seams and
elsewhere. With random weights the temporal layers weigh half. ``temporal`` below 1 scales their last convolutions down,
which is nearer to a model whose temporal layers were added to a finished image decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from vcut_bench.numbers import Numbers
from vcut_bench.provenance import provenance
from vcut_bench.results import deliver
from vcut_runtime.decoding import decode_chunks

FRAMES, LATENT = 25, (4, 8, 12)
SETTINGS = ((11, 0), (11, 1), (11, 2), (7, 2), (6, 1))  # frames decoded at a time, overlap on each side
WEIGHTS = (1.0, 0.3)  # of the temporal branches


def smooth_latents(seed: int = 0, speed: float = 0.25, noise: float = 0.05) -> np.ndarray:
    """Return latents [FRAMES, C, h, w] of a field that drifts by ``speed`` pixels a frame, with a little noise."""
    draw = np.random.default_rng(seed)
    channels, height, width = LATENT
    field = np.fft.fft2(draw.standard_normal((channels, 4 * height, 4 * width)))
    y, x = np.fft.fftfreq(4 * height)[:, None], np.fft.fftfreq(4 * width)[None]
    field = field * np.exp(-((4 * np.hypot(y, x)) ** 2))
    frames = []
    for t in range(FRAMES):
        moved = np.fft.ifft2(field * np.exp(-2j * np.pi * speed * t * (x + 0.6 * y))).real
        frames.append(moved[:, :height, :width])
    latents = np.stack(frames)
    return (latents / latents.std() + noise * draw.standard_normal(latents.shape)).astype(np.float32)


def measure(temporal: float) -> list[dict[str, Any]]:
    """Return for each setting the error of frame-to-frame changes at seams and elsewhere, in levels, and PSNR in dB."""
    import torch
    from diffusers.models.resnet import TemporalResnetBlock

    from vcut_export import resolve
    from vcut_export.checkpoint import weights

    vae = weights.load_vae(resolve("svd-xt", random_weights=True), "fp32", torch.float32)
    for module in vae.decoder.modules():
        if isinstance(module, TemporalResnetBlock):
            for parameter in module.conv2.parameters():
                parameter.data *= temporal
    latents = torch.from_numpy(smooth_latents())

    @torch.no_grad()
    def decode(start: int, stop: int) -> np.ndarray:
        return vae.decode(latents[start:stop] / vae.config.scaling_factor, num_frames=stop - start).sample.numpy()

    whole = decode(0, FRAMES)
    level = 50 / whole.std()  # random weights have no contrast of their own: a photograph's is about 50 levels
    rows = []
    for size, overlap in SETTINGS:
        chunks = decode_chunks(FRAMES, size, overlap)
        frames = [decode(c.start, c.stop)[c.keep_from - c.start : c.keep_to - c.start] for c in chunks]
        error = (np.concatenate(frames) - whole) * level
        changes = np.diff(error, axis=0)
        at = np.zeros(FRAMES - 1, dtype=bool)
        at[[chunk.keep_to - 1 for chunk in chunks[:-1]]] = True
        rows.append(
            {
                "frames": size,
                "overlap": overlap,
                "decoded": size * len(chunks) / FRAMES,
                "at_seams": float(np.sqrt(np.mean(changes[at] ** 2))),
                "elsewhere": float(np.sqrt(np.mean(changes[~at] ** 2))),
                "psnr": float(10 * np.log10(255**2 / np.mean(error**2))),
            }
        )
    return rows


def numbers(result: Mapping[str, Any]) -> list[Numbers]:
    """Return a table for each weight of the temporal layers."""
    tables = []
    for weight, settings in result["temporal"].items():
        rows = []
        for row in settings:
            errors = [f"{row['at_seams']:.2f}", f"{row['elsewhere']:.2f}", f"{row['psnr']:.0f} dB"]
            rows.append([f"{row['frames']}, {row['overlap']}", f"{row['decoded']:.2f} x", *errors])
        title = f"Decoded in chunks, temporal layers x {weight}"
        head = ["frames at a time, overlap", "decoded", "at seams", "elsewhere", "PSNR"]
        note = "Error of the change from frame to frame, RMS in levels of 255, and PSNR, against decoding all at once."
        tables.append(Numbers(title, head, rows, note))
    return tables


def main(output: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None) -> None:
    """Measure what chunks do to a video."""
    result = {
        "benchmark": "seams",
        **provenance("vcut_bench.seams"),
        "model": "SVD-XT's decoder, random weights",
        "shape": {"frames": FRAMES, "height": 8 * LATENT[1], "width": 8 * LATENT[2]},
        "precision": "fp32",
        "temporal": {str(weight): measure(weight) for weight in WEIGHTS},
    }
    deliver(result, output, json=True)


if __name__ == "__main__":
    typer.run(main)
