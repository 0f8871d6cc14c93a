"""Baselines that cut the video into scenes first, then share the k places out among them.

Shapes: N frames, c (N - 1,) with c_i = cos(x_i, x_{i+1}), s (N,) cosines to the query. A cut at t starts a scene at t.
"""

from __future__ import annotations

import numpy as np

from ntlbg.selection.baselines.diverse import mmr_order
from ntlbg.selection.baselines.pool import (
    Pool,
    descending,
    log_softmax,
    part_maxima,
    selector,
    share_places,
    stretches,
    to_unit_range,
)


def neighbour_cosines(frames: np.ndarray) -> np.ndarray:
    """c (N - 1,) float64."""
    return np.einsum("td,td->t", frames[:-1], frames[1:]).astype(np.float64)


@selector()
def scene_tiling(pool: Pool, *, most_cuts: int = 15) -> list[int]:
    """SceneTiling of VideoLLaMB (Wang et al. 2024), after TextTiling (Hearst 1997): the middle frame of each scene
    that `depth_cuts` finds. More scenes than places keep the deepest k - 1 cuts."""
    cuts = depth_cuts(neighbour_cosines(pool.frames), min(most_cuts, pool.k - 1))
    return [(start + end) // 2 for start, end in stretches(cuts, pool.count)]


def depth_scores(cosines: np.ndarray) -> np.ndarray:
    """d_i = left peak + right peak - 2 c_i; a peak is reached by climbing from i while c does not fall. (N - 1,)"""
    left, right = cosines.copy(), cosines.copy()
    for i in range(1, len(cosines)):
        if cosines[i - 1] >= cosines[i]:
            left[i] = left[i - 1]
    for i in range(len(cosines) - 2, -1, -1):
        if cosines[i + 1] >= cosines[i]:
            right[i] = right[i + 1]
    return left + right - 2 * cosines


def depth_cuts(cosines: np.ndarray, most: int) -> np.ndarray:
    """Where d > mean + std/2 (unbiased), at most `most` of them, the deepest first: frames that start a scene."""
    if len(cosines) < 2:
        return np.array([], dtype=np.int64)
    depths = depth_scores(cosines)
    ranked = descending(depths)
    return 1 + ranked[depths[ranked] > depths.mean() + 0.5 * depths.std(ddof=1)][:most]


@selector(needs_query=True)
def coselect(pool: Pool, *, threshold: float = 0.8) -> list[int]:
    """CoSeLECT: a cut wherever c < `threshold`; a scene's share of k follows (max s + mean s) sqrt(length), and it
    gives argmax of s in as many equal parts.

    Cosines can be negative, a share cannot: such scenes count as 0.
    """
    scenes = stretches(1 + np.flatnonzero(neighbour_cosines(pool.frames) < threshold), pool.count)
    room = np.array([end - start for start, end in scenes])
    strength = np.array([pool.scores[start:end].max() + pool.scores[start:end].mean() for start, end in scenes])
    quotas = share_places(np.maximum(strength, 0) * np.sqrt(room), room, pool.k)
    return [
        index
        for (start, end), quota in zip(scenes, quotas, strict=True)
        for index in part_maxima(pool.scores, start, end, quota)
    ]


@selector(needs_query=True)
def wfs_sb(pool: Pool, *, wavelet: str = "db4", temperature: float = 0.5, balance: float = 0.5) -> list[int]:
    """WFS-SB, "Wavelet-based Frame Selection by Detecting Semantic Boundary" (Chen et al., CVPR 2026).

    Local extrema of the coarsest wavelet detail of s are boundaries; a clip's share of k follows softmax(importance/
    temperature), and maximal marginal relevance chooses inside. Importance is the mean of max and mean of minmax(s);
    wavelet, importance and temperature are this project's reading, the paper's summary leaves them open.
    """
    clips = stretches(wavelet_boundaries(pool.scores, wavelet), pool.count)
    scaled = to_unit_range(pool.scores)
    importance = np.array([(scaled[start:end].max() + scaled[start:end].mean()) / 2 for start, end in clips])
    quotas = share_places(
        np.exp(log_softmax(importance / temperature)), np.array([end - start for start, end in clips]), pool.k
    )
    return [
        start + index
        for (start, end), quota in zip(clips, quotas, strict=True)
        for index in mmr_order(pool.frames[start:end], pool.scores[start:end], quota, balance)
    ]


def wavelet_boundaries(scores: np.ndarray, wavelet: str = "db4") -> np.ndarray:
    """Interior local extrema of the coarsest detail of `scores` (N,): sorted int64.

    The deepest useful level of a discrete wavelet transform is rebuilt alone. Extrema below a tenth of its highest are
    ripples of the wavelet itself. A curve too short for one level, or constant, has none.
    """
    try:
        import pywt
    except ImportError as error:
        raise ImportError("`wfs_sb` needs PyWavelets: pip install 'ntlbg[bench]'") from error
    level = pywt.dwt_max_level(len(scores), wavelet)
    span = np.ptp(scores)
    if level == 0 or span == 0:
        return np.array([], dtype=np.int64)
    bands = pywt.wavedec(scores, wavelet, level=level)
    detail = pywt.waverec([band if number == 1 else np.zeros_like(band) for number, band in enumerate(bands)], wavelet)
    detail = detail[: len(scores)]
    slope = np.diff(detail)
    # Where all of the detail is rounding error, so are its extrema.
    least = max(0.1 * np.abs(detail).max(), 1e-6 * span)
    return 1 + np.flatnonzero((slope[:-1] * slope[1:] < 0) & (np.abs(detail[1:-1]) > least))
