"""Clips with known motion: a camera path over a photograph, sometimes with layers that move on their own.

A clip is deterministic in its seed and split. Its layers, back to front, are a photograph and up to two cut-outs: part
of the same photograph (parallax), or of others (objects that occlude). Each moves by a similarity transform along a
smooth path. ``motion_bucket_id`` is the mean displacement d of what is visible, in pixels per frame over the image and
the clip: ``round(255 * min(1, d))``. Frames per second do not change the motion, which is counted by the frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from svd_tiny import photos
from svd_tiny.model import FRAMES, HEIGHT, WIDTH
from svd_tiny.photos import Split

FASTEST = 1.0  # mean displacement in pixels per frame that is motion_bucket_id 255
FPS = (5, 6, 7, 8)
_CENTRE = np.array([WIDTH, HEIGHT]) / 2


@dataclass(frozen=True)
class Clip:
    """A rendered clip.

    Attributes:
        frames: [frames, H, W, 3] uint8.
        motion_bucket_id: 0..255.
        fps: one of ``FPS``.
        displacement: mean in pixels per frame.
        photo: name of the photograph in the back.
    """

    frames: np.ndarray
    motion_bucket_id: int
    fps: int
    displacement: float
    photo: str


@dataclass(frozen=True)
class _Motion:
    """Scene to screen at progress u: turn by u angle and zoom by exp(u zoom) about a pivot, then move by u shift."""

    shift: np.ndarray  # pixels
    angle: float
    zoom: float
    pivot: np.ndarray
    progress: np.ndarray  # [FRAMES], 0 to 1

    def matrix(self, frame: int) -> np.ndarray:
        """Return the linear part [2, 2] at ``frame``."""
        u = self.progress[frame]
        c, s = np.cos(u * self.angle), np.sin(u * self.angle)
        return np.exp(u * self.zoom) * np.array([[c, -s], [s, c]])

    def to_screen(self, points: np.ndarray, frame: int) -> np.ndarray:
        return (points - self.pivot) @ self.matrix(frame).T + self.pivot + self.progress[frame] * self.shift

    def to_scene(self, points: np.ndarray, frame: int) -> np.ndarray:
        moved = points - self.progress[frame] * self.shift - self.pivot
        return moved @ np.linalg.inv(self.matrix(frame)).T + self.pivot

    def scaled(self, factor: float) -> _Motion:
        return replace(self, shift=self.shift * factor, angle=self.angle * factor, zoom=self.zoom * factor)


@dataclass(frozen=True)
class _Layer:
    photo: str
    motion: _Motion
    anchor: np.ndarray  # a point of the first frame ...
    centre: np.ndarray  # ... and where it is in the photograph's pixels
    pitch: float  # the photograph's pixels per pixel of the first frame
    shape: tuple[np.ndarray, float, float] | None = None  # polar outline [K], its phase, softness in pixels
    position: np.ndarray | None = None  # of the shape in the first frame


def clip(
    seed: int, split: Split = "train", *, frames: range = range(FRAMES), displacement: float | None = None
) -> Clip:
    """Render the clip of a seed; only some of its ``frames`` if asked, about a ``displacement`` if given."""
    rng = np.random.default_rng([seed, split == "train"])
    drawn = 0.0 if rng.random() < 0.05 else FASTEST * rng.random()
    amount = drawn if displacement is None else displacement
    layers = _draw_layers(rng, split, amount)
    gain, offset = 1 + 0.12 * rng.uniform(-1, 1), 0.06 * rng.uniform(-1, 1)
    tint = 1 + 0.05 * rng.uniform(-1, 1, 3)
    flip = rng.random() < 0.5
    fps = int(rng.choice(FPS))
    video = _render(layers, frames)
    video = (video - 0.5) * gain * tint + 0.5 + offset
    if flip:
        video = video[:, :, ::-1]
    d = _displacement(layers)
    pixels = np.round(255 * np.clip(video, 0, 1)).astype(np.uint8)
    return Clip(pixels, motion_bucket_id(d), fps, d, layers[0].photo)


def motion_bucket_id(displacement: float) -> int:
    """Return the condition of a mean ``displacement`` in pixels per frame."""
    return round(255 * min(1.0, displacement / FASTEST))


def _draw_layers(rng: np.random.Generator, split: Split, amount: float) -> list[_Layer]:
    name = str(rng.choice(photos.names(split)))
    motion = _draw_motion(rng, amount)
    size = np.array(photos.load(name).size, float)
    widest = min(size[0], size[1] * WIDTH / HEIGHT) / WIDTH
    pitch = float(np.exp(rng.uniform(np.log(min(1.3, widest)), np.log(widest))))
    corners = np.array([[0, 0], [WIDTH, 0], [0, HEIGHT], [WIDTH, HEIGHT]], float)
    reach = np.concatenate([motion.to_scene(corners, t) for t in (0, FRAMES // 2, FRAMES - 1)]) - _CENTRE
    room = float((size / np.ptp(reach, axis=0)).min())  # the coarsest pitch at which the whole path stays inside
    pitch = max(min(pitch, room), min(1.0, widest))
    low, high = -reach.min(axis=0) * pitch, size - reach.max(axis=0) * pitch
    centre = np.where(low < high, rng.uniform(np.minimum(low, high), np.maximum(low, high)), (low + high) / 2)
    layers = [_Layer(name, motion, _CENTRE, centre, pitch)]
    kind = rng.random()
    if kind < 0.15:
        own = _draw_motion(rng, amount * rng.uniform(0.2, 1.0))
        both = replace(motion, shift=motion.shift + own.shift, zoom=motion.zoom + 0.3 * own.zoom)
        layers.append(replace(layers[0], motion=both, shape=_draw_shape(rng, 18, 34), position=_draw_position(rng)))
    elif kind < 0.4:
        for _ in range(rng.integers(1, 3)):
            other = str(rng.choice(photos.names(split, textures=True)))
            own = _draw_motion(rng, amount * rng.uniform(0.0, 2.0))
            position = _draw_position(rng)
            own = replace(own, shift=own.shift + motion.shift * rng.integers(0, 2), pivot=position)
            size = np.array(photos.load(other).size, float)
            pitch = float(rng.uniform(1.0, max(1.0, size.min() / 64)))
            at = size * rng.uniform(0.3, 0.7, 2)
            layers.append(_Layer(other, own, position, at, pitch, _draw_shape(rng, 6, 20), position))
    return layers


def _draw_motion(rng: np.random.Generator, amount: float) -> _Motion:
    """Draw a motion of ``amount`` pixels per frame on average, of a random mix of pan, zoom and rotation."""
    weights = rng.dirichlet([0.5, 0.4, 0.1])  # mostly one of the three
    direction = rng.uniform(0, 2 * np.pi)
    ease = rng.uniform(0, 0.6) if rng.random() < 0.25 else 0.0
    t = np.linspace(0, 1, FRAMES)
    motion = _Motion(
        shift=20 * weights[0] * np.array([np.cos(direction), 0.5 * np.sin(direction)]),
        zoom=0.5 * weights[1] * rng.choice([-1, 1], p=[0.35, 0.65]),
        angle=0.5 * weights[2] * rng.choice([-1, 1]),
        pivot=_CENTRE * (1 + rng.uniform(-0.4, 0.4, 2)),
        progress=(1 - ease) * t + ease * t * t * (3 - 2 * t),
    )
    for _ in range(3):  # nearly linear in the amount
        motion = motion.scaled(amount / max(_speed(motion), 1e-3))
    return replace(motion, zoom=float(np.clip(motion.zoom, -0.7, 0.7)), angle=float(np.clip(motion.angle, -0.8, 0.8)))


def _draw_shape(rng: np.random.Generator, smallest: float, largest: float) -> tuple[np.ndarray, float, float]:
    radius = rng.uniform(smallest, largest)
    corners = rng.integers(5, 9) if rng.random() < 0.5 else 64  # a polygon, or round
    phase = rng.uniform(0, 2 * np.pi)
    if corners < 64:
        outline = radius * rng.uniform(0.7, 1.2, corners)
    else:
        angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
        outline = radius / np.hypot(np.cos(angles), np.sin(angles) * rng.uniform(1.0, 1.8))
    return outline, phase, 0.7 if rng.random() < 0.6 else rng.uniform(1.5, 5.0)


def _draw_position(rng: np.random.Generator) -> np.ndarray:
    return _CENTRE * (1 + rng.uniform(-0.7, 0.7, 2))


def _grid(step: int) -> np.ndarray:
    y, x = np.mgrid[step / 2 : HEIGHT : step, step / 2 : WIDTH : step]
    return np.stack([x, y], -1).reshape(-1, 2)


def _speed(motion: _Motion, weights: np.ndarray | None = None, step: int = 8) -> float:
    """Return the mean displacement over a grid of screen points and all steps, ``weights`` [FRAMES - 1, points]."""
    points = _grid(step)
    moved = [motion.to_screen(motion.to_scene(points, t), t + 1) - points for t in range(FRAMES - 1)]
    lengths = np.linalg.norm(moved, axis=-1)
    return float(lengths.mean() if weights is None else (lengths * weights).mean())


def _displacement(layers: list[_Layer]) -> float:
    points = _grid(4)
    visible = np.ones((FRAMES - 1, len(points)))
    total = 0.0
    for layer in reversed(layers):
        cover = np.stack([_mask(layer, layer.motion.to_scene(points, t)) for t in range(FRAMES - 1)])
        total += _speed(layer.motion, visible * cover, step=4)
        visible = visible * (1 - cover)
    return total


def _mask(layer: _Layer, scene: np.ndarray) -> np.ndarray:
    """Return the cover [...] of scene points [..., 2], 0..1."""
    if layer.shape is None or layer.position is None:
        return np.ones(scene.shape[:-1])
    outline, phase, softness = layer.shape
    away = scene - layer.position
    angle = (np.arctan2(away[..., 1], away[..., 0]) + phase) % (2 * np.pi) / (2 * np.pi) * len(outline)
    index = np.floor(angle).astype(int)
    part = angle - index
    reach = outline[index % len(outline)] * (1 - part) + outline[(index + 1) % len(outline)] * part
    return np.clip((reach - np.hypot(away[..., 0], away[..., 1])) / softness + 0.5, 0, 1)


def _render(layers: list[_Layer], frames: range) -> np.ndarray:
    """Composite ``frames`` [T, H, W, 3], float in 0..1."""
    points = _grid(1)
    video = np.zeros((len(frames), HEIGHT, WIDTH, 3), np.float32)
    for layer in layers:
        scene = np.stack([layer.motion.to_scene(points, t) for t in frames]).reshape(-1, HEIGHT, WIDTH, 2)
        where = layer.centre + (scene - layer.anchor) * layer.pitch
        colour = _sample(layer.photo, where, layer.pitch * np.exp(-layer.motion.zoom / 2))
        cover = _mask(layer, scene)[..., None].astype(np.float32)
        video = video + cover * (colour - video)
    return video


def _sample(name: str, where: np.ndarray, pitch: float) -> np.ndarray:
    """Sample a photograph bicubically at ``where`` [T, H, W, 2] of its pixels, from the level nearest to ``pitch``."""
    image = photos.level(name, max(0, round(4 * np.log2(max(pitch, 1.0)))))
    width, height = photos.load(name).size
    grid = torch.from_numpy((where / [width, height] * 2 - 1).astype(np.float32))
    source = torch.from_numpy(image.transpose(2, 0, 1))[None].expand(len(grid), -1, -1, -1)
    out = functional.grid_sample(source, grid, "bicubic", "reflection", align_corners=False)
    return out.permute(0, 2, 3, 1).numpy()
