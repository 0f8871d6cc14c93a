"""Which groups stand for a video, for a question: relevance, novelty and coverage share the k places.

Shapes: T groups in time order, d descriptor channels, k representatives, r rank of the Gaussian's factor, durations
(T,) as in `durations_ntlbg`: every mean over the video is one over its time.

One rule alone fails somewhere: pure relevance sees nothing of the rest of the video, pure coverage (the shell too)
misses events of a few groups, and a median shell finds neither. So evidence comes first, shell LBG covers the rest
around it, and the last places go to what the coverage still leaves worst represented. Hard indices carry no gradient;
everything here runs without one.
"""

import math
from dataclasses import dataclass

import torch

from .curves_ntlbg import lasting, robust_scores
from .durations_ntlbg import check_durations, even_steps, mean, middles, shown_at
from .evidence_ntlbg import calibrated_picks, outstanding, raw_scores
from .gaussian_ntlbg import CHUNK, LowRankGaussian, check_descriptors, fit_gaussian
from .shell_lbg_ntlbg import DENSE_POINTS, bands, shell_lbg, snap_to_points


STRATA = ("relevance", "novelty", "coverage")
_RELEVANCE, _NOVELTY, _COVERAGE = range(3)
# Calibrated peaks can be trusted with more of the k places than those of raw scores.
_CALIBRATED_BONUS = 1.5
# More than this for one stratum of single groups is more than stands out: coverage takes the rest.
_MOST_PLACES = 128
# A group's relevance, or its distance to the Gaussian, is why it was chosen from this many robust deviations on.
_RELEVANT_SCORE = _NOVEL_SCORE = 2.0
# Steps of the shell LBG: what more of them gain is below a hundredth of the error where T k is large.
_RELOCATIONS = 8
_MANY, _FEW_ITERATIONS, _FEW_RELOCATIONS = 2**20, 3, 1
# Groups on which the error of a long video is judged (where it must be certain, and where likely will do), by how many
# standard errors it must be decided, and how many products (T k d) are spent on settling what that leaves open.
_JUDGES, _FEW_JUDGES, _CERTAINTY, _AFFORDABLE = 1024, 256, 3.0, 2**30
# A question about the whole video is mostly about time (how long, how many, which most), and equal steps are fair to
# time. Shell LBG replaces them where the worst stretch it leaves is below this share of the worst they leave.
_DECISIVE = 0.6
_STRETCH = 0.75  # of a step, k steps to the video
# Up to this many distances, T k, content alone decides coverage without a question; beyond, time bounds the search.
_CONTENT_ONLY = 2**21


