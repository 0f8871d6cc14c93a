"""Videos as sequences of frame descriptors, with known evidence: what a selector sees, without pixels or weights.

Shapes: N frames, d channels. Every frame is an offset all frames share + its scene + the scene's drift + noise, and
where something happens, the event; then it is scaled to length 1, as encoders give it.

The worlds differ in what the question is about. `strata` was developed on worlds like `needle`, and changed again
after the first eight were written and run, last in commit 8218759. Those in `WRITTEN_LATER` came after that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np


FRAMES = 512
CHANNELS = 128
_SUBSPACE = 40  # dimensions that scenes and drift live in
_OFFSET, _SCENE, _DRIFT, _EVENT, _NOISE = 6.0, 3.0, 0.8, 2.0, 1.5
_GLITCH = 8.0
_LONG_MEMORY, _SHORT_MEMORY = 64.0, 3.0  # frames until the correlation has fallen to 1/e: the walk; its noise
_LOG_SPREAD = 1.0  # standard deviation of the logarithm of a shot's length
_FREEDOM = 3  # degrees of freedom of Student's t
# How long the asked-for direction is in a query whose unrelated part has length 1. Where one event is asked about, the
# highest cosine lies 1.4 to 2.0, 2.6 to 3.4 and 3.4 to 4.4 deviations of the whole curve above its median, by world
# (means of 40 videos).
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

    def __init__(self, seed: int):
        self.rng = rng = np.random.default_rng(seed)
        self.basis = np.linalg.qr(rng.normal(size=(CHANNELS, _SUBSPACE)))[0]
        self.offset = _OFFSET * unit(rng.normal(size=CHANNELS))
        self.scenes = np.zeros(FRAMES, dtype=np.int64)
        self.x = np.tile(self.offset, (FRAMES, 1))
        self.taken: list[tuple[int, int]] = []

    def cut(self, settings: int = 8, shots: int = 8, log_spread: float | None = None) -> Self:
        """Shots of similar lengths, or of log-normal ones from 2 frames up; no two of one setting in a row."""
        rng = self.rng
        self.centres = _SCENE * self.inside(settings)
        shortest = 0
        while shortest < 2:
            drawn = rng.uniform(0.3, 2.3, shots) if log_spread is None else rng.lognormal(0, log_spread, shots)
            shares = np.cumsum(drawn)
            borders = [0, *np.round(shares / shares[-1] * FRAMES).astype(int)]
            shortest = min(np.diff(borders))
        order = list(range(settings))
        while len(order) < shots:
            order.append(int(rng.choice([s for s in range(settings) if s != order[-1]])))
        for setting, (start, end) in zip(order, itertools.pairwise(borders), strict=True):
            self.scenes[start:end] = setting
            phase = np.arange(end - start)[:, None] / 40 * rng.uniform(0.5, 1.5, 8) + rng.uniform(0, 6, 8)
            self.x[start:end] += self.centres[setting] + _DRIFT * np.sin(phase) @ self.inside(8)
        return self

    def inside(self, count: int) -> np.ndarray:
        """Random directions of the scenes' subspace, of length about 1."""
        return self.rng.normal(size=(count, _SUBSPACE)) @ self.basis.T / math.sqrt(_SUBSPACE)

    def direction(self) -> np.ndarray:
        """A unit direction of which half the energy lies outside the scenes' subspace."""
        return unit(unit(self.rng.normal(size=CHANNELS)) + self.inside(1)[0]).astype(float)

    def remembering(self, memory: float, channels: int) -> np.ndarray:
        """(N, channels) of a stationary first-order autoregression of variance 1: correlation exp(-lag / memory)."""
        keep = math.exp(-1 / memory)
        x = self.rng.normal(size=(FRAMES, channels))
        x[1:] *= math.sqrt(1 - keep**2)
        for t in range(1, FRAMES):
            x[t] += keep * x[t - 1]
        return x

    def place(self, low: int, high: int, gap: int = FRAMES // 40) -> tuple[int, int]:
        """A free stretch of low .. high frames within one shot, more than `gap` frames from every other."""
        while True:
            size = int(self.rng.integers(low, high + 1))
            start = int(self.rng.integers(0, FRAMES - size))
            end = start + size
            one_shot = (self.scenes[start:end] == self.scenes[start]).all()
            if one_shot and all(end + gap < other or start > stop + gap for other, stop in self.taken):
                self.taken.append((start, end))
                return start, end

    def event(self, direction: np.ndarray, low: int = 2, high: int = 6, gap: int = FRAMES // 40) -> tuple[int, int]:
        """Put `direction` into a free stretch."""
        start, end = self.place(low, high, gap)
        self.x[start:end] += _EVENT * direction
        return start, end

    def finish(
        self, pieces: list[tuple[int, int]], asked: np.ndarray, noise: np.ndarray | None = None
    ) -> DescriptorVideo:
        """The video with noise (N, d) of variance 1, unless given normal and independent; and its queries: the
        frames' offset, `asked` times the cue, something unrelated."""
        noise = self.rng.normal(size=self.x.shape) if noise is None else noise
        frames = unit(self.x + _NOISE * noise / math.sqrt(CHANNELS))
        unrelated = unit(self.inside(1)[0] + unit(self.rng.normal(size=CHANNELS)))
        queries = {cue: unit(self.offset / _OFFSET + strength * asked + unrelated) for cue, strength in CUES.items()}
        return DescriptorVideo(frames, sorted(pieces), self.scenes, queries)


def needle(seed: int) -> DescriptorVideo:
    """One event of 2 to 6 frames, asked about."""
    video = _Builder(seed).cut()
    direction = video.direction()
    return video.finish([video.event(direction)], direction)


def long_event(seed: int) -> DescriptorVideo:
    """One event of 16 to 32 frames, asked about."""
    video = _Builder(seed).cut(6, 6)
    direction = video.direction()
    return video.finish([video.event(direction, 16, 32)], direction)


def several_pieces(seed: int) -> DescriptorVideo:
    """Four events of 2 to 6 frames that share what is asked about and differ in the rest; all are needed."""
    video = _Builder(seed).cut()
    asked = video.direction()
    return video.finish([video.event(unit(asked + 0.7 * video.direction())) for _ in range(4)], asked)


def whole_video(seed: int) -> DescriptorVideo:
    """A question about the whole: the evidence is a frame of every scene. The cue leans to one scene and misleads."""
    video = _Builder(seed).cut(12, 12)
    edges = np.flatnonzero(np.diff(video.scenes)) + 1
    pieces = list(itertools.pairwise([0, *edges.tolist(), FRAMES]))
    return video.finish(pieces, unit(video.centres[int(video.rng.integers(12))]))


def glitches(seed: int) -> DescriptorVideo:
    """A needle, and twelve single frames that are something else altogether (flashes, broken pictures)."""
    video = _Builder(seed).cut()
    direction = video.direction()
    piece = video.event(direction)
    for _ in range(12):
        start, _ = video.place(1, 1)
        video.x[start] += _GLITCH * unit(video.rng.normal(size=CHANNELS))
    return video.finish([piece], direction)


def subspace_needle(seed: int) -> DescriptorVideo:
    """A needle made of what the scenes are made of: it lies in their subspace, where nothing is novel."""
    video = _Builder(seed).cut()
    direction = unit(video.inside(1)[0]).astype(float)
    return video.finish([video.event(direction)], direction)


def returning_scenes(seed: int) -> DescriptorVideo:
    """Four settings in twenty shots, cut back and forth, and a needle in one of them."""
    video = _Builder(seed).cut(4, 20)
    direction = video.direction()
    return video.finish([video.event(direction)], direction)


def distractors(seed: int) -> DescriptorVideo:
    """A needle among six other events nobody asked about."""
    video = _Builder(seed).cut()
    direction = video.direction()
    piece = video.event(direction)
    for _ in range(6):
        video.event(video.direction())
    return video.finish([piece], direction)


def walk(seed: int) -> DescriptorVideo:
    """One take without a cut that wanders all the time (scenes: eighths of it), noise with a memory, and a needle."""
    video = _Builder(seed)
    video.scenes = np.arange(FRAMES) * 8 // FRAMES
    video.x += _SCENE * video.remembering(_LONG_MEMORY, _SUBSPACE) @ video.basis.T / math.sqrt(_SUBSPACE)
    direction = video.direction()
    piece = video.event(direction, 3, 10)
    return video.finish([piece], direction, video.remembering(_SHORT_MEMORY, CHANNELS))


def two_hops(seed: int) -> DescriptorVideo:
    """Two events a third of the video apart, both needed and asked about, and three others half like one of them."""
    video = _Builder(seed).cut()
    hops = [video.direction(), video.direction()]
    pieces = [video.event(hop, gap=FRAMES // 3) for hop in hops]
    for _ in range(3):
        like = hops[int(video.rng.integers(2))]
        video.event(0.5 * like + math.sqrt(0.75) * video.direction())
    # Not scaled to length 1: each half of the question says as much of its event as a question about it alone.
    return video.finish(pieces, hops[0] + hops[1])


def heavy_tails(seed: int) -> DescriptorVideo:
    """Log-normal shots of returning settings, noise with outliers, and an event akin to the setting it happens in."""
    video = _Builder(seed).cut(6, 24, _LOG_SPREAD)
    start, end = video.place(4, 16)
    setting = unit(video.centres[video.scenes[start]])
    direction = unit(video.direction() + 0.5 * setting).astype(float)
    video.x[start:end] += _EVENT * direction
    # Student's t in all channels at once: what is far out is a frame, not a channel.
    scale = np.sqrt((_FREEDOM - 2) / video.rng.chisquare(_FREEDOM, size=(FRAMES, 1)))
    return video.finish([(start, end)], direction, scale * video.rng.normal(size=video.x.shape))


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
        walk,
        two_hops,
        heavy_tails,
    )
}
# Written after the selector was frozen (commit 8218759), by someone who had neither read it nor run it on them.
WRITTEN_LATER = ("walk", "two_hops", "heavy_tails")
