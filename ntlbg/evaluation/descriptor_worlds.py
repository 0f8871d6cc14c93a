"""Videos as sequences of frame descriptors, with known evidence: what a selector sees, without pixels or weights.

Shapes: N frames, d channels. Every frame is an offset all frames share + its scene + the scene's drift + noise, and
where something happens, the event; then it is scaled to length 1, as encoders give it.

The eight worlds differ in what the question is about. `strata` was developed on worlds like `needle`; its choice at
these lengths has not been changed since any of these was written.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


FRAMES = 512
CHANNELS = 128
_SUBSPACE = 40  # dimensions that scenes and drift live in
_OFFSET, _SCENE, _DRIFT, _EVENT, _NOISE = 6.0, 3.0, 0.8, 2.0, 1.5
_GLITCH = 8.0
# How long the asked-for direction is in a query whose unrelated part has length 1. A needle's highest cosine then lies
# about one, two and four deviations of the whole curve above its median.
CUES = {"weak": 0.5, "medium": 1.0, "strong": 2.0}


@dataclass(frozen=True)
class DescriptorVideo:
    """One video and its question.

    Attributes:
        frames: (N, d) float32 unit rows.
        pieces: [start, end) of each piece of evidence; a good choice holds a frame of every one.
        scenes: (N,) int64, the scene of each frame.
        queries: cue -> (d,) float32 unit vector.
    """

    frames: np.ndarray
    pieces: list[tuple[int, int]]
    scenes: np.ndarray
    queries: dict[str, np.ndarray]

    @property
    def evidence(self) -> np.ndarray:
        """All frames of all pieces, sorted."""
        return np.concatenate([np.arange(start, end) for start, end in self.pieces])


def unit(rows: np.ndarray) -> np.ndarray:
    """Vectors (..., d) at length 1, float32."""
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


class _Builder:
    """A video being made; everything it draws comes from one seed."""

    def __init__(self, seed: int, settings: int = 8, shots: int = 8):
        self.rng = rng = np.random.default_rng(seed)
        self.basis = np.linalg.qr(rng.normal(size=(CHANNELS, _SUBSPACE)))[0]
        self.offset = _OFFSET * unit(rng.normal(size=CHANNELS))
        self.centres = _SCENE * self.inside(settings)
        shares = np.cumsum(rng.uniform(0.3, 2.3, shots))
        borders = [0, *np.round(shares / shares[-1] * FRAMES).astype(int)]
        self.scenes = np.zeros(FRAMES, dtype=np.int64)
        self.x = np.tile(self.offset, (FRAMES, 1))
        order = list(range(settings))
        while len(order) < shots:
            order.append(int(rng.choice([s for s in range(settings) if s != order[-1]])))
        for setting, (start, end) in zip(order, itertools.pairwise(borders), strict=True):
            self.scenes[start:end] = setting
            phase = np.arange(end - start)[:, None] / 40 * rng.uniform(0.5, 1.5, 8) + rng.uniform(0, 6, 8)
            self.x[start:end] += self.centres[setting] + _DRIFT * np.sin(phase) @ self.inside(8)
        self.taken: list[tuple[int, int]] = []

    def inside(self, count: int) -> np.ndarray:
        """Random directions of the scenes' subspace, of length about 1."""
        return self.rng.normal(size=(count, _SUBSPACE)) @ self.basis.T / math.sqrt(_SUBSPACE)

    def direction(self) -> np.ndarray:
        """A unit direction of which half the energy lies outside the scenes' subspace."""
        return unit(unit(self.rng.normal(size=CHANNELS)) + self.inside(1)[0]).astype(float)

    def place(self, low: int, high: int) -> tuple[int, int]:
        """A free stretch of low .. high frames within one shot, N/40 from every other."""
        while True:
            size = int(self.rng.integers(low, high + 1))
            start = int(self.rng.integers(0, FRAMES - size))
            end, gap = start + size, FRAMES // 40
            one_shot = (self.scenes[start:end] == self.scenes[start]).all()
            if one_shot and all(end + gap < other or start > stop + gap for other, stop in self.taken):
                self.taken.append((start, end))
                return start, end

    def event(self, direction: np.ndarray, low: int = 2, high: int = 6) -> tuple[int, int]:
        """Put `direction` into a free stretch."""
        start, end = self.place(low, high)
        self.x[start:end] += _EVENT * direction
        return start, end

    def finish(self, pieces: list[tuple[int, int]], asked: np.ndarray) -> DescriptorVideo:
        """The video with noise, and its queries: the frames' offset, `asked` times the cue, something unrelated."""
        frames = unit(self.x + _NOISE * self.rng.normal(size=self.x.shape) / math.sqrt(CHANNELS))
        unrelated = unit(self.inside(1)[0] + unit(self.rng.normal(size=CHANNELS)))
        queries = {cue: unit(self.offset / _OFFSET + strength * asked + unrelated) for cue, strength in CUES.items()}
        return DescriptorVideo(frames, sorted(pieces), self.scenes, queries)