@dataclass
class Representatives:
    """The chosen groups of one video.

    Attributes:
        indices (`torch.LongTensor` of shape `(k,)`): distinct, in time order.
        strata (`torch.LongTensor` of shape `(k,)`): why each was taken, an index into `STRATA`.
        weights (`torch.FloatTensor` of shape `(k,)`): the share of the video's time each stands for; they sum to 1.
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


def quantisation_error(x: torch.Tensor, indices: torch.Tensor, durations: torch.Tensor) -> torch.Tensor:
    """The mean over time of min_i |x_t - x_i|², the information loss before division by the variance; `x` (T, d)
    float32, scalar."""
    return mean(_squared_residuals(x, x, indices, x.mean(dim=0)), durations)


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


def _least_error(
    x: torch.Tensor, safe: torch.Tensor, found: torch.Tensor, durations: torch.Tensor, certainty: float
) -> torch.Tensor:
    """`found` (k,) if its quantisation error is below that of `safe` (k,), else `safe`.

    All T k distances of a long video cost more than the whole selection. So it is judged by the group shown at one
    random moment of each of n equal stretches, and `found` is believed where `safe` lies `certainty` standard errors
    of their paired difference behind. Where it does not, all groups are asked if that is affordable; if not, `safe` it
    is.
    """
    count, dim = x.shape
    if count > 4 * _JUDGES:
        size = _JUDGES if certainty > 0 else _FEW_JUDGES
        jitter = torch.rand(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        moments = (torch.arange(size) + jitter) * (float(durations.sum()) / size)
        rows, centre = x[shown_at(durations, moments)], x.mean(dim=0)
        behind = _squared_residuals(rows, x, safe, centre) - _squared_residuals(rows, x, found, centre)
        if behind.mean() > certainty * behind.std() / math.sqrt(size):
            return found
        if certainty == 0 or count * len(found) * dim > _AFFORDABLE:
            return safe
    return found if quantisation_error(x, found, durations) < quantisation_error(x, safe, durations) else safe


def _quota(share: float, k: int) -> int:
    """Places of a share of k, rounded up, so that k = 1 goes to the evidence."""
    return min(k, math.ceil(share * k))


def _spread_out(durations: torch.Tensor, k: int, taken: torch.Tensor) -> torch.Tensor:
    """k - len(taken) free groups at equal steps of the time the taken ones leave, int64."""
    free = torch.ones_like(durations, dtype=torch.bool)
    free[taken] = False
    return free.nonzero().flatten()[even_steps(durations[free], k - len(taken))]


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
    durations: torch.Tensor | None = None,
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

    A group's stratum says why it is among them: its relevance stands out of the curve, its picture stands out of the
    video, or it covers what is near it.

    Args:
        descriptors (`torch.Tensor` of shape `(T, d)`): one vector per group, in time order.
        k (`int`): how many; min(k, T) are returned.
        durations (`torch.Tensor` of shape `(T,)`, *optional*): how long each group stands for, in any unit. None:
            equally long, as groups at equal steps of time do.
        relevance (`torch.Tensor` of shape `(T,)`, *optional*): to the question. None: there is no question.
        calibrated (`bool`): relevance are logits of a trained head (0 = as likely as not); else cosines or any other
            score, of which only the order and the distances count.
        gaussian (`LowRankGaussian`, *optional*): F | Q, in which `mahalanobis`, `shell` and `spread` are measured;
            default: the video's own moments, which novelty and coverage use in any case.
        rank (`int`): of the factor, when it is fitted here.
        relevance_share (`float`): the most of the k places that go to evidence before the rest is covered. A
            calibrated relevance may take half as much again; raw scores take it all, up to 128 places, and nothing
            when they say nothing (see `raw_scores`).
        novelty_share (`float`): of the k places (128 at most) go to what the coverage leaves worst represented; twice
            that without a question. With a question that found no evidence, or calibrated evidence, 0 while k <= 8.
        time_weight (`float`): how much distance in time counts in coverage with a question; 0 looks at content alone,
            as is done without a question (where T k is large, time bounds the search there too).
        lbg_iterations (`int`): at most, of the shell LBG.

    Returns:
        `Representatives`: the same on every call with the same input. Without relevance their quantisation error is
        never above that of equal steps in time: compared on all groups, above 4096 groups on 1024 of them at three
        standard errors, and equal steps it is where that leaves doubt and all groups would cost too much.

    Raises:
        ValueError: k < 1, a share outside [0, 1], wrong shapes, NaN, infinite or negative values.
    """
    check_descriptors(descriptors)
    count = len(descriptors)
    durations = check_durations(durations, count, descriptors.device)
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
        own = fit_gaussian(x, weights=durations, rank=rank)
        # Coverage looks at the directions the Gaussian knows (the rest is noise by its model), each in proportion to
        # its own deviation: fully whitened, the weak directions drown the scenes (measured: 6 % more error).
        directions, gain = own.principal_directions()
        distance, known = own.distances_and_coordinates(x, directions)
        z = known * (1 + gain).sqrt()
        energies = _squared_distances(x, own.mean[None], torch.zeros(count, dtype=torch.long, device=x.device))

        asked = relevance is not None
        taken = torch.zeros(0, dtype=torch.long, device=x.device)
        scores = None
        if asked and k < count and calibrated:
            most = _quota(_CALIBRATED_BONUS * relevance_share, k)
            picks = calibrated_picks(relevance.to(x), x, most, k, durations)
            taken = torch.tensor(picks, dtype=torch.long, device=x.device)
        elif asked and k < count and relevance_share > 0:
            scores = raw_scores(relevance.to(x), durations)
            if scores is not None:
                places = min(_quota(relevance_share, k), _MOST_PLACES)
                taken = outstanding(x, energies, energies, places, taken, durations, scores)
        last = 0
        if k < count and (not asked or scores is not None or k > 8):
            last = min(int(novelty_share * k * (1 if asked else 2)), k - max(len(taken), 1), _MOST_PLACES)

        covered = k - last
        times = middles(durations) * (covered / float(durations.sum()))
        if not asked and count * covered <= _CONTENT_ONLY:
            time_weight = 0.0
        indices, cells_of_shell, tau2 = _coverage(
            x, z, times, covered, taken, durations, time_weight, lbg_iterations, asked
        )
        if last:
            nearest = indices[_nearest(z, times, tau2, indices)]
            residual = _squared_distances(x, x, nearest)
            indices = torch.cat([indices, outstanding(x, energies, residual, last, indices, durations, scores)])
        indices = indices.sort().values
        if not asked:
            # Nothing may be worse than equal steps: that must be certain.
            indices = _least_error(x, even_steps(durations, k), indices, durations, _CERTAINTY)

        strata = torch.full((count,), _COVERAGE, device=x.device)
        if last or scores is not None:
            strata[robust_scores(lasting(distance), durations) > _NOVEL_SCORE] = _NOVELTY
        if scores is not None:
            strata[scores > _RELEVANT_SCORE] = _RELEVANCE
        elif calibrated:
            strata[taken] = _RELEVANCE
        cells = _nearest(z, times, tau2, indices)
        mahalanobis = distance
        if gaussian is not None:
            mahalanobis, known = gaussian.distances_and_coordinates(x, gaussian.principal_directions()[0])
        chosen = mahalanobis[indices]
        return Representatives(
            indices=indices,
            strata=strata[indices],
            weights=torch.zeros(k, device=x.device).index_add_(0, cells, durations) / durations.sum(),
            cells=cells,
            relevance=relevance,
            mahalanobis=mahalanobis,
            shell=_shell(known, cells_of_shell, covered, durations),
            spread=float(chosen.var(unbiased=False) / chosen.mean().square().clamp(min=1e-30)),
        )


