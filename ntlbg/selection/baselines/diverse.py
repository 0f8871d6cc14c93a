"""Baselines that weigh frames against one another: relevance less redundancy, determinants, coverage, distance.

Shapes: N frames, d channels, k places. x (N, d) unit rows, s (N,) cosines to the query.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import numpy as np

from ntlbg.selection.baselines.pool import Pool, descending, selector


# Below this share of the largest diagonal entry, what a frame adds to a determinant is rounding error.
_EXHAUSTED = 1e-6
_GAUSSIAN_WIDTHS = 2.0 ** np.arange(-3, 2)


@selector(needs_query=True)
def mmr(pool: Pool, *, balance: float = 0.5) -> list[int]:
    """Maximal marginal relevance (Carbonell and Goldstein 1998): argmax of balance s_i - (1 - balance) max_j cos(i, j)
    over the j taken."""
    return mmr_order(pool.frames, pool.scores, pool.k, balance)


def mmr_order(frames: np.ndarray, scores: np.ndarray, k: int, balance: float) -> list[int]:
    """The first k of `mmr`'s order; `frames` (N, d), `scores` (N,). The first is argmax of s."""
    values, redundancy = balance * scores, np.zeros(len(scores))
    chosen = []
    for _ in range(min(k, len(scores))):
        values_now = values - (1 - balance) * redundancy
        values_now[chosen] = -np.inf
        chosen.append(int(values_now.argmax()))
        cosines = (frames @ frames[chosen[-1]]).astype(np.float64)
        redundancy = cosines if len(chosen) == 1 else np.maximum(redundancy, cosines)
    return chosen


@selector()
def greedy_dpp(pool: Pool, *, alpha: float = 1.0) -> list[int]:
    """Greedy MAP of a determinantal point process (Chen, Zhang and Zhou, NeurIPS 2018).

    Maximises log det L_S with L_ij = r_i cos(i, j) r_j, r = exp(alpha s); r = 1 without a query. As log det L_S =
    log det K_S + 2 alpha Σ s, relevance is added to the log-determinant of the cosines. After rank(x) frames the
    determinant is 0 and the rest is filled up.
    """
    bonus = np.zeros(pool.count) if pool.scores is None else 2 * alpha * pool.scores
    return greedy_log_det(np.ones(pool.count), _cosines_to(pool.frames), pool.k, bonus=bonus)[0]


@selector()
def log_det(pool: Pool, *, gate: float = 0.25, noise: float = 0.01) -> list[int]:
    """Greedy maximum of log det(I + K_SS/noise) over the `gate` of the frames with the highest s (at least k of them).

    K are cosines. It is twice the mutual information of the chosen frames with a Gaussian field of covariance K seen
    under noise, so greedy reaches 1 - 1/e of the best; noise -> 0 is maximum volume. Without a query the gate is open.
    """
    gated = np.arange(pool.count)
    if pool.scores is not None:
        gated = np.sort(descending(pool.scores)[: max(pool.k, round(gate * pool.count))])
    cosines_to = _cosines_to(pool.frames[gated])

    def column(index: int) -> np.ndarray:
        values = cosines_to(index) / noise
        values[index] += 1
        return values

    order, _ = greedy_log_det(np.full(len(gated), 1 + 1 / noise), column, pool.k)
    return gated[order].tolist()


@selector(needs_query=True)
def mdp3(pool: Pool, *, relevance_weight: float = 10.0, segment: int = 32) -> list[int]:
    """MDP3, "A Training-free Approach for List-wise Frame Selection in Video-LLMs" (Sun et al., ICCV 2025).

    Gaussian kernels k(x, y) = mean over a in 2^-3 .. 2^1 of exp(-|x - y|²/2a) in a determinantal point process whose
    quality is the query's kernel: a set S gains log det K_S + relevance_weight Σ log k(q, i), relevance_weight = 2/.2.
    Segments of 32 frames choose greedily, each conditioned on what the segment before it chose, and dynamic
    programming over (segment, places used) divides the k places among them.

    (The paper's sum of kernels is five times this mean, which adds the same constant for every set of k frames.)
    """
    to_query = 2 - 2 * pool.scores
    bonus = relevance_weight * np.log(gaussian_kernel(to_query))
    # places used -> (gain so far, frames so far, those of the last segment)
    states: dict[int, tuple[float, list[int], list[int]]] = {0: (0.0, [], [])}
    for start in range(0, pool.count, segment):
        before = max(0, start - segment)
        local = pool.frames[before : start + segment]
        kernel = gaussian_kernel(2 - 2 * (local @ local.T).astype(np.float64))
        offer = bonus[before : start + segment].copy()
        offer[: start - before] = -np.inf
        reached: dict[int, tuple[float, list[int], list[int]]] = {}
        for used, (value, chosen, last) in states.items():
            given = [index - before for index in last]
            order, gains = _whole_order(kernel, pool.k - used, offer, given)
            for places, total in enumerate(value + np.concatenate([[0.0], np.cumsum(gains)])):
                if used + places not in reached or total > reached[used + places][0]:
                    taken = [index + before for index in order[:places]]
                    reached[used + places] = (total, chosen + taken, taken)
        states = reached
    return states[pool.k][1]


