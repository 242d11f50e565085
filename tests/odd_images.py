"""Odd images as people have them, with the pixels that come out, or why they are refused."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image
from skimage import data

import icc

ORIENTATION = 0x0112
# 24 x 32 pixels that no wrong order, scale or profile leaves as they are.
COLOURS: np.ndarray = np.stack(
    np.broadcast_arrays(np.linspace(0, 255, 32), np.linspace(0, 255, 24)[:, None], np.linspace(200, 20, 32)), axis=-1
).astype(np.uint8)
GREY: np.ndarray = COLOURS[..., 0]
PHOTO: np.ndarray = data.astronaut()[100:124, 200:232]
HOLES: np.ndarray = np.where(np.arange(32) % 8 < 4, 255, 0).astype(np.uint8)[None].repeat(24, 0)
INKS: dict[tuple[int, int, int, int], tuple[float, float, float]] = {
    (0, 0, 0, 0): (100, 0, 0),
    (1, 0, 0, 0): (55, -37, -50),
    (0, 1, 0, 0): (48, 74, -3),
    (0, 0, 1, 0): (89, -5, 93),
}


def on_white(colours: np.ndarray = COLOURS, alpha: np.ndarray = HOLES) -> np.ndarray:
    share = alpha[..., None] / 255.0
    return np.round(colours * share + 255 * (1 - share)).astype(np.uint8)


def grey(levels: np.ndarray) -> np.ndarray:
    return np.round(levels).astype(np.uint8)[..., None].repeat(3, -1)


def encoded(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, kind, **options)
    return stream.getvalue()


def decoded(content: bytes, mode: str = "RGB") -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert(mode))


def tiff(values: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, metadata=None, **options)
    return stream.getvalue()


def png(values: np.ndarray, colour_type: int, size: tuple[int, int] | None = None, **chunks: bytes) -> bytes:
    """A PNG of 16 bits, which Pillow cannot write; it may claim another ``size``. ``chunks`` come before the pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = values.shape[:2]
    rows = values.astype(">u2").reshape(height, -1)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = chunk(b"IHDR", struct.pack(">2I5B", *(size or (width, height)), 16, colour_type, 0, 0, 0))
    more = b"".join(chunk(name.encode(), content) for name, content in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def with_alpha(alpha: np.ndarray = HOLES, hidden: int = 77) -> Image.Image:
    """The colours; where they are transparent, others hide."""
    colours = np.where(alpha[..., None] > 0, COLOURS, hidden).astype(np.uint8)
    return Image.fromarray(np.concatenate([colours, alpha[..., None]], axis=-1))


def palette(transparent: bool = False) -> Image.Image:
    """24 x 32 pixels of a palette of 32 colours; colour 0 may be transparent."""
    image = Image.fromarray(np.arange(32, dtype=np.uint8)[None].repeat(24, 0))
    image.putpalette(COLOURS[12].tobytes())
    if transparent:
        image.info["transparency"] = bytes([0])
    return image


def cmyk_patches() -> Image.Image:
    corners = np.array([*INKS]) * 255
    return Image.fromarray(corners.astype(np.uint8)[None].repeat(24, 0).repeat(8, 1), "CMYK")


def ink_colours() -> np.ndarray:
    """The Lab colours of the inks as sRGB, by the CIE's formulas."""
    result = []
    for lightness, a, b in INKS.values():
        y = (lightness + 16) / 116
        f = np.array([y + a / 500, y, y - b / 200])
        xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * icc.D50
        result.append(255 * icc.srgb_curve(np.linalg.inv(icc.SRGB) @ xyz))
    return np.round(result).astype(np.uint8)[None].repeat(24, 0).repeat(8, 1)


def lab_image() -> Image.Image:
    levels = [(round(lightness * 2.55), round(a) % 256, round(b) % 256) for lightness, a, b in INKS.values()]
    return Image.frombytes("LAB", (4, 1), np.array(levels, np.uint8).tobytes()).resize(
        (32, 24), Image.Resampling.NEAREST
    )


def turned_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes()


def frames(kind: str, **options: Any) -> bytes:
    others = [Image.fromarray(255 - COLOURS)]
    return encoded(Image.fromarray(COLOURS), kind, save_all=True, append_images=others, **options)


def heic(**options: Any) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    return encoded(np.full((24, 32, 3), (200, 90, 40), np.uint8), "HEIF", quality=95, **options)


@dataclass(frozen=True)
class Case:
    """``pixels`` that come out within ``levels`` of 255, or a refusal that ``says`` why; ``note`` is in its notes."""

    make: Callable[[], bytes]
    pixels: Any = None
    levels: int = 0
    note: str = ""
    says: str = ""


def adobe_exif() -> bytes:
    """What cameras write beside a photograph in Adobe RGB."""
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.ColorSpace: 65535, ExifTags.IFD.Interop: {1: "R03"}}
    return exif.tobytes()


