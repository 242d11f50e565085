"""GPU names that people use, and their compute capabilities (NVIDIA's list, developer.nvidia.com/cuda-gpus)."""

from __future__ import annotations

import difflib
import re

from vcut_runtime.errors import UsageError

COMPUTE_CAPABILITIES: dict[str, tuple[str, ...]] = {
    "7.0": ("v100", "titanv"),
    "7.5": ("t4", "t4g", "rtx2060", "rtx2070", "rtx2080", "rtx2080ti", "titanrtx", "rtx4000", "rtx5000", "rtx6000"),
    "8.0": ("a100", "a30", "a800"),
    "8.6": (
        *("a10", "a10g", "a10m", "a16", "a2", "a40", "rtxa2000", "rtxa4000", "rtxa4500", "rtxa5000", "rtxa6000"),
        *("rtx3050", "rtx3050ti", "rtx3060", "rtx3060ti", "rtx3070", "rtx3070ti", "rtx3080", "rtx3080ti", "rtx3090"),
        "rtx3090ti",
    ),
    "8.7": ("orin", "agxorin", "jetsonorin"),
    "8.9": (
        *("l4", "l40", "l40s", "l20", "l2", "rtx2000ada", "rtx4000ada", "rtx4500ada", "rtx5000ada", "rtx6000ada"),
        *("rtx4050", "rtx4060", "rtx4060ti", "rtx4070", "rtx4070ti", "rtx4070super", "rtx4070tisuper", "rtx4080"),
        *("rtx4080super", "rtx4090", "rtx4090d"),
    ),
    "9.0": ("h100", "h200", "h20", "h800", "gh200"),
    "10.0": ("b100", "b200", "gb200"),
    "10.3": ("b300", "gb300"),
    "11.0": ("thor", "jetsonthor"),
    "12.0": (
        *("rtx5050", "rtx5060", "rtx5060ti", "rtx5070", "rtx5070ti", "rtx5080", "rtx5090", "rtx5090d"),
        *("rtxpro6000", "rtxpro5000", "rtxpro4500", "rtxpro4000"),
    ),
    "12.1": ("gb10", "dgxspark"),
}
_BY_NAME = {name: capability for capability, names in COMPUTE_CAPABILITIES.items() for name in names}
_FORM = re.compile(r"(sxm\d?|pcie|nvl|hbm\d?e?|\d+gb|laptop|generation|embedded|server|workstation|edition|gpu)+")
_NUMBER = re.compile(r"(?:sm_?)?(\d{1,2})\.?(\d)")


def compute_capability(gpu: str) -> str:
    """Return the compute capability of ``a10``, ``RTX 4090``, ``8.6``, ``sm86`` ... as ``8.6``.

    Raises:
        UsageError: the GPU is unknown. The message names similar ones.
    """
    plain = re.sub(r"[^a-z0-9.]", "", gpu.lower())
    number = _NUMBER.fullmatch(plain)
    if number:
        capability = f"{number[1]}.{number[2]}"
        if capability in COMPUTE_CAPABILITIES:
            return capability
    bare = re.sub(r"^(nvidia)?(geforce|tesla|quadro)?", "", plain)
    for name in (plain, bare, f"rtx{bare}"):
        if name in _BY_NAME:
            return _BY_NAME[name]
    for name in sorted(_BY_NAME, key=len, reverse=True):  # names that drivers give: A100-SXM4-80GB, H100 80GB HBM3
        if bare.startswith(name) and _FORM.fullmatch(bare[len(name) :]):
            return _BY_NAME[name]
    near = difflib.get_close_matches(bare, _BY_NAME, n=3)
    hint = f"did you mean {' or '.join(near)}" if near else f"known capabilities are {', '.join(COMPUTE_CAPABILITIES)}"
    raise UsageError(f"unknown GPU {gpu!r}, {hint}? A compute capability such as 8.6 works too, or portable, or this")