def _shell(whitened: torch.Tensor, cells: torch.Tensor, k: int, durations: torch.Tensor) -> float:
    """c* = (Σ|S_i| / Σ w)², the closed form for given cells in whitened coordinates (T, r)."""
    sums = torch.zeros(k, whitened.shape[1], device=whitened.device)
    sums.index_add_(0, cells, durations[:, None] * whitened)
    return float((sums.norm(dim=1).sum() / durations.sum()).square())


def _worst_stretch(z: torch.Tensor, indices: torch.Tensor, width: int, durations: torch.Tensor) -> float:
    """The largest running median of the squared distance to the nearest chosen group, over `width` (odd) of T equal
    steps of time.

    A median: a scene without a representative counts, an event shorter than half the stretch does not.
    """
    moments = (torch.arange(len(z), dtype=torch.float64) + 0.5) * (float(durations.sum()) / len(z))
    left = _squared_residuals(z, z, indices, z.mean(dim=0))[shown_at(durations, moments)]
    edges = torch.nn.functional.pad(left[None, None], (width // 2, width // 2), mode="replicate")[0, 0]
    return float(edges.unfold(0, width, 1).median(dim=1).values.max())


def _sees_what_equal_steps_miss(
    z: torch.Tensor, found: torch.Tensor, equal: torch.Tensor, durations: torch.Tensor
) -> bool:
    """Whether `found` (k,) leaves a worst stretch of the video decisively better than the one `equal` (k,) leaves."""
    width = min(max(int(_STRETCH * len(z) / len(equal)) | 1, 3), (len(z) - 1) | 1)
    return _worst_stretch(z, found, width, durations) < _DECISIVE * _worst_stretch(z, equal, width, durations)


def _coverage(
    x: torch.Tensor,
    z: torch.Tensor,
    times: torch.Tensor,
    k: int,
    taken: torch.Tensor,
    durations: torch.Tensor,
    time_weight: float,
    iterations: int,
    asked: bool,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The k indices in order, those `taken` among them, the codebook's cells (T,) and tau².

    Shell LBG covers what the evidence leaves. With a question it must have less error than equal steps around the
    evidence; a question for which nothing was taken is about the whole: there it must also leave a decisively better
    worst stretch. Without one the point nearest its cell's mean in all channels stands for the cell.
    """
    # A start in equal steps, away from what is taken; its c* is the unit in which time is weighed. The floor lets time
    # decide between equal pictures.
    spread = torch.cat([taken, _spread_out(durations, k, taken)]) if len(taken) < k else taken
    start = _nearest_in_time(times, spread)
    start[spread] = torch.arange(k, device=x.device)
    relocations = _RELOCATIONS
    if len(x) * k > _MANY:
        iterations, relocations = min(iterations, _FEW_ITERATIONS), _FEW_RELOCATIONS
    first = shell_lbg(z, k, durations, start=start, iterations=0, held=taken)
    tau2 = max(time_weight * float(first.radius.square()), 1e-6 * float(mean(z.square().sum(1), durations)), 1e-12)
    codebook = shell_lbg(
        z,
        k,
        durations,
        times=times,
        time_weight=tau2,
        start=start,
        iterations=iterations,
        held=taken,
        relocations=relocations,
    )
    costs = codebook.costs if asked else _distances_to_means(x, codebook.cells, k, durations)
    found = snap_to_points(codebook.cells, costs, k)
    found[: len(taken)] = taken
    if asked and not len(taken) and not _sees_what_equal_steps_miss(z, found, spread, durations):
        found = spread
    elif asked:
        found = _least_error(x, spread, found, durations, certainty=0.0)
    return found.sort().values, codebook.cells, tau2


def _distances_to_means(x: torch.Tensor, cells: torch.Tensor, k: int, durations: torch.Tensor) -> torch.Tensor:
    """Squared distance of each row of `x` (T, d) to the mean over time of its cell, (T,)."""
    # About the first row, so that a large common offset costs no digits.
    sums, gaps = torch.zeros(k, x.shape[1], device=x.device), torch.empty_like(x[:CHUNK])
    for rows, near, lasts in zip(x.split(CHUNK), cells.split(CHUNK), durations.split(CHUNK), strict=True):
        sums.index_add_(0, near, torch.sub(rows, x[0], out=gaps[: len(rows)]).mul_(lasts[:, None]))
    time = torch.zeros(k, device=x.device).index_add_(0, cells, durations)
    return _squared_distances(x, x[0] + sums / time[:, None], cells)


def _squared_distances(x: torch.Tensor, others: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """|x_t - others_which(t)|² for `x` (T, d), `others` (n, d), `which` (T,): (T,)."""
    gaps, distances = torch.empty_like(x[:CHUNK]), torch.empty(len(x), device=x.device)
    for rows, near, distance in zip(x.split(CHUNK), which.split(CHUNK), distances.split(CHUNK), strict=True):
        gap = torch.index_select(others, 0, near, out=gaps[: len(rows)]).sub_(rows)
        torch.linalg.vecdot(gap, gap, out=distance)
    return distances
