"""Which groups are evidence: what a relevance curve is worth, and which groups stand out by it and by their picture.

Shapes: T groups in time order, d descriptor channels, k representatives, durations (T,) as in `durations_ntlbg`.

Logits of a trained head say how likely each group is evidence, and are taken at their word (`calibrated_picks`). The
cosines of a dual encoder are not: their level means nothing and a weak cue rises no higher than noise does. There
relevance and picture are weighed together (`outstanding`): noise rarely falls on the few pictures that nothing chosen
stands for, an event's cue does. A determinantal point process makes the same trade (log-quality plus log-determinant,
Kulesza and Taskar 2012); the distance to the nearest chosen group takes the determinant's place, so that a glitch can
be told from an event.
"""

import torch

from .curves_ntlbg import lasting, robust_scores, runs, smooth
from .durations_ntlbg import mean, middles


# A calibrated curve above zero nearly everywhere is about the whole video: coverage answers that, not peaks.
_GLOBAL_FRACTION = 0.6
# A shy head may peak below zero. A group counts as evidence from about 12 % on where it also stands out of the curve.
_SHY_LOGIT, _SHY_SCORE = -2.0, 3.0
# What a robust deviation of relevance is worth in nats of distance, and up to how many deviations.
_NATS, _MOST_SCORE = 0.15, 8.0
# A group this much like a chosen one (share of the mean energy) is as good as chosen.
_FLOOR = 0.01
# A raw score lower than this says nothing: a curve without a higher one, or with troughs so much deeper, has no
# evidence, and a single group without one is a glitch.
_LEAST_SCORE, _LEAST_RISE = 1.5, 0.6
# Picks are made in this many rounds, at least one a round, among at least this many candidates.
_ROUNDS, _CANDIDATES = 8, 512


def calibrated_picks(logits: torch.Tensor, x: torch.Tensor, quota: int, k: int, durations: torch.Tensor) -> list[int]:
    """One representative, its peak, for each run of evidence, strongest first; only then more for long runs.

    Runs that one group parts are one piece of evidence until every other run has its own. A further representative of
    a run must lie 1/(4k) of the time from every other and show a changed picture: further from all those chosen than
    neighbouring groups are from one another.

    Args:
        logits (`torch.Tensor` of shape `(T,)`): of a trained head; 0 is as likely as not.
        x (`torch.Tensor` of shape `(T, d)`): descriptors.
        quota (`int`): how many at most.
        k (`int`): places there are in all.
        durations (`torch.Tensor` of shape `(T,)`): how long each group stands for.
    """
    above = logits > 0
    if mean(above.float(), durations) > _GLOBAL_FRACTION:
        return []
    z = robust_scores(logits, durations)
    above |= (logits > _SHY_LOGIT) & (z > max(_SHY_SCORE, float(-z.min())))
    if not above.any():
        return []
    peaks = [(start + int(logits[start:end].argmax()), start, end) for start, end in runs(above)]
    peaks.sort(key=lambda run: (-float(logits[run[0]]), run[0]))
    apart, close = [], []
    for peak, start, end in peaks:
        if len(apart) == quota:
            break
        touching = any(start < other_end + 2 and other_start < end + 2 for _, other_start, other_end in apart)
        (close if touching else apart).append((peak, start, end))
    picks = [peak for peak, _, _ in apart + close][:quota]

    times = middles(durations)
    window = float(durations.sum()) / (4 * k)
    change = 2 * (x[1:] - x[:-1]).square().sum(1).median()
    free = torch.where(above, logits, -torch.inf)
    waiting = list(picks)
    while len(picks) <= quota:
        for index in waiting:
            free[((times - times[index]).abs() < window) | ((x - x[index]).square().sum(1) <= change)] = -torch.inf
        if len(picks) == quota or not torch.isfinite(free.max()):
            break
        waiting = [int(free.argmax())]
        picks += waiting
    return picks


