"""Baselines that cluster the frames and take one of each cluster. They do not look at the query.

Shapes: N frames, d channels, k clusters.
"""

from __future__ import annotations

import numpy as np

from ntlbg.selection.baselines.diverse import facility_location_order
from ntlbg.selection.baselines.pool import Pool, selector


@selector()
def k_means(pool: Pool) -> list[int]:
    """Lloyd's k-means from a seeded k-means++ start (Arthur and Vassilvitskii 2007), by scikit-learn; of each cluster
    the frame nearest its centre. With fewer distinct pictures than k, as many clusters as there are pictures."""
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ImportError("`k_means` needs scikit-learn: pip install 'ntlbg[bench]'") from error
    clusters = min(pool.k, len(np.unique(pool.frames, axis=0)))
    model = KMeans(clusters, random_state=pool.seed).fit(pool.frames)
    own = model.labels_[:, None] == np.arange(clusters)
    return np.where(own, model.transform(pool.frames), np.inf).argmin(axis=0).tolist()


@selector()
def k_medoids(pool: Pool, *, iterations: int = 50) -> list[int]:
    """k-medoids under |x - y|² = 2 - 2 cos: the BUILD phase of PAM (Kaufman and Rousseeuw 1990), then Voronoi
    iteration (Park and Jun 2009) until nothing changes. Each step lowers Σ_i min_j |x_i - m_j|² or leaves it.

    O(N²) memory.
    """
    similarity = 1 + pool.frames @ pool.frames.T
    # BUILD takes the frame that lowers the cost most, again and again: facility location by another name.
    medoids = np.sort(facility_location_order(similarity, np.zeros(pool.count), pool.k))
    for _ in range(iterations):
        cells = similarity[:, medoids].argmax(axis=1)
        cells[medoids] = np.arange(pool.k)
        moved = medoids.copy()
        for number in range(pool.k):
            members = np.flatnonzero(cells == number)
            within = similarity[np.ix_(members, members)].sum(axis=1, dtype=np.float64)
            best = within.argmax()
            if within[best] > within[np.searchsorted(members, medoids[number])]:
                moved[number] = members[best]
        if (moved == medoids).all():
            break
        medoids = np.sort(moved)
    return medoids.tolist()
