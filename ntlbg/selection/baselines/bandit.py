"""FOCUS: a baseline that scores only a fraction of the frames, for curves of accuracy against frames scored.

Shapes: N frames, A arms (clips), k places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ntlbg.selection.baselines.pool import Pool, descending, selector, share_places, spread


@dataclass(frozen=True)
class Exploration:
    """What `explore` found.

    Attributes:
        order: indices of frames in the order of preference, at least min(k, N) of them.
        scored: sorted indices of the frames whose score was asked for; what the choice cost.
    """

    order: list[int]
    scored: np.ndarray


@selector(needs_query=True)
def focus(pool: Pool, **options) -> list[int]:
    """FOCUS, "Efficient Keyframe Selection for Long Video Understanding" (Zhu et al., ICLR 2026): see `explore`, whose
    keywords this takes. Only the scores of the frames it explored are used, also to fill up."""
    return explore(lambda indices: pool.scores[indices], pool.count, pool.k, pool.seed, **options).order


def explore(
    score: Callable[[np.ndarray], np.ndarray],
    count: int,
    k: int,
    seed: int = 0,
    *,
    clip: int = 16,
    pulls: int = 2,
    zoom: float = 0.25,
    final: float = 0.2,
    temperature: float = 0.06,
) -> Exploration:
    """Clips of `clip` frames (16 seconds at one a second) are the arms of a bandit.

    1. Coarse: `pulls` random frames of every arm are scored. With mean m_a, variance v_a, n_a pulls, n = Σ n_a and b
       the range of the scores seen, the optimistic value is m_a plus the empirical Bernstein radius
           sqrt(2 v_a log n / n_a) + 3 b log n / n_a.
    2. Fine: in the share `zoom` of the arms with the highest optimistic value every frame is scored.
    3. Of these, the share `final` of all arms (4 to 32) with the highest mean divide k by softmax(mean/temperature),
       and each gives its highest scores. What is left goes to the other scored frames, by score; if all of them are
       not k, to the widest gaps in time.

    The paper's allocation in step 3 is described, not specified; this is one reading of it.

    Args:
        score: given indices (m,) int64 of frames, returns their scores (m,); called once per step, so that an
            expensive scorer can batch.
        count: N.
    """
    rng = np.random.default_rng(seed)
    arms = [np.arange(start, min(start + clip, count)) for start in range(0, count, clip)]
    known = np.full(count, np.nan)
    coarse = np.sort(np.concatenate([rng.choice(arm, min(pulls, len(arm)), replace=False) for arm in arms]))
    known[coarse] = score(coarse)
    values = bernstein_bounds([known[arm][~np.isnan(known[arm])] for arm in arms])
    zoomed = descending(values)[: max(1, round(zoom * len(arms)))]

    inside = np.concatenate([arms[arm] for arm in zoomed])
    fine = np.sort(inside[np.isnan(known[inside])])
    if len(fine):
        known[fine] = score(fine)
    means = np.array([known[arms[arm]].mean() for arm in zoomed])
    best = descending(means)[: int(np.clip(round(final * len(arms)), 4, 32))]
    weights = np.exp((means[best] - means[best[0]]) / temperature)
    finalists = [arms[arm] for arm in zoomed[best]]
    quotas = share_places(weights, np.array([len(arm) for arm in finalists]), k)
    order = [
        int(index)
        for arm, quota in zip(finalists, quotas, strict=True)
        for index in arm[descending(known[arm])][:quota]
    ]
    scored = np.flatnonzero(~np.isnan(known))
    rest = np.setdiff1d(scored, order)
    order += rest[descending(known[rest])].tolist()
    unscored = np.setdiff1d(np.arange(count), scored)
    return Exploration(order + spread(order, unscored, min(k, count) - len(order)), scored)


def bernstein_bounds(samples: list[np.ndarray]) -> np.ndarray:
    """Mean plus empirical Bernstein radius of each arm's scores; see `explore`. (A,)"""
    everything = np.concatenate(samples)
    log_total, span = np.log(len(everything)), np.ptp(everything)
    return np.array(
        [
            arm.mean() + np.sqrt(2 * arm.var() * log_total / len(arm)) + 3 * span * log_total / len(arm)
            for arm in samples
        ]
    )
