"""Draws the frames of a `VideoSpec`: numpy arrays (size, size, 3), uint8 RGB, at any size.

Everything is computed in coordinates of the unit square, so that a frame at 56 pixels shows what the same frame shows
at 224.
"""

import colorsys

import numpy as np

from ntlbg.data.world import Distractor, Event, Scene, VideoSpec


# Hue, saturation, value of the palette (0..1).
PALETTE = {
    "red": (0.000, 0.92, 0.90),
    "orange": (0.078, 0.95, 1.00),
    "yellow": (0.153, 0.90, 1.00),
    "green": (0.350, 0.88, 0.72),
    "cyan": (0.505, 0.85, 0.95),
    "blue": (0.620, 0.90, 0.90),
    "purple": (0.755, 0.80, 0.75),
    "pink": (0.905, 0.50, 1.00),
}
OUTLINE = np.array([250, 250, 250], dtype=np.float32)  # brighter than every background: shows the shape everywhere


def background(scene: Scene, size: int) -> np.ndarray:
    """The textured background of a scene, (size, size, 3) uint8. Depends on the scene's name and seed only."""
    rng = np.random.default_rng([11, scene.seed])
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    u, v = np.meshgrid(axis, axis)  # u to the right, v downwards
    base, strength = _TEXTURES[scene.background]
    pattern = strength(u, v, rng)[..., None]
    low, high = (np.array(c, dtype=np.float32) + rng.uniform(-10, 10, size=3) for c in base)
    image = low + (high - low) * pattern
    image *= 1.0 + 0.06 * _blotches(u, v, rng, 2.0)[..., None]
    return np.clip(image + rng.uniform(-10, 10), 0, 255).astype(np.uint8)


def _blotches(u, v, rng, frequency):
    """Smooth noise in about -1..1: a few random plane waves."""
    total = np.zeros_like(u)
    for _ in range(4):
        fx, fy = rng.normal(0, frequency, size=2)
        total += np.sin(2 * np.pi * (fx * u + fy * v) + rng.uniform(0, 6.28)).astype(np.float32)
    return total / 4


def _trunks(u, v, rng):
    wave = np.sin(2 * np.pi * rng.uniform(5, 8) * (u + 0.02 * np.sin(7 * v)) + rng.uniform(0, 6.28))
    return np.clip(0.5 + wave, 0, 1)


def _dunes(u, v, rng):
    bend = v * rng.uniform(2.5, 4.0) + 0.25 * np.sin(2 * np.pi * u * rng.uniform(0.8, 1.4) + rng.uniform(0, 6.28))
    return bend % 1.0


def _waves(u, v, rng):
    return 0.5 + 0.5 * np.sin(2 * np.pi * (rng.uniform(6, 9) * v + 0.15 * np.sin(12 * u + rng.uniform(0, 6.28))))


def _windows(u, v, rng):
    cells = rng.uniform(5, 8)
    return (((u * cells + rng.random()) % 1 > 0.45) & ((v * cells + rng.random()) % 1 > 0.45)).astype(np.float32)


def _flakes(u, v, rng):
    return _dots(u, v, rng, 14, 0.035)


def _stars(u, v, rng):
    return _dots(u, v, rng, 18, 0.018)


def _dots(u, v, rng, count, radius):
    total = np.zeros_like(u)
    for x, y in rng.random((count, 2)):
        total = np.maximum(total, ((u - x) ** 2 + (v - y) ** 2 < radius**2).astype(np.float32))
    return total


def _bricks(u, v, rng):
    rows = rng.uniform(6, 8)
    row = v * rows
    column = u * rows / 2 + 0.5 * (np.floor(row) % 2) + rng.random()
    return ((row % 1 > 0.18) & (column % 1 > 0.1)).astype(np.float32)


def _tufts(u, v, rng):
    return np.clip(0.5 + 0.8 * _blotches(u, v, rng, 5.0), 0, 1)


