"""Moments out of a relevance curve, without training: where it stands out, from when to when, how surely.

Shapes: T candidates (frames or groups) in time order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from ntlbg.modeling_ntlbg.curves_ntlbg import robust_scores, runs


# Robust deviations that a moment's peak rises above the curve's median.
LEAST_PEAK = 3.0

# A moment reaches down to this share of its peak: its half height, as the width of a peak is measured.
HALF_HEIGHT = 0.5


@dataclass(frozen=True)
class Span:
    """One moment.

    Args:
        start, end: seconds of the video.
        confidence: in [0, 1], see `spans_of_curve`.
        peak: seconds at which the curve is highest in it.
        score: robust deviations of that height above the curve's median.
    """

    start: float
    end: float
    confidence: float
    peak: float
    score: float

    def to_dict(self) -> dict:
        """Ready for JSON."""
        return asdict(self)


def spans_of_curve(
    relevance: Sequence[float],
    seconds: Sequence[float],
    looked_at: tuple[float, float],
    most: int = 5,
    *,
    groups: bool = False,
) -> list[Span]:
    """The moments at which a curve stands out, the surest first.

    A value's score is (v - median) / (1.4826 MAD). From the highest value on, a moment is the run of candidates around
    it above half of its score; what is taken is left out, and the next highest begins the next moment, as long as its
    score is at least 3. Borders lie half-way between frames; a group lasts until the next one begins.

    The confidence of a moment is Phi(score)^T: the probability that T values of pure Gaussian noise with the curve's
    own median and spread all stay below its peak. It says how surely the curve has a peak there at all, not how
    surely the peak is what was asked for, nor how exact the borders are.

    A moment that fills more than half of the video does not stand out from the median and is not found.

    Args:
        relevance: (T,).
        seconds: (T,), ascending: when each frame is shown, or each group begins.
        looked_at: (start, end) seconds of what the candidates were taken from.
        most: at most so many moments.
        groups: the candidates are groups of frames.

    Returns:
        the moments; none where nothing stands out. Never the whole video for want of a better one.
    """
    curve = torch.as_tensor(np.asarray(relevance, dtype=np.float64))
    seconds = np.asarray(seconds, dtype=np.float64)
    if len(curve) != len(seconds) or not len(curve):
        raise ValueError(f"a curve needs one time per value, got {len(curve)} values and {len(seconds)} times")
    if not torch.isfinite(curve).all():
        raise ValueError("the relevance curve holds values that are no numbers")
    if most < 1:
        raise ValueError(f"`most` is at least 1, got {most}")
    borders = _borders(seconds, looked_at, groups)
    # A candidate at the very end lasts no time, and a lone one would have no weight at all.
    scores = robust_scores(curve, torch.from_numpy(np.diff(borders)).clamp(min=1e-9))
    free = torch.ones(len(curve), dtype=torch.bool)
    spans: list[Span] = []
    while len(spans) < most and free.any():
        peak = int(torch.where(free, scores, -torch.inf).argmax())
        score = float(scores[peak])
        if score < LEAST_PEAK:
            break
        above = free & (scores >= HALF_HEIGHT * score)
        first, stop = next(run for run in runs(above) if run[0] <= peak < run[1])
        spans.append(
            Span(
                float(borders[first]),
                float(borders[stop]),
                _confidence(score, len(curve)),
                float(seconds[peak]),
                score,
            )
        )
        free[first:stop] = False
        # The flanks of a peak are no moments of their own.
        while first > 0 and free[first - 1] and scores[first - 1] <= scores[first]:
            first -= 1
            free[first] = False
        while stop < len(curve) and free[stop] and scores[stop] <= scores[stop - 1]:
            free[stop] = False
            stop += 1
    return spans


def saliency(relevance: Sequence[float]) -> list[float]:
    """(T,) in [0, 1]: how far each value rises above the curve's median, as a share of the highest one's rise."""
    curve = torch.as_tensor(np.asarray(relevance, dtype=np.float64))
    scores = robust_scores(curve, torch.ones_like(curve)).clamp(min=0)
    return (scores / scores.max().clamp(min=1e-12)).tolist()


def _confidence(score: float, count: int) -> float:
    return (1 - 0.5 * math.erfc(score / math.sqrt(2))) ** count


def _borders(seconds: np.ndarray, looked_at: tuple[float, float], groups: bool) -> np.ndarray:
    """(T + 1,) seconds: where groups begin, or half-way between frames; at the ends those of what was looked at."""
    start, end = min(looked_at[0], seconds[0]), max(looked_at[1], seconds[-1])
    if groups:
        return np.append(seconds, end)
    return np.concatenate([[start], (seconds[1:] + seconds[:-1]) / 2, [end]])


__all__ = ["Span", "saliency", "spans_of_curve"]
