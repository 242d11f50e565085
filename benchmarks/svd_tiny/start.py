"""The weights that a training starts from: a linear model, with zeros at the end of each residual branch.

SVD's 32 groups normalise two channels each when there are 64, which removes the mean of a whole image. From diffusers'
initial weights, VAE and UNet stay at the mean colour for hours. Both can hold a linear path all the same:

* A group of (h + p, -h - p) has mean 0 for every h.
* If p is a large pattern on the border, which zero padding makes of a constant, the group's deviation hardly depends
  on h.
* silu(a) - silu(-a) = a.
* One more group holds (p, -p), to subtract the pattern.

The VAE starts as the principal components of blocks of 8x8 pixels, decoded by least squares. The UNet starts as a
multiple of the image latents.
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
    even = (deviations / deviations.mean()).sqrt()  # between the components' own deviations and equal ones
    basis = basis[:channels] * (even / deviations)[:, None]  # [channels, 192]

    downs = [block.downsamplers[0].conv for block in encoder.down_blocks[:-1]]
    _copy(encoder.conv_in, 0, 3)
    _constant(encoder.conv_in)
    for layer, count in ((downs[0], 3), (downs[1], 12)):
        layer.weight[: 4 * count], layer.bias[: 4 * count] = 0, 0
        for c in range(count):
            layer.weight[4 * c : 4 * c + 4, c, :2, :2] = torch.eye(4).view(4, 2, 2)
        _constant(layer)
    last, values, pairs = downs[2], slice(0, 2 * channels, 2), slice(0, 2 * channels + 2, 2)
    last.weight[pairs], last.bias[pairs] = 0, 0
    last.weight[values, :48, :2, :2], last.bias[values] = basis.view(channels, 48, 2, 2), -basis @ mean
    last.weight[pairs, CONSTANT, 2, 0], last.weight[pairs, CONSTANT, 0, 2] = -BORDER, BORDER
    _pair(last, channels + 1)
    encoder.conv_out.weight[:channels], encoder.conv_out.bias[:channels] = 0, 0
    _unpair(encoder.conv_out, channels, channels)
    vae.quant_conv.weight.zero_()
    vae.quant_conv.bias.zero_()
    vae.quant_conv.weight[:channels, :channels, 0, 0] = torch.eye(channels)
    vae.quant_conv.bias[channels:] = -6.0  # ln of the posterior's variance
    components = ((rows - mean) @ basis.T).view(len(images), *eighth.shape[2:], channels).permute(0, 3, 1, 2)
    _fit_scale(encoder.conv_out, channels, components, lambda: vae.encode(images).latent_dist.mode())

    latents = vae.encode(images).latent_dist.mode()
    ups = [block.upsamplers[0].conv for block in decoder.up_blocks[:-1]]
    beside = (CONSTANT - channels) // 4  # so many of the first components from each side too
    steps = [(0, 1, 1, channels)]
    steps += [(channels + i * beside, *tap, beside) for i, tap in enumerate(((1, 0), (1, 2), (0, 1), (2, 1)))]
    decoder.conv_in.weight.mul_(0.1)
    for first, y, x, count in steps:
        _copy(decoder.conv_in, first, count, y, x)
    _constant(decoder.conv_in)
    features = decoder.conv_in(latents)
    for layer, target in ((ups[0], quarter), (ups[1], half)):
        layer.weight.mul_(0.1)
        _least_squares(layer, features, target)
        _constant(layer)
        features = layer(functional.interpolate(features, scale_factor=2.0))
    _least_squares(ups[2], features, images)
    weight, bias = ups[2].weight[:3].clone(), ups[2].bias[:3].clone()
    ups[2].weight[6], ups[2].bias[6] = 0, 0
    ups[2].weight[:6:2], ups[2].bias[:6:2] = weight, bias
    ups[2].weight[:8:2, CONSTANT, 0, 1] += BORDER
    ups[2].weight[:8:2, CONSTANT, 2, 1] -= BORDER
    _pair(ups[2], 4)
    decoder.conv_out.weight[:3], decoder.conv_out.bias[:3] = 0, 0
    _unpair(decoder.conv_out, 3, 3)
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
    _copy(unet.conv_in, 0, 2 * channels)
    block = unet.up_blocks[-1].resnets[-1].spatial_res_block
    shortcut = block.conv_shortcut
    shortcut.weight[::2], shortcut.bias[::2] = 0, 0
    sources = [*range(channels, 2 * channels), *range(31 - channels)]  # image latents, then the first noisy ones
    for pair, source in enumerate(sources):
        shortcut.weight[2 * pair, 64 + source] = 1
    block.norm2.weight[CONSTANT], block.norm2.bias[CONSTANT] = 0.0, 1.2785  # silu of which is 1
    block.conv2.weight[::2, CONSTANT, 0, 1], block.conv2.weight[::2, CONSTANT, 2, 1] = BORDER, -BORDER
    for layer in (shortcut, block.conv2):
        _pair(layer, 32)
    unet.conv_out.weight.mul_(0.02)
    unet.conv_out.bias.zero_()
    deviation = BORDER * (2 / 9) ** 0.5  # of the pattern on 9 rows
    _unpair(unet.conv_out, channels, 31, -scale * deviation)


def _silence(module: Any, *ends: str) -> None:
    """Zero what ends each residual branch: the layers whose names end so."""
    for name, part in module.named_modules():
        if name.endswith(ends):
            part.weight.zero_()
            part.bias.zero_()


def _copy(layer: Any, first: int, count: int, y: int = 1, x: int = 1) -> None:
    """Make the channels from ``first`` on copies of the first ``count`` inputs, at one tap."""
    layer.weight[first : first + count], layer.bias[first : first + count] = 0, 0
    layer.weight[first : first + count, :count, y, x] = torch.eye(count)


def _constant(layer: Any) -> None:
    layer.weight[CONSTANT], layer.bias[CONSTANT] = 0, 1


def _pair(layer: Any, count: int) -> None:
    """Make each odd channel the negative of the one before it, in the first ``count`` pairs."""
    layer.weight[1 : 2 * count : 2] = -layer.weight[: 2 * count : 2]
    layer.bias[1 : 2 * count : 2] = -layer.bias[: 2 * count : 2]


def _unpair(layer: Any, count: int, pattern: int, gain: float = 1.0) -> None:
    """Add to the first ``count`` outputs the linear values of as many pairs, less those of the pair ``pattern``."""
    values = 0.5 * gain * torch.eye(count)
    layer.weight[:count, : 2 * count : 2, 1, 1] += values
    layer.weight[:count, 1 : 2 * count : 2, 1, 1] -= values
    layer.weight[:count, 2 * pattern, 1, 1] -= 0.5 * gain
    layer.weight[:count, 2 * pattern + 1, 1, 1] += 0.5 * gain


def _fit_scale(layer: Any, count: int, target: torch.Tensor, run: Any) -> None:
    """Scale and shift outputs of ``layer`` so that ``run()`` fits ``target`` best. Both are [n, count, h, w]."""
    output, target = (value.transpose(0, 1).flatten(1) for value in (run(), target))
    x, y = output - output.mean(1, keepdim=True), target - target.mean(1, keepdim=True)
    gain = (x * y).sum(1) / (x * x).sum(1)
    layer.weight[:count] *= gain[:, None, None, None]
    layer.bias[:count] = layer.bias[:count] * gain + target.mean(1) - gain * output.mean(1)


def _least_squares(layer: Any, features: torch.Tensor, target: torch.Tensor) -> None:
    """Make ``layer``, after upsampling by 2, predict ``target`` [n, c, 2h, 2w] from ``features`` as well as it can."""
    count, inputs = target.shape[1], features.shape[1]
    square = torch.zeros(inputs * 9, inputs * 9, dtype=torch.float64)
    product = torch.zeros(inputs * 9, count, dtype=torch.float64)
    for part, goal in zip(features.split(8), target.split(8), strict=True):
        patches = functional.unfold(functional.interpolate(part, scale_factor=2.0), 3, padding=1)
        x = patches.permute(0, 2, 1).flatten(0, 1).double()
        square += x.T @ x
        product += x.T @ goal.permute(0, 2, 3, 1).flatten(0, 2).double()
    square += 1e-3 * square.diagonal().mean() * torch.eye(len(square))
    weight = torch.linalg.solve(square, product).T.reshape(count, inputs, 3, 3)
    layer.weight[:count], layer.bias[:count] = weight.to(layer.weight.dtype), 0