def needle(seed: int) -> DescriptorVideo:
    """One event of 2 to 6 frames, asked about."""
    video = _Builder(seed)
    direction = video.direction()
    return video.finish([video.event(direction)], direction)


def long_event(seed: int) -> DescriptorVideo:
    """One event of 16 to 32 frames, asked about."""
    video = _Builder(seed, 6, 6)
    direction = video.direction()
    return video.finish([video.event(direction, 16, 32)], direction)


def several_pieces(seed: int) -> DescriptorVideo:
    """Four events of 2 to 6 frames that share what is asked about and differ in the rest; all are needed."""
    video = _Builder(seed)
    asked = video.direction()
    return video.finish([video.event(unit(asked + 0.7 * video.direction())) for _ in range(4)], asked)


def whole_video(seed: int) -> DescriptorVideo:
    """A question about the whole: the evidence is a frame of every scene. The cue leans to one scene and misleads."""
    video = _Builder(seed, 12, 12)
    edges = np.flatnonzero(np.diff(video.scenes)) + 1
    pieces = list(itertools.pairwise([0, *edges.tolist(), FRAMES]))
    return video.finish(pieces, unit(video.centres[int(video.rng.integers(12))]))


def glitches(seed: int) -> DescriptorVideo:
    """A needle, and twelve single frames that are something else altogether (flashes, broken pictures)."""
    video = _Builder(seed)
    direction = video.direction()
    piece = video.event(direction)
    for _ in range(12):
        start, _ = video.place(1, 1)
        video.x[start] += _GLITCH * unit(video.rng.normal(size=CHANNELS))
    return video.finish([piece], direction)


def subspace_needle(seed: int) -> DescriptorVideo:
    """A needle made of what the scenes are made of: it lies in their subspace, where nothing is novel."""
    video = _Builder(seed)
    direction = unit(video.inside(1)[0]).astype(float)
    return video.finish([video.event(direction)], direction)


def returning_scenes(seed: int) -> DescriptorVideo:
    """Four settings in twenty shots, cut back and forth, and a needle in one of them."""
    video = _Builder(seed, 4, 20)
    direction = video.direction()
    return video.finish([video.event(direction)], direction)


def distractors(seed: int) -> DescriptorVideo:
    """A needle among six other events nobody asked about."""
    video = _Builder(seed)
    direction = video.direction()
    piece = video.event(direction)
    for _ in range(6):
        video.event(video.direction())
    return video.finish([piece], direction)


WORLDS: dict[str, Callable[[int], DescriptorVideo]] = {
    make.__name__: make
    for make in (
        needle,
        long_event,
        several_pieces,
        whole_video,
        glitches,
        subspace_needle,
        returning_scenes,
        distractors,
    )
}
