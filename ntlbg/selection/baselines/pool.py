"""What every baseline shares: one signature, one set of checks, one way to fill up and to sort.

Shapes: N candidate frames in time order, d channels, k places. x (N, d) unit rows, q (d,) the query, s = x q (N,).
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ntlbg.errors import InputError


Selector = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Pool:
    """The candidates of one video as a rule sees them, checked.

    Attributes:
        frames: (N, d) float32, unit rows.
        query: (d,) float64 unit vector, or None.
        scores: s (N,) float64, cosine of each frame to the query or what was given in its place, or None.
        k: how many frames to choose, 1 <= k <= N.
        seed: of rules that draw.
        evidence: sorted distinct int64 indices of the frames that hold the answer, or None.
    """

    frames: np.ndarray
    query: np.ndarray | None
    scores: np.ndarray | None
    k: int
    seed: int
    evidence: np.ndarray | None

    @property
    def count(self) -> int:
        """N."""
        return len(self.frames)

    def complete(self, order: Iterable[int]) -> np.ndarray:
        """The first k distinct indices of `order`, filled up by score (without a query: by the widest gaps in time),
        sorted: int64 (k,)."""
        chosen = list(dict.fromkeys(int(index) for index in order))[: self.k]
        free = np.setdiff1d(np.arange(self.count), chosen)
        if self.scores is not None:
            chosen += free[descending(self.scores[free])][: self.k - len(chosen)].tolist()
        else:
            chosen += spread(chosen, free, self.k - len(chosen))
        return np.sort(np.array(chosen, dtype=np.int64))


def selector(
    *, needs_query: bool = False, needs_evidence: bool = False
) -> Callable[[Callable[..., Iterable[int]]], Selector]:
    """Give a rule, which maps a `Pool` to indices in its order of preference, the signature that all baselines have:

        select(frames (N, d), query (d,) | None, k, *, scores=None, seed=0, evidence=None, **options)
            -> (min(k, N),) int64

    distinct and sorted. `frames` are unit rows in float32, `scores` (N,) stand in for the cosines to `query` where
    something else has judged the frames, `evidence` are indices of frames, `options` are the rule's own keywords.
    `select.needs_query` says whether the rule ranks frames by the question.

    Raises (as `InputError`, a `ValueError`): frames that are not finite unit rows, a query of another width or of
    length 0, scores that are not one finite number a frame or come beside a query, k < 1, or a query or evidence that
    the rule needs and did not get.
    """

    def decorate(rule: Callable[..., Iterable[int]]) -> Selector:
        def select(
            frames: np.ndarray,
            query: np.ndarray | None,
            k: int,
            *,
            scores: np.ndarray | None = None,
            seed: int = 0,
            evidence: np.ndarray | None = None,
            **options,
        ) -> np.ndarray:
            if needs_query and query is None and scores is None:
                raise InputError(f"`{rule.__name__}` ranks frames by a query, got query=None; pass a vector (d,)")
            if needs_evidence and evidence is None:
                raise InputError(f"`{rule.__name__}` takes the evidence frames, got evidence=None; pass their indices")
            pool = _checked(frames, query, k, scores, seed, evidence)
            if pool.k == pool.count:
                return np.arange(pool.count)
            return pool.complete(rule(pool, **options))

        functools.update_wrapper(select, rule)
        del select.__wrapped__  # its signature is not the one to show
        select.needs_query = needs_query
        return select

    return decorate


def _checked(
    frames: np.ndarray,
    query: np.ndarray | None,
    k: int,
    scores: np.ndarray | None,
    seed: int,
    evidence: np.ndarray | None,
) -> Pool:
    frames = np.ascontiguousarray(frames, dtype=np.float32)
    if frames.ndim != 2 or 0 in frames.shape:
        raise InputError(f"`frames` have the shape (N, d) with N, d >= 1, got {frames.shape}; pass one row per frame")
    lengths = np.linalg.norm(frames, axis=1)
    if not (np.abs(lengths - 1) < 1e-2).all():
        wrong = int((~(np.abs(lengths - 1) < 1e-2)).sum())
        raise InputError(
            f"`frames` are unit vectors, got {wrong} of {len(frames)} rows that are not (or not finite); divide each "
            "row by its norm"
        )
    try:
        k = operator.index(k)
    except TypeError:
        raise InputError(f"`k` is a whole number of frames, got {k!r}") from None
    if k < 1:
        raise InputError(f"`k` is the number of frames to choose, at least 1, got {k}")
    if scores is not None:
        if query is not None:
            raise InputError("`scores` stand in for the cosines to `query`, got both; pass one of them")
        scores = np.asarray(scores, dtype=np.float64)
        if scores.shape != frames.shape[:1] or not np.isfinite(scores).all():
            raise InputError(
                f"`scores` are one finite number per frame, ({len(frames)},), got the shape {scores.shape}"
                + (" with numbers that are not finite" if scores.shape == frames.shape[:1] else "")
            )
    if query is not None:
        query = np.asarray(query, dtype=np.float64)
        if query.shape != frames.shape[1:]:
            raise InputError(
                f"`query` has as many channels as the frames, ({frames.shape[1]},), got {query.shape}; embed both "
                "with one encoder"
            )
        length = np.linalg.norm(query)
        if not np.isfinite(length) or length == 0:
            raise InputError(f"`query` is a finite vector other than zero, got one of length {length}")
        query = query / length
        scores = (frames @ query.astype(np.float32)).astype(np.float64)
    if evidence is not None:
        evidence = np.asarray(evidence)
        if evidence.ndim != 1 or len(evidence) == 0 or not np.issubdtype(evidence.dtype, np.integer):
            raise InputError(
                f"`evidence` is a list of one or more frame indices, got {evidence.dtype} of shape {evidence.shape}; "
                "for a mask pass np.flatnonzero(mask)"
            )
        evidence = np.unique(evidence).astype(np.int64)
        if evidence[0] < 0 or evidence[-1] >= len(frames):
            raise InputError(
                f"`evidence` lies between 0 and {len(frames) - 1}, got {evidence[0]} to {evidence[-1]}; index the "
                "candidates, not the file's frames"
            )
    return Pool(frames, query, scores, min(k, len(frames)), seed, evidence)


def descending(values: np.ndarray) -> np.ndarray:
    """Indices from the highest of `values` (N,) to the lowest; the earliest of equals first."""
    return np.argsort(-values, kind="stable")


def to_unit_range(values: np.ndarray) -> np.ndarray:
    """(v - min)/(max - min) of `values` (N,); zeros where all are equal."""
    span = np.ptp(values)
    return (values - values.min()) / span if span > 0 else np.zeros_like(values)


def log_softmax(values: np.ndarray) -> np.ndarray:
    """v - log Σ exp v of `values` (N,), without overflow."""
    shifted = values - values.max()
    return shifted - np.log(np.exp(shifted).sum())


def spread(chosen: list[int], free: np.ndarray, count: int) -> list[int]:
    """`count` of `free` (sorted indices), each the farthest in time from `chosen` and from those before it."""
    free, added = np.asarray(free), []
    if count > 0 and not chosen:
        added = [int(free[len(free) // 2])]
    distance = np.full(len(free), np.inf)
    for index in (*chosen, *added):
        distance = np.minimum(distance, np.abs(free - index))
    while len(added) < count:
        added.append(int(free[distance.argmax()]))
        distance = np.minimum(distance, np.abs(free - added[-1]))
    return added


def share_places(weights: np.ndarray, room: np.ndarray, places: int) -> np.ndarray:
    """Share `places` out among parts in proportion to `weights` (m,) >= 0, none above its `room` (m,): int64 (m,).

    Each place goes to the part with the highest w/(2n + 1), n being what it has (Sainte-Laguë): proportions rounded to
    the nearest whole, adding up exactly. Parts of weight 0 get what the others have no room for.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if weights.max() <= 0:
        weights = np.asarray(room, dtype=np.float64)
    quotas = np.zeros(len(weights), dtype=np.int64)
    for _ in range(min(places, int(np.sum(room)))):
        claims = np.where(quotas < room, weights / (2 * quotas + 1), -1.0)
        quotas[claims.argmax()] += 1
    return quotas


def part_maxima(scores: np.ndarray, start: int, end: int, parts: int) -> list[int]:
    """The highest-scoring frame of each of `parts` equal parts of the stretch [start, end); end - start >= parts."""
    edges = start + np.arange(parts + 1) * (end - start) // max(parts, 1)
    return [int(low + scores[low:high].argmax()) for low, high in itertools.pairwise(edges)]


def stretches(cuts: Iterable[int], count: int) -> list[tuple[int, int]]:
    """The scenes [start, end) of `count` frames when a new one starts at each of `cuts`."""
    edges = [0, *sorted({int(cut) for cut in cuts}), count]
    return list(itertools.pairwise(edges))
