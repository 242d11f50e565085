"""Weights that a training starts from: residual branches at zero, and around them a linear model.

With 64 channels, SVD's 32 groups normalise two channels each, which takes away the mean of a whole image: trained from
diffusers' initial weights, VAE and UNet stay at the mean colour for hours. Both can hold a linear path all the same. A
group of (h + p, -h - p) has mean 0 whatever h is; where p is a large pattern on the border, which zero padding makes of
a constant, its deviation hardly depends on h; and silu(a) - silu(-a) = a. One more group holds (p, -p), to subtract it.

The VAE starts as the principal components of blocks of 8 x 8 pixels, decoded by least squares; the UNet as a multiple
of the image latents.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

CONSTANT = 63  # the channel that holds 1
BORDER = 40.0  # the pattern, of which the other values are small parts


@torch.no_grad()
def start_vae(vae: Any, images: torch.Tensor) -> None:
    """Make ``vae`` a linear codec for images like ``images`` [n, 3, H, W] in -1..1."""
    encoder, decoder, channels = vae.encoder, vae.decoder, vae.config.latent_channels
    _silence(vae, "conv2", "to_out.0")
    for layer in (vae.quant_conv, encoder.conv_out, encoder.conv_in):
        layer.weight.mul_(0.1)
    half = functional.pixel_unshuffle(images, 2)  # [n, 12, H/2, W/2]
    quarter = functional.pixel_unshuffle(half, 2)  # [n, 48, ...]
    eighth = functional.pixel_unshuffle(quarter, 2)  # [n, 192, ...]
    rows = eighth.permute(0, 2, 3, 1).flatten(0, 2)
    mean = rows.mean(0)
    _, deviations, basis = torch.linalg.svd(rows - mean, full_matrices=False)
    deviations = deviations[:channels] / len(rows) ** 0.5
    wanted = (deviations / deviations.mean()).sqrt()  # between the components' own deviations and none
    basis = basis[:channels] * (wanted / deviations)[:, None]  # [channels, 192]

    downs = [block.downsamplers[0].conv for block in encoder.down_blocks[:-1]]
    for i in range(3):
        _only(encoder.conv_in, i, i, 1.0)
    _constant(encoder.conv_in)
    for layer, count in ((downs[0], 3), (downs[1], 12)):
        for c in range(count):
            for tap in range(4):
                _only(layer, 4 * c + tap, c, 1.0, tap // 2, tap % 2)
        _constant(layer)
    last = downs[2]
    for k in range(channels):
        last.weight[2 * k] = 0
        for j in range(192):
            last.weight[2 * k, j // 4, j % 4 // 2, j % 2] = basis[k, j]
        last.bias[2 * k] = -basis[k] @ mean
    last.weight[2 * channels], last.bias[2 * channels] = 0, 0
    for k in range(channels + 1):
        last.weight[2 * k, CONSTANT, 0, 0], last.weight[2 * k, CONSTANT, 2, 0] = 0.0, -BORDER
        last.weight[2 * k, CONSTANT, 0, 2] = BORDER
    _pair(last, channels + 1)
    _unpair(encoder.conv_out, channels)
    vae.quant_conv.weight.zero_()
    vae.quant_conv.bias.zero_()
    for k in range(channels):
        vae.quant_conv.weight[k, k] = 1.0
    vae.quant_conv.bias[channels:] = -6.0  # ln of the posterior's variance
    _fit_scale(encoder.conv_out, channels, (rows - mean) @ basis.T, lambda: vae.encode(images).latent_dist.mode())

    latents = vae.encode(images).latent_dist.mode()
    ups = [block.upsamplers[0].conv for block in decoder.up_blocks[:-1]]
    beside = (CONSTANT - channels) // 4  # so many of the first components from each side too
    steps = [(0, 1, 1, channels)]
    steps += [(channels + i * beside, *tap, beside) for i, tap in enumerate(((1, 0), (1, 2), (0, 1), (2, 1)))]
    decoder.conv_in.weight.mul_(0.1)
    for first, y, x, count in steps:
        for k in range(count):
            _only(decoder.conv_in, first + k, k, 1.0, y, x)
    _constant(decoder.conv_in)
    features = decoder.conv_in(latents)
    for layer, target in ((ups[0], quarter), (ups[1], half)):
        layer.weight.mul_(0.1)
        _least_squares(layer, features, target)
        _constant(layer)
        features = layer(functional.interpolate(features, scale_factor=2.0))
    _least_squares(ups[2], features, images)
    weight, bias = ups[2].weight[:3].clone(), ups[2].bias[:3].clone()
    for k in range(4):
        ups[2].weight[2 * k], ups[2].bias[2 * k] = (weight[k], bias[k]) if k < 3 else (0, 0)
        ups[2].weight[2 * k, CONSTANT, 0, 1] += BORDER
        ups[2].weight[2 * k, CONSTANT, 2, 1] -= BORDER
    _pair(ups[2], 4)
    _unpair(decoder.conv_out, 3)
    time = decoder.time_conv_out
    time.weight.zero_()
    time.bias.zero_()
    time.weight[:, :, 1, 0, 0] = torch.eye(3)
    for module in decoder.modules():
        if isinstance(module, torch.nn.Conv3d) and module.kernel_size[0] == 3:
            module.weight[:, :, 0] = module.weight[:, :, 2] = 0
    _fit_scale(decoder.conv_out, 3, images, lambda: vae.decode(latents, num_frames=1).sample)


@torch.no_grad()
def start_unet(unet: Any, scale: float) -> None:
    """Make ``unet`` predict v = -x0 / 2 with the image latents, times ``scale``, for x0."""
    _silence(unet, "conv2", "proj_out")
    channels = unet.config.out_channels
    for k in range(2 * channels):
        _only(unet.conv_in, k, k, 1.0)
    block = unet.up_blocks[-1].resnets[-1].spatial_res_block
    block.conv_shortcut.weight.mul_(0.05)
    sources = [*range(channels, 2 * channels), *range(31 - channels)]  # image latents, then the first noisy ones
    for pair, source in enumerate(sources):
        _only(block.conv_shortcut, 2 * pair, 64 + source, 1.0, 0, 0)
    block.conv_shortcut.weight[62] = 0
    block.norm2.weight[CONSTANT], block.norm2.bias[CONSTANT] = 0.0, 1.2785  # silu of which is 1
    for pair in range(32):
        block.conv2.weight[2 * pair, CONSTANT, 0, 1] = BORDER
        block.conv2.weight[2 * pair, CONSTANT, 2, 1] = -BORDER
    for layer in (block.conv_shortcut, block.conv2):
        _pair(layer, 32)
    unet.conv_out.weight.mul_(0.02)
    unet.conv_out.bias.zero_()
    deviation = BORDER * (2 / 9) ** 0.5  # of the pattern on 9 rows
    for k in range(channels):
        for pair, sign in ((k, -1.0), (31, 1.0)):
            unet.conv_out.weight[k, 2 * pair, 1, 1] += sign * 0.5 * scale * deviation
            unet.conv_out.weight[k, 2 * pair + 1, 1, 1] -= sign * 0.5 * scale * deviation


def _silence(module: Any, *ends: str) -> None:
    """Zero what ends each residual branch: the layers whose names end so."""
    for name, part in module.named_modules():
        if name.endswith(ends):
            part.weight.zero_()
            part.bias.zero_()


def _only(layer: Any, out: int, source: int, value: float, y: int = 1, x: int = 1) -> None:
    """Make channel ``out`` a multiple of one input at one tap."""
    layer.weight[out] = 0
    layer.weight[out, source, y, x] = value
    layer.bias[out] = 0


def _constant(layer: Any) -> None:
    layer.weight[CONSTANT], layer.bias[CONSTANT] = 0, 1


def _pair(layer: Any, count: int) -> None:
    layer.weight[1 : 2 * count : 2] = -layer.weight[: 2 * count : 2]
    layer.bias[1 : 2 * count : 2] = -layer.bias[: 2 * count : 2]


def _unpair(layer: Any, count: int) -> None:
    """Make the first ``count`` outputs the linear values of as many pairs, less the pattern of the next pair."""
    layer.weight[:count], layer.bias[:count] = 0, 0
    for k in range(count):
        for pair, sign in ((k, 0.5), (count, -0.5)):
            layer.weight[k, 2 * pair, 1, 1] += sign
            layer.weight[k, 2 * pair + 1, 1, 1] -= sign


def _fit_scale(layer: Any, count: int, target: torch.Tensor, run: Any) -> None:
    """Scale and shift outputs of ``layer`` so that ``run()`` [n, count, h, w] fits ``target``, either layout, best."""
    found = run().permute(0, 2, 3, 1).reshape(-1, count)
    target = target.permute(0, 2, 3, 1).reshape(-1, count) if target.dim() == 4 else target
    x, y = found - found.mean(0), target - target.mean(0)
    gain = (x * y).sum(0) / (x * x).sum(0)
    layer.weight[:count] *= gain[:, None, None, None]
    layer.bias[:count] = layer.bias[:count] * gain + target.mean(0) - gain * found.mean(0)


def _least_squares(layer: Any, features: torch.Tensor, target: torch.Tensor) -> None:
    """Make ``layer``, after upsampling by 2, predict ``target`` [n, c, 2h, 2w] from ``features`` as well as it can."""
    count, inputs = target.shape[1], features.shape[1]
    square = torch.zeros(inputs * 9, inputs * 9, dtype=torch.float64)
    product = torch.zeros(inputs * 9, count, dtype=torch.float64)
    for one, wanted in zip(features.split(8), target.split(8), strict=True):
        patches = functional.unfold(functional.interpolate(one, scale_factor=2.0), 3, padding=1)
        x = patches.permute(0, 2, 1).flatten(0, 1).double()
        square += x.T @ x
        product += x.T @ wanted.permute(0, 2, 3, 1).flatten(0, 2).double()
    square += 1e-3 * square.diagonal().mean() * torch.eye(len(square))
    weight = torch.linalg.solve(square, product).T.reshape(count, inputs, 3, 3)
    layer.weight[:count], layer.bias[:count] = weight.to(layer.weight.dtype), 0
