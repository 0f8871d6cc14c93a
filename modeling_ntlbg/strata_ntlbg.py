"""Which groups stand for a video, for a question: relevance first, then novelty, then coverage by shell LBG.

Shapes: T groups in time order, d descriptor channels, k representatives, r rank of the Gaussian's factor.

One rule alone fails somewhere: pure relevance sees nothing of the rest of the video, pure coverage (the shell too)
misses events of a few groups, and a median shell finds neither. So the k places are shared out among three strata, and
what a stratum does not need falls to coverage. Hard indices carry no gradient; everything here runs without one.
"""

import math
from dataclasses import dataclass

import torch

from ntlbg.modeling_ntlbg.gaussian_ntlbg import CHUNK, LowRankGaussian, check_descriptors, fit_gaussian
from ntlbg.modeling_ntlbg.shell_lbg_ntlbg import DENSE_POINTS, bands, shell_lbg, snap_to_points


STRATA = ("relevance", "novelty", "coverage")
_RELEVANCE, _NOVELTY, _COVERAGE = range(3)
_MAD_TO_DEVIATION = 1.4826
# A calibrated curve above zero nearly everywhere is about the whole video: coverage answers that, not peaks.
_GLOBAL_FRACTION = 0.6
# A shy head may peak below zero. A group counts as evidence from about 12 % on where it also stands out of the curve.
_SHY_LOGIT, _SHY_SCORE = -2.0, 3.0
# Calibrated peaks can be trusted with more of the k places than those of raw cosines.
_CALIBRATED_BONUS = 1.5
# Raw cosines: a peak above this is beyond what noise does in any video, however deep the troughs are.
_CERTAIN_SCORE = 4.5
# Two weak witnesses make one: a small peak of relevance counts where the picture is novel as well.
_WITNESS_SCORE, _WITNESS_NOVELTY = 1.5, 3.0
_NOVEL_SCORE = 2.0
_RELOCATIONS = 8
# Groups on which the error of a long video is judged, and by how many standard errors it must be decided.
_JUDGES, _CERTAINTY = 1024, 5.0
# A question about the whole video is mostly about time (how long, how many, which most), and equal steps are fair to
# time. Shell LBG replaces them where the worst stretch it leaves is below this share of the worst they leave.
_DECISIVE = 0.6
_STRETCH = 0.75  # of a step, k steps to the video


@dataclass
class Representatives:
    """The chosen groups of one video.

    Attributes:
        indices (`torch.LongTensor` of shape `(k,)`): distinct, in time order.
        strata (`torch.LongTensor` of shape `(k,)`): why each was taken, an index into `STRATA`.
        weights (`torch.FloatTensor` of shape `(k,)`): the share of the video each stands for; they sum to 1.
        cells (`torch.LongTensor` of shape `(T,)`): for each group, which of the k stands for it.
        relevance (`torch.FloatTensor` of shape `(T,)`, *optional*): as it came in.
        mahalanobis (`torch.FloatTensor` of shape `(T,)`): squared distances to the Gaussian.
        shell (`float`): c*, the squared radius of the best shell for the codebook's cells, in the factor's whitened
            coordinates.
        spread (`float`): Var(m)/mean(m)² of the squared distances m of the chosen groups.
    """

    indices: torch.Tensor
    strata: torch.Tensor
    weights: torch.Tensor
    cells: torch.Tensor
    relevance: torch.Tensor | None
    mahalanobis: torch.Tensor
    shell: float
    spread: float