# Two colours (RGB) and the texture that mixes them. Muted, so that the objects stand out.
_TEXTURES = {
    "forest": (((28, 52, 34), (62, 78, 50)), _trunks),
    "desert": (((140, 112, 76), (176, 148, 108)), _dunes),
    "ocean": (((52, 92, 128), (96, 138, 168)), _waves),
    "city": (((120, 122, 126), (66, 68, 74)), _windows),
    "snow": (((162, 170, 182), (126, 136, 152)), _flakes),
    "night": (((16, 16, 34), (150, 150, 140)), _stars),
    "brick": (((134, 122, 114), (112, 62, 50)), _bricks),
    "meadow": (((88, 118, 62), (128, 148, 84)), _tufts),
    # Held out: textures that are known in palettes that are not.
    "canyon": (((96, 58, 48), (150, 104, 84)), _dunes),
    "reef": (((38, 92, 92), (96, 140, 128)), _tufts),
    "storm": (((52, 56, 66), (98, 102, 112)), _waves),
    "orchard": (((74, 58, 42), (118, 126, 82)), _trunks),
    "harbour": (((36, 54, 74), (112, 118, 120)), _windows),
    "marble": (((152, 150, 146), (120, 112, 116)), _flakes),
    "clay": (((128, 98, 92), (96, 78, 82)), _bricks),
}


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Depth below the outline of a shape of radius 1 (positive inside), good near the outline. x right, y down."""
    if shape == "circle":
        return 0.9 - np.hypot(x, y)
    if shape == "square":
        return 0.78 - np.maximum(np.abs(x), np.abs(y))
    if shape == "diamond":
        return (1.0 - np.abs(x) * 1.25 - np.abs(y)) * 0.65
    if shape == "triangle":
        return np.minimum(0.62 - y, (0.95 + y) * 0.5 - np.abs(x) * 0.87)
    if shape == "cross":
        ax, ay = np.abs(x), np.abs(y)
        return np.maximum(np.minimum(0.3 - ax, 0.95 - ay), np.minimum(0.95 - ax, 0.3 - ay))
    if shape == "star":
        fold = np.abs((np.arctan2(x, -y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
        radius = np.hypot(x, y)
        px, py = radius * np.cos(fold), radius * np.sin(fold)
        bx, by = 0.42 * np.cos(np.pi / 5), 0.42 * np.sin(np.pi / 5)
        return ((bx - 1.0) * py - by * (px - 1.0)) / np.hypot(bx - 1.0, by)
    raise ValueError(f"unknown shape {shape!r}")


def _draw_event(image: np.ndarray, event: Event) -> None:
    size = image.shape[0]
    reach = event.radius + 1.5 / size
    x0, x1 = (int(np.clip(np.floor((event.x + s * reach) * size), 0, size)) for s in (-1, 1))
    y0, y1 = (int(np.clip(np.floor((event.y + s * reach) * size), 0, size)) for s in (-1, 1))
    dx = (np.arange(x0, x1, dtype=np.float32) + 0.5) / size - np.float32(event.x)
    dy = (np.arange(y0, y1, dtype=np.float32) + 0.5) / size - np.float32(event.y)
    x, y = dx[None, :] / event.radius, dy[:, None] / event.radius
    cos, sin = np.float32(np.cos(event.angle)), np.float32(np.sin(event.angle))
    depth = _inside(event.shape, cos * x + sin * y, cos * y - sin * x) * (event.radius * size)
    hue, saturation, value = PALETTE[event.color]
    rgb = colorsys.hsv_to_rgb((hue + event.hue) % 1.0, saturation, float(np.clip(value + event.value, 0, 1)))
    fill = np.array(rgb, dtype=np.float32) * 255
    outer = np.clip(depth + 0.5, 0, 1)[..., None]
    inner = np.clip(depth - 0.03 * size + 0.5, 0, 1)[..., None]
    patch = image[y0:y1, x0:x1].astype(np.float32)
    patch += (OUTLINE - patch) * outer
    patch += (fill - patch) * inner
    image[y0:y1, x0:x1] = patch.astype(np.uint8)


def _draw_distractor(image: np.ndarray, item: Distractor, t: float) -> None:
    size = image.shape[0]
    x, y = (item.x + item.vx * t) % 1.0, (item.y + item.vy * t) % 1.0
    x0, x1 = max(int((x - item.rx) * size), 0), min(int((x + item.rx) * size) + 1, size)
    y0, y1 = max(int((y - item.ry) * size), 0), min(int((y + item.ry) * size) + 1, size)
    dx = ((np.arange(x0, x1) + 0.5) / size - x) / item.rx
    dy = ((np.arange(y0, y1) + 0.5) / size - y) / item.ry
    image[y0:y1, x0:x1][dx[None, :] ** 2 + dy[:, None] ** 2 < 1] = item.grey


class Renderer:
    """Renders frames of one specification at one size; keeps each scene's background, which is the dear part.

    >>> frame = Renderer(build_video(0), 224).frame(12.5)  # (224, 224, 3) uint8
    """

    def __init__(self, spec: VideoSpec, size: int):
        self.spec, self.size = spec, size
        self._backgrounds: dict[Scene, np.ndarray] = {}

    def frame(self, t: float) -> np.ndarray:
        """The picture at second `t`, (size, size, 3) uint8 RGB."""
        scene = self.spec.scene_at(t)
        if scene not in self._backgrounds:
            self._backgrounds[scene] = background(scene, self.size)
        image = self._backgrounds[scene].copy()
        for item in self.spec.distractors:
            _draw_distractor(image, item, t)
        event = self.spec.event_at(t)
        if event is not None:
            _draw_event(image, event)
        return image


def render_frame(spec: VideoSpec, t: float, size: int = 224) -> np.ndarray:
    """One picture of a video: (size, size, 3) uint8 RGB at second `t`. For many pictures keep a `Renderer`."""
    return Renderer(spec, size).frame(t)
