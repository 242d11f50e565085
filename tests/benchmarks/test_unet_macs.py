"""Every operator is counted once, whatever layer calls it."""

from __future__ import annotations

from typing import Any

from vcut_bench.unet_macs import Macs, count_macs


def test_every_operator_is_counted_once() -> None:
    import torch
    from torch import nn

    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)
            self.parts = nn.ModuleList([nn.Linear(8, 16, bias=False)])
            self.time_embedding = nn.Linear(8, 4)
            self.unused = nn.Linear(8, 8)

        def forward(self, image: torch.Tensor) -> Any:  # [2, 3, 4, 5]
            tokens = self.conv(image).flatten(2).transpose(1, 2)  # [2, 20, 8]
            mixed = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
            return self.parts[0](mixed), self.time_embedding(tokens)

    with torch.device("meta"), torch.no_grad():
        counted, embeddings = count_macs(Toy(), [(2, 3, 4, 5)])
    assert counted == Macs(2 * 20 * 8 * (16 + 4), 2 * 20 * 8 * 3 * 9, 2 * (2 * 20 * 20 * 8))
    assert counted.layers == 2 * 20 * 8 * (27 + 16 + 4)
    assert embeddings == Macs(linear=2 * 20 * 8 * 4)