def uniform_indices(count: int, k: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """The middles of k equal stretches of T groups: floor((i + 1/2) T / k), int64 (k,)."""
    steps = torch.arange(k, device=device)
    return ((2 * steps + 1) * count) // (2 * k)


def quantisation_error(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """mean_t min_i |x_t - x_i|², the information loss before division by the variance; `x` (T, d) float32, scalar."""
    return _squared_residuals(x, x, indices, x.mean(dim=0)).mean()


def _squared_residuals(
    rows: torch.Tensor, x: torch.Tensor, indices: torch.Tensor, centre: torch.Tensor
) -> torch.Tensor:
    """min_i |row - x_i|² for each of `rows` (n, d), (n,); taken from `centre` (d,), to keep digits."""
    chosen = x[indices] - centre
    residuals = []
    for part in rows.split(CHUNK):
        centred = part - centre
        nearest = chosen.square().sum(1)[:, None] - 2 * chosen @ centred.T
        residuals.append((centred.square().sum(1) + nearest.amin(dim=0)).clamp(min=0.0))
    return torch.cat(residuals)


def _least_error(x: torch.Tensor, choices: list[torch.Tensor], safe: int, certainty: float, settle: bool) -> int:
    """Which of `choices` (each (k,)) has the least quantisation error; ties to the first.

    All T k distances of a long video cost more than the whole selection. So it is judged by one random group of each
    of n equal stretches, and the best is believed where `choices[safe]` lies `certainty` standard errors of their
    paired difference behind. Where it does not, the two are compared on all groups (`settle`), or `safe` it is.
    """
    asked = range(len(choices))
    if len(x) > 4 * _JUDGES:
        jitter = torch.rand(_JUDGES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        judges = ((torch.arange(_JUDGES) + jitter) * (len(x) / _JUDGES)).long().clamp(max=len(x) - 1)
        rows, centre = x[judges.to(x.device)], x.mean(dim=0)
        errors = torch.stack([_squared_residuals(rows, x, choice, centre) for choice in choices])
        best = int(errors.mean(dim=1).argmin())
        behind = errors[safe] - errors[best]
        if behind.mean() > certainty * behind.std() / math.sqrt(_JUDGES):
            return best
        if not settle or best == safe:
            return safe
        asked = (safe, best)
    return min(asked, key=lambda at: float(quantisation_error(x, choices[at])))


def smooth(curve: torch.Tensor, width: int) -> torch.Tensor:
    """Moving average of `curve` (T,) over `width` (odd) groups; at the ends over those that exist."""
    half = min(width // 2, len(curve) - 1)
    total = torch.nn.functional.pad(curve.cumsum(0), (1, 0))
    steps = torch.arange(len(curve), device=curve.device)
    low, high = (steps - half).clamp(min=0), (steps + half + 1).clamp(max=len(curve))
    return (total[high] - total[low]) / (high - low)


def lasting(curve: torch.Tensor) -> torch.Tensor:
    """What of `curve` (T,) lasts two groups: max(min(v_t-1, v_t), min(v_t, v_t+1)), a morphological opening.

    A glitch of a single group is no event. A moving average would only make it a third as high.
    """
    if len(curve) == 1:
        return curve
    pairs = torch.minimum(curve[1:], curve[:-1])
    return torch.maximum(torch.cat([pairs[:1], pairs]), torch.cat([pairs, pairs[-1:]]))


def robust_scores(curve: torch.Tensor) -> torch.Tensor:
    """(v - median)/(1.4826 MAD) of `curve` (T,): how far each value stands out; zeros for a constant curve."""
    centred = curve - curve.median()
    deviation = _MAD_TO_DEVIATION * centred.abs().median()
    if deviation <= 1e-6 * curve.abs().max().clamp(min=1e-12):
        # More than half of the values are equal: measure the rest by their own size.
        deviation = centred.abs().mean()
    if deviation <= 1e-6 * curve.abs().max().clamp(min=1e-12):
        return torch.zeros_like(curve)
    return centred / deviation


def pick_peaks(curve: torch.Tensor, threshold: float, quota: int, window: float, taken: list[int]) -> list[int]:
    """Greedy temporal non-maximum suppression: the highest values above `threshold`, more than `window` apart.

    `taken` are groups chosen already; peaks keep away from them too. Ties go to the earliest group.
    """
    values = curve.clone()
    steps = torch.arange(len(curve), device=curve.device)
    for index in taken:
        values[(steps - index).abs() <= window] = -torch.inf
    picks = []
    while len(picks) < quota:
        best = int(values.argmax())
        if values[best] <= threshold:
            break
        picks.append(best)
        values[(steps - best).abs() <= window] = -torch.inf
    return picks


def _runs(above: torch.Tensor) -> list[tuple[int, int]]:
    """Contiguous stretches [start, end) of a boolean (T,)."""
    edges = torch.nn.functional.pad(above.int(), (1, 1)).diff()
    starts, ends = (edges == 1).nonzero().flatten().tolist(), (edges == -1).nonzero().flatten().tolist()
    return list(zip(starts, ends, strict=True))


def _calibrated_picks(logits: torch.Tensor, x: torch.Tensor, quota: int, k: int) -> list[int]:
    """One representative, its peak, for each run of evidence, strongest first; only then more for long runs.

    Runs that one group parts are one piece of evidence until every other run has its own. A further representative of
    a run must lie T/(4k) from every other and show a changed picture: further from all those chosen than neighbouring
    groups are from one another.
    """
    above = logits > 0
    if above.float().mean() > _GLOBAL_FRACTION:
        return []
    z = robust_scores(logits)
    above |= (logits > _SHY_LOGIT) & (z > max(_SHY_SCORE, float(-z.min())))
    if not above.any():
        return []
    peaks = [(start + int(logits[start:end].argmax()), start, end) for start, end in _runs(above)]
    peaks.sort(key=lambda run: (-float(logits[run[0]]), run[0]))
    apart, close = [], []
    for peak, start, end in peaks:
        if len(apart) == quota:
            break
        touching = any(start < other_end + 2 and other_start < end + 2 for _, other_start, other_end in apart)
        (close if touching else apart).append((peak, start, end))
    picks = [peak for peak, _, _ in apart + close][:quota]

    steps = torch.arange(len(logits), device=logits.device)
    window = max(len(logits) / (4 * k), 1)
    change = 2 * (x[1:] - x[:-1]).square().sum(1).median()
    free = torch.where(above, logits, -torch.inf)
    waiting = list(picks)
    while len(picks) <= quota:
        for index in waiting:
            free[((steps - index).abs() < window) | ((x - x[index]).square().sum(1) <= change)] = -torch.inf
        if len(picks) == quota or not torch.isfinite(free.max()):
            break
        waiting = [int(free.argmax())]
        picks += waiting
    return picks


def _raw_picks(scores: torch.Tensor, novelty: torch.Tensor, quota: int, k: int) -> list[int]:
    """Peaks of a dual encoder's cosines that stand out of the curve; none when the curve has no such peaks.

    Half of the slow trend is taken off, so that a short event counts inside an unrelated scene and a related scene
    still counts as a whole. The troughs tell what chance alone does: a curve of pure noise falls as far as it rises,
    so a peak must be higher than the deepest trough is deep, or be novel as well (`novelty`: robust scores (T,)).
    """
    z = robust_scores(scores - 0.5 * smooth(scores, 2 * (len(scores) // 16) + 1))
    window = len(scores) / (4 * k)
    threshold = min(max(2.0, float(-z.min())), _CERTAIN_SCORE)
    picks = pick_peaks(z, threshold, quota, window, [])
    left = min(quota - len(picks), max(1, quota // 2))
    witnessed = torch.where(novelty > _WITNESS_NOVELTY, z, -torch.inf)
    return picks + pick_peaks(witnessed, _WITNESS_SCORE, left, window, picks)


def _quota(share: float, k: int) -> int:
    """Whole places of a share of k; a share above zero has at least one, so that k = 1 goes to the evidence."""
    return min(k, max(1, int(share * k))) if share > 0 else 0


def _spread_out(count: int, k: int, taken: torch.Tensor) -> torch.Tensor:
    """k - len(taken) free groups at equal steps of what the taken ones leave, int64."""
    free = torch.ones(count, dtype=torch.bool, device=taken.device)
    free[taken] = False
    return free.nonzero().flatten()[uniform_indices(count - len(taken), k - len(taken), taken.device)]


def _nearest_in_time(times: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Which of `indices` (k,) is nearest in time to each group, (T,) int64; ties go to the first in their order."""
    when, order = times[indices].sort(stable=True)
    right = torch.searchsorted(when, times).clamp(max=len(order) - 1)
    left = (right - 1).clamp(min=0)
    to_left, to_right = (times - when[left]).abs(), (times - when[right]).abs()
    left, right = order[left], order[right]
    return torch.where((to_left < to_right) | ((to_left == to_right) & (left < right)), left, right)


def _nearest(z: torch.Tensor, times: torch.Tensor, tau2: float, indices: torch.Tensor) -> torch.Tensor:
    """Which of the representatives stands for each group: the nearest in content and time; (T,) int64."""
    chosen, when = z[indices], times[indices]
    energy = chosen.square().sum(1)
    if len(z) <= DENSE_POINTS or z.device.type != "cpu":
        cells = (energy - 2 * z @ chosen.T + tau2 * (times[:, None] - when).square()).argmin(dim=1)
    else:
        # The nearest in time bounds the cost, and so how far off in time the best can be.
        cells = _nearest_in_time(times, indices)
        bound = (z - chosen[cells]).square().sum(1) + tau2 * (times - when[cells]).square()
        for run, near in bands(times, 1.001 * (bound / tau2).sqrt() + 1e-3, when):
            lag = times[run, None] - when[near]
            cost = torch.addmm(energy[near], z[run], chosen[near].T, alpha=-2).addcmul_(lag, lag, value=tau2)
            cells[run] = near[cost.argmin(dim=1)]
    cells[indices] = torch.arange(len(indices), device=z.device)
    return cells


def select_representatives(
    descriptors: torch.Tensor,
    k: int,
    *,
    relevance: torch.Tensor | None = None,
    calibrated: bool = False,
    gaussian: LowRankGaussian | None = None,
    rank: int = 32,
    relevance_share: float = 0.5,
    novelty_share: float = 0.125,
    time_weight: float = 1.0,
    lbg_iterations: int = 8,
) -> Representatives:
    """The k groups that stand for a video, given how relevant each is to the question.

    Args:
        descriptors (`torch.Tensor` of shape `(T, d)`): one vector per group, in time order.
        k (`int`): how many; min(k, T) are returned.
        relevance (`torch.Tensor` of shape `(T,)`, *optional*): to the question. None: there is no question.
        calibrated (`bool`): relevance are logits of a trained head (0 = as likely as not); else cosines or any other
            score, of which only peaks that stand out of the curve count.
        gaussian (`LowRankGaussian`, *optional*): F | Q, in which `mahalanobis`, `shell` and `spread` are measured;
            default: the video's own moments, which novelty and coverage use in any case.
        rank (`int`): of the factor, when it is fitted here.
        relevance_share, novelty_share (`float`): the most of the k places these strata may take. A calibrated
            relevance may take half as much again; novelty doubles without relevance, and is 0 with it while k <= 8.
        time_weight (`float`): how much distance in time counts in coverage; 0 looks at content alone.
        lbg_iterations (`int`): at most, of the shell LBG.

    Returns:
        `Representatives`: the same on every call with the same input.

    Raises:
        ValueError: k < 1, a share outside [0, 1], wrong shapes, NaN or infinite values.
    """
    check_descriptors(descriptors)
    count = len(descriptors)
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"`k` must be an integer of at least 1 (how many groups to keep), but it is {k!r}.")
    for name, share in (("relevance_share", relevance_share), ("novelty_share", novelty_share)):
        if not 0 <= share <= 1:
            raise ValueError(f"`{name}` must lie between 0 and 1, but it is {share}.")
    if relevance is not None:
        if relevance.shape != (count,):
            raise ValueError(
                f"`relevance` must have one value per group, shape ({count},), but the shape is "
                f"{tuple(relevance.shape)}."
            )
        if not torch.isfinite(relevance).all():
            raise ValueError("`relevance` holds NaN or infinite values; pass finite scores, or None for no question.")

    with torch.no_grad(), torch.autocast(device_type=descriptors.device.type, enabled=False):
        k = min(k, count)
        x = descriptors.float()
        # Novelty and coverage are about the whole video: its own moments, not those of what is relevant.
        own = fit_gaussian(x, rank=rank)
        # Coverage looks at the directions the Gaussian knows (the rest is noise by its model), each in proportion to
        # its own deviation: fully whitened, the weak directions drown the scenes (measured: 6 % more error).
        directions, gain = own.principal_directions()
        distance, known = _distances_and_coordinates(own, x, directions)
        z = known * (1 + gain).sqrt()
        novelty = robust_scores(lasting(distance))

        taken, novel = [], []
        if k < count and relevance is not None:
            scores = relevance.to(x)
            if calibrated:
                taken = _calibrated_picks(scores, x, _quota(_CALIBRATED_BONUS * relevance_share, k), k)
            else:
                taken = _raw_picks(scores, novelty, _quota(relevance_share, k), k)
        if k < count and (relevance is None or k > 8):
            places = int(novelty_share * k * (2 if relevance is None else 1))
            novel = pick_peaks(novelty, _NOVEL_SCORE, min(places, k - len(taken)), count / (4 * k), taken)

        times = torch.arange(count, device=x.device, dtype=torch.float32) * (k / count)
        indices, cells_of_shell, tau2 = _coverage(
            x, z, times, k, taken, novel, time_weight, lbg_iterations, relevance is not None
        )

        strata = torch.full((count,), _COVERAGE, device=x.device)
        strata[torch.tensor(novel, dtype=torch.long, device=x.device)] = _NOVELTY
        strata[torch.tensor(taken, dtype=torch.long, device=x.device)] = _RELEVANCE
        cells = _nearest(z, times, tau2, indices)
        mahalanobis = distance
        if gaussian is not None:
            mahalanobis, known = _distances_and_coordinates(gaussian, x, gaussian.principal_directions()[0])
        chosen = mahalanobis[indices]
        return Representatives(
            indices=indices,
            strata=strata[indices],
            weights=torch.bincount(cells, minlength=k).float() / count,
            cells=cells,
            relevance=relevance,
            mahalanobis=mahalanobis,
            shell=_shell(known, cells_of_shell, k),
            spread=float(chosen.var(unbiased=False) / chosen.mean().square().clamp(min=1e-30)),
        )


def _distances_and_coordinates(
    gaussian: LowRankGaussian, x: torch.Tensor, directions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared Mahalanobis distances (T,) and whitened coordinates along `directions` (d, r), (T, r)."""
    parts = []
    for rows in x.split(CHUNK):
        whitened = gaussian.whiten(rows)
        parts.append((whitened.square().sum(1), whitened @ directions))
    distances, coordinates = zip(*parts, strict=True)
    return torch.cat(distances), torch.cat(coordinates)


def _shell(whitened: torch.Tensor, cells: torch.Tensor, k: int) -> float:
    """c* = (mean of |S_i|)², the closed form for given cells in whitened coordinates (T, r)."""
    sums = torch.zeros(k, whitened.shape[1], device=whitened.device).index_add_(0, cells, whitened)
    return float((sums.norm(dim=1).sum() / len(whitened)).square())


def _worst_stretch(z: torch.Tensor, indices: torch.Tensor, width: int) -> float:
    """The largest running median, over `width` (odd) groups, of the squared distance to the nearest chosen group.

    A median: a scene without a representative counts, an event shorter than half the stretch does not.
    """
    left = _squared_residuals(z, z, indices, z.mean(dim=0))
    edges = torch.nn.functional.pad(left[None, None], (width // 2, width // 2), mode="replicate")[0, 0]
    return float(edges.unfold(0, width, 1).median(dim=1).values.max())


def _sees_what_equal_steps_miss(z: torch.Tensor, found: torch.Tensor, equal: torch.Tensor, k: int) -> bool:
    """Whether `found` leaves a worst stretch of the video decisively better than the one `equal` leaves."""
    width = min(max(int(_STRETCH * len(z) / k) | 1, 3), (len(z) - 1) | 1)
    return _worst_stretch(z, found, width) < _DECISIVE * _worst_stretch(z, equal, width)


def _coverage(
    x: torch.Tensor,
    z: torch.Tensor,
    times: torch.Tensor,
    k: int,
    taken: list[int],
    novel: list[int],
    time_weight: float,
    iterations: int,
    asked: bool,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """All k indices in order, the codebook's cells (T,) and tau².

    Time-aware shell LBG covers what the other strata left. It is taken where its quantisation error of the descriptors
    is below that of equal steps and, without evidence to hold, of plain uniform sampling: it never loses to either. In
    a long video that is certain without a question, and most likely with one (`asked`): see `_least_error`. A question
    for which nothing was taken is about the whole: there it must also leave a decisively better worst stretch.
    """
    count = len(x)
    held = torch.tensor(taken + novel, dtype=torch.long, device=x.device)
    # A start in equal steps, away from what is held; its c* is the unit in which time is weighed. The floor lets time
    # decide between equal pictures.
    spread = torch.cat([held, _spread_out(count, k, held)]) if len(held) < k else held
    start = _nearest_in_time(times, spread)
    start[spread] = torch.arange(k, device=x.device)
    first = shell_lbg(z, k, start=start, iterations=0, held=held)
    tau2 = max(time_weight * float(first.radius.square()), 1e-6 * float(z.square().sum(1).mean()), 1e-12)
    codebook = shell_lbg(
        z,
        k,
        times=times,
        time_weight=tau2,
        start=start,
        iterations=iterations,
        held=held,
        relocations=_RELOCATIONS,
    )
    found = snap_to_points(codebook.cells, codebook.costs, k)
    found[: len(held)] = held
    if asked and not taken and not _sees_what_equal_steps_miss(z, found, spread, k):
        return spread.sort().values, codebook.cells, tau2
    # Evidence is worth its error, novelty is not.
    bound_to_uniform = bool(novel) and not taken
    safe = [spread, uniform_indices(count, k, x.device)] if bound_to_uniform else [spread]
    choices = [*safe, found]
    # Without a question nothing may be worse than uniform sampling: that must be certain.
    certainty = 0.0 if asked else _CERTAINTY
    found = choices[_least_error(x, choices, len(safe) - 1, certainty, bound_to_uniform)]
    return found.sort().values, codebook.cells, tau2
