"""Every operator is counted once, in the layer that calls it."""

from __future__ import annotations

from vcut_bench.unet_macs import Macs, macs_by_layer, total


def test_every_operator_is_counted_once() -> None:
    import torch
    from torch import nn

    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)
            self.parts = nn.ModuleList([nn.Linear(8, 16, bias=False)])
            self.unused = nn.Linear(8, 8)

        def forward(self, image: torch.Tensor) -> torch.Tensor:  # [2, 3, 4, 5]
            tokens = self.conv(image).flatten(2).transpose(1, 2)  # [2, 20, 8]
            mixed = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
            return self.parts[0](mixed)

    with torch.device("meta"), torch.no_grad():
        counted = macs_by_layer(Toy(), [(2, 3, 4, 5)])
    assert counted == {
        "conv": Macs(convolution=2 * 20 * 8 * 3 * 9),
        "parts.0": Macs(linear=2 * 20 * 8 * 16),
        "": Macs(attention=2 * (2 * 20 * 20 * 8)),
    }
    assert total(counted.values()).layers == 2 * 20 * 8 * (27 + 16)
