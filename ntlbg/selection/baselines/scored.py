"""Baselines that look at the curve of scores s alone: which frames match the query, and where they lie in time.

Shapes: N frames, k places, s (N,) cosines to the query.
"""

from __future__ import annotations

import numpy as np

from ntlbg.selection.baselines.pool import Pool, descending, log_softmax, part_maxima, selector, to_unit_range


@selector(needs_query=True)
def top_k(pool: Pool) -> np.ndarray:
    """The k highest s."""
    return descending(pool.scores)


@selector(needs_query=True)
def stratified_top_k(pool: Pool) -> list[int]:
    """argmax of s in each of k equal bins of time."""
    return part_maxima(pool.scores, 0, pool.count, pool.k)


@selector(needs_query=True)
def temporal_nms(pool: Pool) -> list[int]:
    """Temporal non-maximum suppression: again and again argmax of s, then all |t - t'| < N/(2k) are out."""
    free, steps, chosen = pool.scores.copy(), np.arange(pool.count), []
    while len(chosen) < pool.k and np.isfinite(free.max()):
        chosen.append(int(free.argmax()))
        free[np.abs(steps - chosen[-1]) < pool.count / (2 * pool.k)] = -np.inf
    return chosen


@selector(needs_query=True)
def aks(pool: Pool, *, mean_gap: float = 0.8, least_deviation: float = -100.0, depth: int = 5) -> list[int]:
    """AKS, "Adaptive Keyframe Sampling for Long Video Understanding" (Tang et al., CVPR 2025).

    With s scaled to [0, 1], a segment is kept whole if mean(its k highest s) - mean(s) > `mean_gap` and std(s) >
    `least_deviation`; else it is halved, down to `depth`. A leaf at depth l takes its k/2^l highest. k is the total
    budget on every depth. For k < 2^depth the depth is floor(log2 k): below that a leaf's share would be nothing.
    """
    scores = to_unit_range(pool.scores)
    deepest = min(depth, pool.k.bit_length() - 1)
    chosen, open_segments = [], [(0, pool.count, 0)]
    while open_segments:
        start, end, level = open_segments.pop(0)
        segment = scores[start:end]
        ranked = descending(segment)
        peaked = segment[ranked[: pool.k]].mean() - segment.mean() > mean_gap and segment.std() > least_deviation
        if peaked or level == deepest or end - start == 1:
            chosen += (start + ranked[: pool.k >> level]).tolist()
        else:
            middle = (start + end) // 2
            open_segments += [(start, middle, level + 1), (middle, end, level + 1)]
    return chosen


@selector(needs_query=True)
def bolt(pool: Pool, *, power: float = 1.0) -> list[int]:
    """BOLT, "Boost Large Vision-Language Model Without Training for Long-form Video Understanding" (Liu et al., CVPR
    2025): inverse transform sampling.

    w = minmax(s)^power, F = cumsum(w)/sum(w), u = linspace(1/k, 1 - 1/k, k); the i-th frame is the first t with
    F(t) >= u_i, and where it is taken already, the next unused one (the last unused one at the end of the video).
    k = 1 takes u = 1/2; equal scores weigh alike.
    """
    weights = to_unit_range(pool.scores) ** power
    if np.ptp(pool.scores) == 0:
        weights = np.ones(pool.count)
    cumulative = weights.cumsum() / weights.sum()
    levels = np.linspace(1 / pool.k, 1 - 1 / pool.k, pool.k) if pool.k > 1 else np.array([0.5])
    # Levels such as 1/2 are met exactly by equal weights: a rounding error of float32 must not push them one frame on.
    wanted = np.searchsorted(cumulative, levels - 1e-6)
    unused, chosen = np.ones(pool.count, dtype=bool), []
    for index in wanted:
        later = np.flatnonzero(unused[index:])
        chosen.append(int(index + later[0]) if len(later) else int(np.flatnonzero(unused)[-1]))
        unused[chosen[-1]] = False
    return chosen


@selector(needs_query=True)
def q_frame(pool: Pool, *, temperature: float = 0.8) -> np.ndarray:
    """Q-Frame, "Query-aware Frame Selection and Multi-Resolution Adaptation for Video-LLMs" (Zhang et al., ICCV 2025):
    Gumbel top-k.

    The k highest of log softmax(s/temperature) + g with g ~ Gumbel(0, 1), which draws k frames without replacement.
    """
    return gumbel_order(log_softmax(pool.scores / temperature), pool.seed)


@selector(needs_query=True)
def ada_q(pool: Pool, *, mass: float = 0.997) -> np.ndarray:
    """AdaQ: nucleus sampling of frames at a temperature that follows the curve.

    p = softmax(s/tau), tau = .5 Var(minmax s); the smallest set of frames that holds `mass` of p is kept, and k of it
    are drawn without replacement. A constant curve draws from all frames alike; a set smaller than k is taken whole.
    """
    variance = to_unit_range(pool.scores).var()
    log_p = log_softmax(pool.scores / (0.5 * variance)) if variance > 0 else np.full(pool.count, -np.log(pool.count))
    ranked = descending(log_p)
    kept = ranked[: 1 + int(np.searchsorted(np.exp(log_p[ranked]).cumsum(), mass - 1e-12))]
    return kept[gumbel_order(log_p[kept], pool.seed)]


def gumbel_order(log_weights: np.ndarray, seed: int) -> np.ndarray:
    """Indices in the order in which draws without replacement, in proportion to the weights, take them: (N,)."""
    return descending(log_weights + np.random.default_rng(seed).gumbel(size=len(log_weights)))
