"""The first of two passes over a long film: which pictures to look at, so that little has to be decoded.

Shapes: M pictures of the film, K keyframes, N candidates.

A keyframe is decoded alone; any other picture costs all references since the keyframe before it. A grid in time pays
for nearly the whole film. A scan takes the keyframes, which most encoders put where the picture changes, and fills
only the gaps between them that are too wide, as early in each group of pictures as the widest gap allows. The second
pass then decodes the chosen pictures, exactly and large.
"""

from itertools import pairwise

import numpy as np


# Keyframes alone miss events of any length up to a group of pictures. With gaps of 2 s an event of 4 s is seen twice;
# where the cap on candidates asks for it, gaps of up to 4 s still see it once.
SCAN_GAP, WIDEST_SCAN_GAP = 2.0, 4.0
# A short film is seen at no fewer than about this many moments.
SCAN_CANDIDATES = 64


def scan_pictures(
    times: np.ndarray,
    keyframes: np.ndarray,
    end: float,
    *,
    candidate_fps: float | None = None,
    max_candidates: int,
    gap: float = SCAN_GAP,
    widest_gap: float = np.inf,
) -> np.ndarray | None:
    """
    Picture numbers of a scan: keyframes, and the fewest pictures that leave no gap wider than allowed.

    Args:
        times (`np.ndarray` of shape `(M,)`): ascending seconds of all pictures.
        keyframes (`np.ndarray` of shape `(K,)`): ascending numbers of pictures at which decoding may start.
        end (`float`): when the last picture ends, in seconds.
        candidate_fps (`float`, *optional*): keyframes that follow one another faster than this are thinned.
        max_candidates (`int`): cap. Where it binds, keyframes are thinned to half a gap, then the gaps grow.
        gap (`float`, defaults to 2.0): seconds between candidates at most; a short film's are narrower.
        widest_gap (`float`, *optional*): how far gaps may grow, in seconds.

    Returns:
        int64 (N,), ascending and distinct, 1 <= N <= max_candidates: no two further apart than
        min(`gap`, duration / 64), or than that grown. None if `widest_gap` does not suffice.
    """
    gap = min(gap, (end - times[0]) / SCAN_CANDIDATES)
    step = 1 / candidate_fps if candidate_fps else 0.0
    while (numbers := _scan(times, keyframes, end, step, gap, max_candidates)) is None:
        if step >= gap / 2:
            if gap >= widest_gap:
                return None
            gap = min(1.05 * gap, widest_gap)
        step = max(step, gap / 2)
    return numbers


def _scan(
    times: np.ndarray, keyframes: np.ndarray, end: float, step: float, gap: float, most: int
) -> np.ndarray | None:
    """Keyframes at least `step` apart and fills at most `gap` apart; None if these are more than `most`."""
    key_times, kept, at = times[keyframes], [], 0
    while at < len(keyframes):
        if len(kept) == most:
            return None
        kept.append(at)
        at = max(at + 1, int(np.searchsorted(key_times, key_times[at] + step - 1e-9)))
    numbers = keyframes[kept]
    bounds = np.concatenate([times[:1], times[numbers], [end]])
    fills: list[float] = []
    for left, right in pairwise(bounds):
        count = int(np.ceil((right - left) / gap - 1e-6)) - 1
        if len(numbers) + len(fills) + count > most:
            return None
        # the last one as early as the gap after it allows: all that it needs before it must be decoded to reach it
        fills += [right - gap * back for back in range(count, 0, -1)]
    filled = np.minimum(np.searchsorted(times, np.array(fills) - 1e-9), len(times) - 1)
    return np.union1d(numbers, filled).astype(np.int64)
