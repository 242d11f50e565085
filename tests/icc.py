"""Colour profiles for tests, written byte by byte from the ICC's specification, and what they mean in plain maths."""

from __future__ import annotations

import struct

import numpy as np

# Columns are the primaries' XYZ under D50, as the profiles of Apple, Adobe and the ICC have them.
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
D50 = (0.9642, 1.0, 0.8249)


def rgb_profile(primaries: np.ndarray, gamma: float | None = None) -> bytes:
    """A profile of RGB with these primaries, and with sRGB's curve or a plain ``gamma``."""
    columns = {name: _xyz(column) for name, column in zip(("rXYZ", "gXYZ", "bXYZ"), primaries.T, strict=True)}
    return _profile(b"RGB ", b"XYZ ", {**columns, **dict.fromkeys(("rTRC", "gTRC", "bTRC"), _curve(gamma))})


def grey_profile(gamma: float) -> bytes:
    """A profile of grey with a plain ``gamma``."""
    return _profile(b"GRAY", b"XYZ ", {"kTRC": _curve(gamma)})


def cmyk_profile(inks: dict[tuple[int, int, int, int], tuple[float, float, float]]) -> bytes:
    """A profile of CMYK by the Lab of its 16 corners; those not given are black."""
    table = b""
    for index in np.ndindex(2, 2, 2, 2):
        lightness, a, b = inks.get(index, (0.0, 0.0, 0.0))
        table += bytes([round(lightness * 2.55), round(a + 128), round(b + 128)])
    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    curve = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + 4 * curve + table + 3 * curve
    return _profile(b"CMYK", b"Lab ", {"A2B0": lut})


def to_srgb(pixels: np.ndarray, primaries: np.ndarray, gamma: float | None = None) -> np.ndarray:
    """Convert 8-bit pixels [..., 3] of a profile to 8-bit sRGB, in floats."""
    x = pixels / 255.0
    linear = x**gamma if gamma else np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return np.round(255 * srgb_curve(linear @ primaries.T @ np.linalg.inv(SRGB).T)).astype(np.uint8)


def srgb_curve(linear: np.ndarray) -> np.ndarray:
    """Linear light to sRGB's levels, both in [0, 1]."""
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _profile(space: bytes, connection: bytes, tags: dict[str, bytes]) -> bytes:
    tags = {"desc": _text("test"), "cprt": b"text\0\0\0\0none\0", "wtpt": _xyz(D50), **tags}
    place, entries, content = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        entries += name.encode() + struct.pack(">2I", place + len(content), len(data))
        content += data + b"\0" * (-len(data) % 4)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(">I4sI4s4s4s", place + len(content), b"lcms", 0x02400000, kind, space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _xyz(D50)[8:] + bytes(48)
    assert len(head) == 128
    return head + struct.pack(">I", len(tags)) + entries + content


def _xyz(values: np.ndarray | tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(v) * 65536) for v in values))


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    numbers = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"para\0\0\0\0" + struct.pack(">2H5i", 3, 0, *(round(v * 65536) for v in numbers))


def _text(text: str) -> bytes:
    return b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text.encode() + b"\0" + bytes(4 + 4 + 2 + 1 + 67)
