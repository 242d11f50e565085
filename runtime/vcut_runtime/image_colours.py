"""Any image's pixels as 8-bit sRGB: colour profiles, deep pixels and transparency."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from vcut_runtime.errors import UsageError

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}  # of a profile's colour space
_FULL = {"f": (1.0, 255.0, 65535.0), "i": (65535.0,), "u": (65535.0,)}  # levels that may mean white, by kind of number


def to_srgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Return ``image`` as 8-bit sRGB (mode RGB) on white, and notes about what had to be assumed.

    Raises:
        UsageError: its pixels are not finite numbers.
    """
    notes: list[str] = []
    image, alpha = _deep(image, notes) if image.mode[0] in "IF" else _without_alpha(image)
    image = _with_profile(image, notes)
    if alpha is not None and alpha.getextrema() != (255, 255):
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=alpha)
        image = white
    return image, notes


def _deep(image: Image.Image, notes: list[str]) -> tuple[Image.Image, Image.Image | None]:
    """Return grey levels of 16 or 32 bits, or numbers, as 8-bit grey, and what is opaque of them."""
    values = np.asarray(image)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UsageError("the image has pixels that are not finite numbers: give another")
    low, high = float(values.min()), float(values.max())
    full = next((full for full in _FULL[values.dtype.kind] if low >= 0 and high <= full), None)
    start, span = (low, high - low) if full is None else (0.0, full)
    if full is None:
        notes.append(f"the image's levels go from {low:g} to {high:g}: they are taken as black to white")
    elif full != _FULL[values.dtype.kind][0]:
        notes.append(f"the image's levels go from {low:g} to {high:g}: white is taken to be {full:g}")
    levels = np.round((values.astype(np.float32) - start) * (255.0 / (span or 1.0))).astype(np.uint8)
    grey = Image.fromarray(levels)
    grey.info |= {name: image.info[name] for name in ("icc_profile",) if name in image.info}
    hidden = image.info.get("transparency")
    opaque = None if not isinstance(hidden, int) else Image.fromarray(np.where(values == hidden, 0, 255).astype("u1"))
    return grey, opaque


def _without_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Split transparency off, in whatever way the image has it."""
    if not image.has_transparency_data:
        return image, None
    grey = image.mode in ("1", "L", "LA", "La")
    image = image.convert("LA" if grey else "RGBA")
    return image.convert("L" if grey else "RGB"), image.getchannel("A")


def _with_profile(image: Image.Image, notes: list[str]) -> Image.Image:
    """Convert the colours by the image's ICC profile, if it is there, fits and is not sRGB itself."""
    profile = image.info.get("icc_profile")
    if image.mode not in _MODES.values():
        image = image.convert("RGB")
    try:
        if image.mode == "LAB":
            transform = _transform(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB")
            return _applied(transform, image)
        if profile:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            core: Any = source.profile
            mode = _MODES.get(core.xcolor_space.strip())
            if mode == "RGB" and image.mode == "L":
                image = image.convert("RGB")
            if mode == image.mode:
                transform = _transform(source, image.mode)
                return image if mode == "RGB" and _changes_nothing(transform) else _applied(transform, image)
            notes.append("the image's colour profile is of another kind than its pixels: it is not used")
    except (ImageCms.PyCMSError, OSError, ValueError):
        notes.append("the image's colour profile is damaged: it is not used")
    if image.mode == "CMYK":
        notes.append("the image is CMYK without a usable colour profile: its colours are approximate")
    return image.convert("RGB")


def _transform(source: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def _applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    result = ImageCms.applyTransform(image, transform)
    assert result is not None  # it is not in place
    return result


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Tell whether a transform of RGB changes no colour by more than rounding, so that sRGB keeps its exact pixels."""
    levels = np.linspace(0, 255, 18).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 18, 3)
    changed = np.asarray(_applied(transform, Image.fromarray(colours)))
    return bool(np.abs(changed.astype(int) - colours).max() <= 2)
