"""What every comparison holds its selectors against: no choice at all, the specification's own rule, ours, the truth.

Shapes: N frames, k places.
"""

from __future__ import annotations

import numpy as np

from ntlbg.selection.baselines.pool import Pool, selector, spread


@selector()
def uniform(pool: Pool) -> np.ndarray:
    """The frames in the middle of k equal stretches of time, floor((i + 1/2) N/k).

    Frame t lasts from t to t + 1, so that the floor is the frame at that time; rounding would run past the last one.
    """
    return (2 * np.arange(pool.k) + 1) * pool.count // (2 * pool.k)


@selector()
def random(pool: Pool) -> np.ndarray:
    """k frames drawn alike without replacement."""
    return np.random.default_rng(pool.seed).choice(pool.count, pool.k, replace=False)


@selector(needs_evidence=True)
def oracle(pool: Pool) -> list[int]:
    """The evidence itself: the middle of every piece (run of neighbouring frames), then its frames farthest in time
    from those taken. With more pieces than places, pieces at equal steps."""
    runs = np.split(pool.evidence, 1 + np.flatnonzero(np.diff(pool.evidence) > 1))
    places = min(pool.k, len(runs))
    middles = [int(run[len(run) // 2]) for run in runs]
    chosen = [middles[(2 * i + 1) * len(runs) // (2 * places)] for i in range(places)]
    rest = np.setdiff1d(pool.evidence, chosen)
    return chosen + spread(chosen, rest, min(pool.k - places, len(rest)))


@selector()
def median_shell(pool: Pool) -> np.ndarray:
    """The specification's own rule: the k frames whose squared Mahalanobis distance m_t = (x - mu)ᵀ Σ⁻¹ (x - mu) lies
    nearest the median of m. Σ is the video's own low rank plus diagonal (`gaussian_ntlbg.fit_gaussian`)."""
    # Imported here so that the other baselines do not wait for torch.
    import torch

    from ntlbg.modeling_ntlbg.gaussian_ntlbg import fit_gaussian

    frames = torch.from_numpy(pool.frames)
    distance = fit_gaussian(frames).mahalanobis(frames).numpy().astype(np.float64)
    return np.argsort(np.abs(distance - np.median(distance)), kind="stable")


@selector()
def strata(pool: Pool, **options) -> np.ndarray:
    """This project's selector, as `select_frames` calls it: relevance peaks of the centred cosine, novelty peaks,
    shell LBG for the rest. Options go to `strata_ntlbg.select_representatives`."""
    import torch

    from ntlbg.modeling_ntlbg.scorer_ntlbg import relevance_to
    from ntlbg.modeling_ntlbg.strata_ntlbg import select_representatives

    frames = torch.from_numpy(pool.frames)
    relevance = None
    if pool.query is not None:
        relevance = relevance_to(frames, torch.from_numpy(pool.query))
    elif pool.scores is not None:
        relevance = torch.from_numpy(pool.scores)
    return select_representatives(frames, pool.k, relevance=relevance, **options).indices.numpy()
