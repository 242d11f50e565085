"""The options of an export. Each says which graphs it rebuilds when it changes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vcut_runtime.bundle.geometry import MOST
from vcut_runtime.bundle.graph import GRAPHS
from vcut_runtime.bundle.manifest import Operators, Precision, Tca
from vcut_runtime.command_options import MOST_SEED, check_numbers, check_types, option
from vcut_runtime.errors import UsageError
from vcut_runtime.schedule import MOST_STEPS, PAPER_STEPS, CutStep, parse_cut_step

ALL = tuple(GRAPHS)
STEPS = tuple(name for name, graph in GRAPHS.items() if graph.is_step)
Ranges = Mapping[str, tuple[int, int]]


def parse_ranges(text: str) -> Ranges:
    """Return ``frames=8:25,height=320:576`` as ranges by name.

    Raises:
        UsageError: it does not have this form.
    """
    ranges = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)=(\d+):(\d+)\s*", part)
        if match is None or match[1] in ranges:
            raise UsageError(f"--dynamic {text!r} is not a list of ranges: write it as frames=8:25,height=320:576")
        ranges[match[1]] = (int(match[2]), int(match[3]))
    return ranges


@dataclass(frozen=True)
class ExportOptions:
    """What a bundle is made like. ``rebuilds`` of a field names the graphs that a change of it makes anew.

    Raises:
        UsageError: a value is impossible for every model.
    """

    revision: str | None = option(None, "Hub revision.", rebuilds=ALL)
    preset: str | None = option(
        None,
        "The model whose configuration a single file has. [default: its metadata or name tell, else svd-xt]",
        rebuilds=ALL,
    )
    unet: str | None = option(
        None,
        "A UNet for the model's own: a file or folder, with diffusers' names of weights or the original ones.",
        rebuilds=ALL,
    )
    random_weights: bool = option(
        False,
        "The exact architecture with random weights; downloads no weights.",
        "--random-weights",
        rebuilds=ALL,
    )
    seed: int = option(0, "Seed of random weights.", least=0, most=MOST_SEED, rebuilds=ALL)
    lora: tuple[str, ...] = option(
        (),
        "FILE[:SCALE] of a LoRA to merge into the UNet; may be given several times.",
        rebuilds=("condition", *STEPS),
    )
    ignore_unexpected: bool = option(
        False,
        "Compile although the checkpoint has weights that no SVD network has, which are left out.",
        "--ignore-unexpected",
        rebuilds=ALL,
    )
    height: int | None = option(None, "Pixels. [default: the model's]", least=1, most=MOST.height, rebuilds=ALL)
    width: int | None = option(None, "Pixels. [default: the model's]", least=1, most=MOST.width, rebuilds=ALL)
    frames: int | None = option(
        None, "Frames of the video. [default: the model's]", least=1, most=MOST.frames, rebuilds=STEPS
    )
    dynamic: Ranges | None = option(
        None,
        "Sizes that a run may choose, such as frames=8:25,height=320:576,width=576:1024.",
        parse=parse_ranges,
        rebuilds=ALL,
    )
    steps: int = option(PAPER_STEPS, "Denoising steps of a run's default.", least=1, most=MOST_STEPS, rebuilds=())
    cut_step: CutStep | None = option(
        None,
        "First step of the quality improvement stage, or none. [default: 17 of 25 steps, else at its noise level]",
        parse=parse_cut_step,
        rebuilds=(),
    )
    precision: Precision | None = option(
        None, "fp16, bf16 or fp32, of the network bodies. [default: fp16; svd-tiny: fp32]", rebuilds=ALL
    )
    operators: Operators | None = option(
        None,
        "Choose operators that are fast on a gpu (TensorRT, CUDA) or on a cpu (ONNX Runtime; needs fp32). "
        "[default: gpu; svd-tiny in fp32: cpu]",
        rebuilds=ALL,
    )
    tca: Tca = option(
        "remove",
        "Temporal cross-attention: remove it (the paper) or fold its constant (exact).",
        rebuilds=("condition", *STEPS),
    )
    small_gpu: bool = option(
        False,
        "For GPUs of 8 GB: steps take a third less memory, decoding is slower.",
        "--small-gpu",
        rebuilds=STEPS,
    )
    deep_cache: bool = option(
        False,
        "Compile shallow steps too, for runs with --cache-interval (DeepCache).",
        "--deep-cache",
        rebuilds=STEPS,
    )
    upcast_attention: bool = option(
        False,
        "Compute the steps' attention in fp32 inside fp16 or bf16, for a library that adds up in fp16.",
        "--upcast-attention",
        rebuilds=STEPS,
    )
    decode_chunk: int | None = option(
        None,
        "Frames decoded at a time. [default: what takes no more memory than a step]",
        least=1,
        most=MOST.frames,
        rebuilds=("decode",),
    )

    def __post_init__(self) -> None:
        if isinstance(self.lora, str | Path):
            raise UsageError(f"lora is {str(self.lora)!r}: give a list of FILE or FILE:SCALE")
        object.__setattr__(self, "lora", tuple(str(text) for text in self.lora))
        check_types(self)
        check_numbers(self)
        if self.small_gpu and self.dynamic:
            raise UsageError(
                "--small-gpu excludes --dynamic, because feed-forwards run in parts of a fixed size: "
                "leave one out; smaller ranges take less memory too"
            )