def _whole_order(kernel: np.ndarray, k: int, bonus: np.ndarray, given: list[int]) -> tuple[list[int], list[float]]:
    """`greedy_log_det`, going on by `bonus` where frames are copies of one another, so that any budget can be met."""
    order, gains = greedy_log_det(kernel.diagonal(), lambda index: kernel[index], k, bonus=bonus, given=given)
    rest = [int(i) for i in descending(bonus) if np.isfinite(bonus[i]) and i not in order][: k - len(order)]
    return order + rest, gains + [float(np.log(_EXHAUSTED) + bonus[i]) for i in rest]


def gaussian_kernel(squared_distance: np.ndarray) -> np.ndarray:
    """mean over a in {1/8, 1/4, 1/2, 1, 2} of exp(-d²/2a), of any shape."""
    squared_distance = np.maximum(squared_distance, 0.0)
    return sum(np.exp(-squared_distance / (2 * width)) for width in _GAUSSIAN_WIDTHS) / len(_GAUSSIAN_WIDTHS)


def greedy_log_det(
    diagonal: np.ndarray,
    column: Callable[[int], np.ndarray],
    k: int,
    *,
    bonus: np.ndarray | None = None,
    given: Sequence[int] = (),
) -> tuple[list[int], list[float]]:
    """Greedy maximum of log det K_S + Σ_S bonus, one Cholesky column a step: O(k² N).

    The residual d²_i = K_ii - K_iS K_SS⁻¹ K_Si is what frame i adds to the determinant; taking j lowers every other's
    by e_i², e_i = (K_ji - <c_j, c_i>)/d_j.

    Args:
        diagonal: K_ii (N,). column: j -> K_j (N,).
        bonus: (N,); -inf forbids a frame.
        given: frames taken beforehand; they condition the others and are not in the result.

    Returns:
        at most k indices in order and the gain of each; fewer where the rest adds nothing but rounding.
    """
    residual = np.array(diagonal, dtype=np.float64)
    floor = _EXHAUSTED * residual.max()
    bonus = np.zeros(len(residual)) if bonus is None else bonus
    factors = np.zeros((len(given) + k, len(residual)))
    order, gains = [], []
    for step in range(min(len(factors), len(residual))):
        if step < len(given):
            best = given[step]
        else:
            values = np.where(residual > floor, np.log(np.maximum(residual, floor)) + bonus, -np.inf)
            best = int(values.argmax())
            if not np.isfinite(values[best]):
                break
            order.append(best)
            gains.append(float(values[best]))
        if residual[best] > floor:
            factor = (column(best) - factors[:step, best] @ factors[:step]) / np.sqrt(residual[best])
            factors[step] = factor
            residual = residual - factor**2
        residual[best] = 0.0
    return order, gains


def _cosines_to(frames: np.ndarray) -> Callable[[int], np.ndarray]:
    return lambda index: (frames @ frames[index]).astype(np.float64)


@selector()
def facility_location(pool: Pool, *, beta: float = 1.0) -> list[int]:
    """Facility location (Lin and Bilmes 2011): greedy maximum of Σ_i max_{j in S} cos(i, j) + beta Σ_S s.

    Without a query the second term is gone. O(N²) memory.
    """
    bonus = np.zeros(pool.count) if pool.scores is None else beta * pool.scores
    return facility_location_order(1 + pool.frames @ pool.frames.T, bonus, pool.k)


def facility_location_order(similarity: np.ndarray, bonus: np.ndarray, k: int) -> list[int]:
    """The first k in the greedy order of Σ_i max_{j in S} similarity_ij + Σ_S bonus, by lazy evaluation (Minoux 1978).

    What a frame adds only falls as others are taken (the sum is submodular), so an old value is an upper bound: only
    the frame at the top of the heap is evaluated again. Ties go to the earliest frame.

    Args:
        similarity: (N, N), symmetric and >= 0 (cosines plus 1: adding a constant changes no argmax).
        bonus: (N,).
    """
    covered = np.zeros(len(similarity), dtype=similarity.dtype)
    heap = [(-float(gain), index) for index, gain in enumerate(similarity.sum(1, dtype=np.float64) + bonus)]
    heapq.heapify(heap)
    order = []
    while heap and len(order) < k:
        _, index = heapq.heappop(heap)
        gain = np.maximum(similarity[index] - covered, 0).sum(dtype=np.float64) + bonus[index]
        fresh = (-float(gain), index)
        if heap and fresh > heap[0]:
            heapq.heappush(heap, fresh)
            continue
        order.append(index)
        covered = np.maximum(covered, similarity[index])
    return order


@selector()
def farthest_point(pool: Pool) -> list[int]:
    """Farthest-point traversal (Gonzalez 1985), a 2-approximation of the k-centre problem: from the frame nearest the
    mean, again and again the frame farthest from all taken. Copies of taken frames are left to the filling."""
    similarity = pool.frames @ pool.frames.mean(axis=0)
    chosen = [int(similarity.argmax())]
    nearest = pool.frames @ pool.frames[chosen[0]]
    while len(chosen) < pool.k and nearest.min() < 1 - _EXHAUSTED:
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, pool.frames @ pool.frames[chosen[-1]])
    return chosen
