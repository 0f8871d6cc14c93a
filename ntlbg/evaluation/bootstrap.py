"""Intervals of means by drawing videos again and again (Efron, 1979)."""

from __future__ import annotations

import numpy as np


def paired_interval(
    difference: np.ndarray, videos: np.ndarray | None = None, *, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """
    95 % interval of the mean of differences (n,).

    Args:
        videos: (n,) the video of each, where some have several: those of one video are drawn together.
    """
    rng = np.random.default_rng(seed)
    if videos is None:
        means = rng.choice(difference, size=(draws, len(difference))).mean(axis=1)
    else:
        _, number = np.unique(videos, return_inverse=True)
        count = number.max() + 1
        weights = rng.multinomial(count, np.full(count, 1 / count), size=draws)
        means = weights @ np.bincount(number, difference) / (weights @ np.bincount(number))
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


__all__ = ["paired_interval"]