def raw_scores(relevance: torch.Tensor, durations: torch.Tensor) -> torch.Tensor | None:
    """How far each group's raw relevance stands out, in robust deviations (T,); None when it says nothing.

    Half of the slow trend (over an eighth of the time) is taken off, so that a short event counts inside an unrelated
    scene and a related scene still counts as a whole. A curve that falls further than it rises, or hardly rises, tells
    of nothing relevant: the question is about the whole video, or about nothing in it. What rises as far as it falls
    may be a weak cue or noise, which no statistic of the curve tells apart; `outstanding` bears either.
    """
    trend = smooth(relevance, float(durations.sum()) / 16, durations)
    z = robust_scores(relevance - 0.5 * trend, durations)
    if z.max() < max(_LEAST_SCORE, _LEAST_RISE * float(lasting(-z).max())):
        return None
    return z


def outstanding(
    x: torch.Tensor,
    energies: torch.Tensor,
    residual: torch.Tensor,
    places: int,
    taken: torch.Tensor,
    durations: torch.Tensor,
    scores: torch.Tensor | None = None,
) -> torch.Tensor:
    """Greedy: again and again the group with the highest `_NATS` z_t + log(r_t / E|x - mu|² + `_FLOOR`).

    r_t is the squared distance to the nearest chosen group, or what of it lasts two groups where relevance does not
    speak for the group: a glitch of one group is far from everything and worth nothing. Without scores this is
    farthest-point traversal (Gonzalez 1985) without glitches.

    Many places are filled several a round, apart from one another in time. Of a long video the group that promises
    most at the start is the candidate of each of `_CANDIDATES` (or 4 times the places) equal stretches.

    Args:
        x (`torch.Tensor` of shape `(T, d)`): descriptors.
        energies (`torch.Tensor` of shape `(T,)`): squared distances to their mean; the unit of distance.
        residual (`torch.Tensor` of shape `(T,)`): squared distance to what is chosen already (or to the mean).
        places (`int`): how many to choose, at most T - len(taken).
        taken (`torch.LongTensor` of shape `(h,)`): not to be chosen again.
        durations (`torch.Tensor` of shape `(T,)`): how long each group stands for.
        scores (`torch.Tensor` of shape `(T,)`, *optional*): robust deviations of relevance.

    Returns:
        int64 `(places,)`, in the order of choice; ties go to the earliest group.
    """
    count = len(x)
    energy = mean(energies, durations).clamp(min=1e-30)
    bonus = torch.zeros_like(residual) if scores is None else _NATS * scores.clamp(max=_MOST_SCORE)

    def promise(left: torch.Tensor, extra: torch.Tensor) -> torch.Tensor:
        far = torch.where(extra > _NATS * _LEAST_SCORE, left, lasting(left))
        return extra + (far / energy + _FLOOR).log()

    free = torch.ones(count, dtype=torch.bool, device=x.device)
    free[taken] = False
    steps = torch.arange(count, device=x.device)
    width = -(-count // max(_CANDIDATES, 4 * places))
    if width > 1:
        values = torch.where(free, promise(residual, bonus), -torch.inf)
        stretches = torch.nn.functional.pad(values, (0, -count % width), value=-torch.inf).view(-1, width)
        best = stretches.argmax(dim=1) + width * torch.arange(len(stretches), device=x.device)
        chance = torch.zeros_like(free)
        chance[best] = True
        # Whether something lasts is seen by a group's neighbours in time: they come along, but are not candidates.
        around = chance.clone()
        around[1:] |= chance[:-1]
        around[:-1] |= chance[1:]
        steps = around.nonzero().flatten()
        free = (free & chance)[steps]
        residual, bonus = residual[steps], bonus[steps]
    x = x[steps]
    x -= x.mean(dim=0)
    times, window = middles(durations)[steps], float(durations.sum()) / (4 * places)
    norms = torch.linalg.vecdot(x, x)
    left = residual.clone()
    batch = -(-places // _ROUNDS)
    chosen: list[int] = []
    while len(chosen) < places:
        values = torch.where(free, promise(left, bonus), -torch.inf)
        fresh: list[int] = []
        while len(fresh) < min(batch, places - len(chosen)):
            best = int(values.argmax())
            if not torch.isfinite(values[best]):
                break
            fresh.append(best)
            values[(times - times[best]).abs() <= window] = -torch.inf
        at = torch.tensor(fresh, device=x.device)
        free[at] = False
        chosen += steps[at].tolist()
        distance = norms[at] - 2 * x @ x[at].T
        left = torch.minimum(left, (norms + distance.amin(dim=1)).clamp(min=0.0))
        left[at] = 0.0
    return torch.tensor(chosen, dtype=torch.long, device=residual.device)