P3, ADOBE = icc.rgb_profile(icc.DISPLAY_P3), icc.rgb_profile(icc.ADOBE_RGB, 2.19921875)
IN_P3 = icc.to_srgb(COLOURS, icc.DISPLAY_P3)
DEEP = GREY.astype(np.uint16) * 257
FLOATS = (GREY / 255).astype(np.float32)
CASES = {
    # Colour profiles
    "display-p3.png": Case(lambda: encoded(COLOURS, "PNG", icc_profile=P3), IN_P3, 1),
    "display-p3.webp": Case(lambda: encoded(COLOURS, "WEBP", lossless=True, icc_profile=P3), IN_P3, 1),
    "display-p3.tif": Case(lambda: encoded(COLOURS, "TIFF", icc_profile=P3), IN_P3, 1),
    "display-p3.jpg": Case(
        lambda: encoded(COLOURS, "JPEG", icc_profile=P3),
        icc.to_srgb(decoded(encoded(COLOURS, "JPEG")), icc.DISPLAY_P3),
        1,
    ),
    "display-p3-alpha.png": Case(lambda: encoded(with_alpha(), "PNG", icc_profile=P3), on_white(IN_P3), 1),
    "display-p3-palette.png": Case(
        lambda: encoded(palette(), "PNG", icc_profile=P3), np.broadcast_to(IN_P3[12], IN_P3.shape), 1
    ),
    "display-p3-turned.png": Case(
        lambda: encoded(COLOURS, "PNG", exif=turned_exif(6), icc_profile=P3), np.rot90(IN_P3, -1), 1
    ),
    "display-p3-grey.png": Case(lambda: encoded(GREY, "PNG", icc_profile=P3), grey(GREY), 1),
    "adobe-rgb.png": Case(
        lambda: encoded(COLOURS, "PNG", icc_profile=ADOBE), icc.to_srgb(COLOURS, icc.ADOBE_RGB, 2.19921875), 2
    ),
    "adobe-rgb-by-exif.jpg": Case(
        lambda: encoded(COLOURS, "JPEG", exif=adobe_exif()),
        decoded(encoded(COLOURS, "JPEG")),
        note="is Adobe RGB without",
    ),
    "srgb.png": Case(lambda: encoded(COLOURS, "PNG", icc_profile=icc.rgb_profile(icc.SRGB)), COLOURS),
    "grey-gamma.png": Case(
        lambda: encoded(GREY, "PNG", icc_profile=icc.grey_profile(1.8)),
        grey(255 * icc.srgb_curve((GREY / 255) ** 1.8)),
        1,
    ),
    "grey-gamma-alpha.png": Case(
        lambda: encoded(
            Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(HOLES)]), "PNG", icc_profile=icc.grey_profile(1.8)
        ),
        on_white(grey(255 * icc.srgb_curve((GREY / 255) ** 1.8))),
        1,
    ),
    "deep-grey-gamma.png": Case(
        lambda: encoded(DEEP, "PNG", icc_profile=icc.grey_profile(1.8)),
        grey(255 * icc.srgb_curve((GREY / 255) ** 1.8)),
        1,
    ),
    "cmyk.tif": Case(lambda: encoded(cmyk_patches(), "TIFF", icc_profile=icc.cmyk_profile(INKS)), ink_colours(), 2),
    "cmyk.jpg": Case(
        lambda: encoded(cmyk_patches(), "JPEG", quality=100, icc_profile=icc.cmyk_profile(INKS)), ink_colours(), 4
    ),
    "cmyk-without-profile.jpg": Case(
        lambda: encoded(cmyk_patches(), "JPEG"),
        decoded(encoded(cmyk_patches(), "JPEG")),
        note="without a usable colour profile",
    ),
    "lab.tif": Case(lambda: encoded(lab_image(), "TIFF"), ink_colours(), 3),
    "damaged-profile.png": Case(
        lambda: encoded(COLOURS, "PNG", icc_profile=b"nonsense" * 40), COLOURS, note="profile is damaged"
    ),
    "truncated-profile.png": Case(
        lambda: encoded(COLOURS, "PNG", icc_profile=P3[:200]), COLOURS, note="profile is damaged"
    ),
    "profile-of-cmyk.png": Case(
        lambda: encoded(COLOURS, "PNG", icc_profile=icc.cmyk_profile(INKS)), COLOURS, note="of another kind"
    ),
    # Deep pixels and numbers
    "deep-grey.png": Case(lambda: encoded(DEEP, "PNG"), grey(GREY)),
    "deep-grey.tif": Case(lambda: tiff(DEEP), grey(GREY)),
    "deep-grey-big-endian.tif": Case(lambda: tiff(DEEP, byteorder=">"), grey(GREY)),
    "deep-grey-hole.png": Case(
        lambda: png(DEEP, 0, tRNS=struct.pack(">H", DEEP[0, 3])),
        on_white(grey(GREY), np.where(GREY[0, 3] == GREY, 0, 255).astype(np.uint8)),
    ),
    "deep-grey-alpha.png": Case(
        lambda: png(np.stack([DEEP, HOLES.astype(np.uint16) * 257], -1), 4), on_white(grey(GREY))
    ),
    "deep-rgb.png": Case(lambda: png(COLOURS.astype(np.uint16) * 257, 2), COLOURS),
    "deep-rgba.png": Case(lambda: png(np.asarray(with_alpha()).astype(np.uint16) * 257, 6), on_white()),
    "deep-rgb.tif": Case(lambda: tiff(COLOURS.astype(np.uint16) * 257, photometric="rgb"), COLOURS),
    "int32.tif": Case(lambda: tiff(GREY.astype(np.int32) * 8_000_000), grey(GREY), note="levels go from 0 to 2.04e+09"),
    "int32-of-16-bits.tif": Case(lambda: tiff(DEEP.astype(np.int32)), grey(GREY)),
    "float.tif": Case(lambda: tiff(FLOATS), grey(GREY)),
    "float-of-255.tif": Case(lambda: tiff(GREY.astype(np.float32)), grey(GREY), note="white is taken to be 255"),
    "float-of-65535.tif": Case(lambda: tiff(DEEP.astype(np.float32)), grey(GREY), note="white is taken to be 65535"),
    "float-below-0.tif": Case(lambda: tiff(FLOATS * 6 - 3), grey(GREY), note="go from -3 to 3: they are taken as"),
    "float-of-one-level.tif": Case(lambda: tiff(FLOATS * 0 - 3), grey(GREY * 0), note="go from -3 to -3"),
    "float-nan.tif": Case(lambda: tiff(np.where(GREY < 9, np.nan, FLOATS)), says="not finite numbers"),
    "float-infinite.tif": Case(lambda: tiff(np.where(GREY < 9, np.float32(np.inf), FLOATS)), says="not finite numbers"),
    "float-rgb.tif": Case(lambda: tiff((COLOURS / 255).astype(np.float32), photometric="rgb"), says="give a JPEG"),
    "one-bit.png": Case(
        lambda: encoded(Image.fromarray(HOLES).convert("1"), "PNG"), np.repeat(HOLES[..., None], 3, axis=-1)
    ),
    # Transparency
    "hidden-colours.png": Case(lambda: encoded(with_alpha(), "PNG"), on_white()),
    "half-transparent.png": Case(
        lambda: encoded(with_alpha(HOLES // 2 + 60), "PNG"), on_white(alpha=HOLES // 2 + 60), 1
    ),
    "nothing-visible.png": Case(lambda: encoded(with_alpha(HOLES * 0), "PNG"), np.full((24, 32, 3), 255)),
    "hidden-colours.webp": Case(lambda: encoded(with_alpha(), "WEBP", lossless=True, exact=True), on_white()),
    "hidden-colours.tif": Case(lambda: encoded(with_alpha(), "TIFF"), on_white()),
    "hidden-grey.png": Case(
        lambda: encoded(with_alpha().convert("LA"), "PNG"),
        on_white(decoded(encoded(COLOURS, "PNG"), "L")[..., None].repeat(3, -1)),
    ),
    "palette-hole.png": Case(
        lambda: encoded(palette(), "PNG", transparency=bytes([0])),
        np.concatenate([np.full((24, 1, 3), 255), np.broadcast_to(COLOURS[12, 1:], (24, 31, 3))], axis=1),
    ),
    "palette-hole.gif": Case(
        lambda: encoded(palette(), "GIF", transparency=0),
        np.concatenate([np.full((24, 1, 3), 255), np.broadcast_to(COLOURS[12, 1:], (24, 31, 3))], axis=1),
    ),
    "rgb-hole.png": Case(
        lambda: encoded(COLOURS, "PNG", transparency=tuple(map(int, COLOURS[0, 0]))),
        on_white(alpha=np.where((COLOURS[0, 0] == COLOURS).all(-1), 0, 255).astype(np.uint8)),
    ),
    "deep-rgb-hole.png": Case(
        lambda: png(COLOURS.astype(np.uint16) * 257, 2, tRNS=(COLOURS[0, 0].astype(">u2") * 257).tobytes()),
        on_white(alpha=np.where((COLOURS[0, 0] == COLOURS).all(-1), 0, 255).astype(np.uint8)),
    ),
    "grey-hole.png": Case(
        lambda: encoded(GREY, "PNG", transparency=int(GREY[0, 3])),
        on_white(grey(GREY), np.where(GREY[0, 3] == GREY, 0, 255).astype(np.uint8)),
    ),
    # More than one picture
    "animation.gif": Case(
        lambda: frames("GIF"), decoded(encoded(COLOURS, "GIF")), note="only the first picture of the animation"
    ),
    "animation.png": Case(lambda: frames("PNG"), COLOURS, note="only the first picture of the animation"),
    "animation.webp": Case(lambda: frames("WEBP", lossless=True), COLOURS, note="only the first picture"),
    "pages.tif": Case(lambda: frames("TIFF"), COLOURS),
    "phone.mpo": Case(lambda: frames("MPO"), decoded(encoded(COLOURS, "JPEG"))),
    # Formats
    "photo.bmp": Case(lambda: encoded(COLOURS, "BMP"), COLOURS),
    "photo.ppm": Case(lambda: encoded(COLOURS, "PPM"), COLOURS),
    "photo.tga": Case(lambda: encoded(COLOURS, "TGA"), COLOURS),
    "photo.jp2": Case(lambda: encoded(COLOURS, "JPEG2000"), COLOURS),
    "photo.avif": Case(lambda: encoded(COLOURS, "AVIF"), decoded(encoded(COLOURS, "AVIF"))),
    "photo.ico": Case(lambda: encoded(COLOURS, "ICO", sizes=[(32, 24)]), COLOURS),
    "progressive.jpg": Case(
        lambda: encoded(PHOTO, "JPEG", progressive=True), decoded(encoded(PHOTO, "JPEG", progressive=True))
    ),
    "really-a-jpeg.png": Case(lambda: encoded(PHOTO, "JPEG"), decoded(encoded(PHOTO, "JPEG"))),
    "photo.heic": Case(heic, np.full((24, 32, 3), (200, 90, 40)), 4),
    "turned.heic": Case(lambda: heic(exif=turned_exif(6)), np.full((32, 24, 3), (200, 90, 40)), 4),
    "display-p3.heic": Case(
        lambda: heic(icc_profile=P3),
        np.broadcast_to(icc.to_srgb(np.array([200, 90, 40]), icc.DISPLAY_P3), (24, 32, 3)),
        5,
    ),
    # Not images
    "drawing.eps": Case(lambda: encoded(COLOURS, "EPS"), says="give a JPEG, PNG or WebP file"),
    "page.pdf": Case(lambda: encoded(COLOURS, "PDF"), says="give a JPEG, PNG or WebP file"),
    "drawing.svg": Case(lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", says="give a JPEG"),
    "page.jpg": Case(lambda: b"<!doctype html><title>404</title>", says="not an image that vcut reads"),
    "empty.jpg": Case(lambda: b"", says="not an image that vcut reads"),
    "video.mp4": Case(lambda: b"\0\0\0\x20ftypisom" + bytes(100), says="not an image that vcut reads"),
    # Damage
    "truncated.jpg": Case(lambda: encoded(PHOTO, "JPEG")[:500], says="give an undamaged"),
    "truncated.png": Case(lambda: encoded(PHOTO, "PNG")[:500], says="give an undamaged"),
    "truncated.webp": Case(lambda: encoded(PHOTO, "WEBP")[:200], says="give a"),
    "truncated.avif": Case(lambda: encoded(PHOTO, "AVIF")[:300], says="give a"),
    "truncated.heic": Case(lambda: heic()[:300], says="give a"),
    "truncated.gif": Case(lambda: encoded(PHOTO, "GIF")[:900], says="give an undamaged"),
    "wrong-checksum.png": Case(lambda: encoded(PHOTO, "PNG").replace(b"IDAT", b"IDAT\x01", 1), says="give a"),
    "no-pixels.png": Case(lambda: png(COLOURS, 2, size=(0, 0)), says="give a"),
    "damaged-exif.jpg": Case(
        lambda: encoded(PHOTO, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"), decoded(encoded(PHOTO, "JPEG"))
    ),
    # Too large for the machine
    "bomb.png": Case(
        lambda: png(COLOURS, 2, size=(60000, 60000)),
        says="has more than 256 megapixels: make it smaller first",
    ),
    "bomb.gif": Case(lambda: b"GIF89a\xff\xff\xff\xff\0\0\0" + encoded(PHOTO, "GIF")[13:], says="256 megapixels"),
}
