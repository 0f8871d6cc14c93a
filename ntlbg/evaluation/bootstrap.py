"""Intervals of means by drawing videos, or questions, again and again (Efron, 1979)."""

from __future__ import annotations

import numpy as np


def paired_interval(difference: np.ndarray, draws: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of per-video differences (n,)."""
    rng = np.random.default_rng(seed)
    means = rng.choice(difference, size=(draws, len(difference))).mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


__all__ = ["paired_interval"]
