"""The span head: from representatives and their cells to (start, end, confidence), finer than the selection's spacing.

Each representative proposes one moment. Where it lies is first told by its cell, what the representative stands for
(coarse), and then by the descriptors of all T groups around it, of which the language model sees k (fine); how far
inside a group a border lies is told by that group itself.

Shapes: T groups, n visual tokens per group, D their width, m query slots, s `selector_size`, k representatives, G
annotated moments, P found ones. Places are counted in groups: place 3.5 is the middle of group 3.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .durations_ntlbg import until_next
from .rich_points_ntlbg import soft_cell_pool
from .selector_ntlbg import FullPrecisionModule


# Dilations of the convolutions over time: a group hears of those up to 2 (1 + 2 + 4 + 8) = 30 groups away.
_DILATIONS = (1, 2, 4, 8)
# Groups left and right of the likeliest border that decide where exactly it lies.
_NEAR = 1
# Of two moments that overlap more, the less sure one is the same moment, found twice.
SAME_MOMENT = 0.5


@dataclass
class Proposals:
    r"""
    What the head says of one video; logits and places have their gradient.

    Args:
        confidence (`torch.FloatTensor` of shape `(k,)`): logits that the representative's cell holds a moment.
        start, end (`torch.FloatTensor` of shape `(k, T)`): logits that the moment starts, or ends, in a group.
        inside (`torch.FloatTensor` of shape `(T, 2)`): where in a group a start, and an end, lies, in [0, 1].
        saliency (`torch.FloatTensor` of shape `(T,)`): logits that a group shows what was asked for.
    """

    confidence: torch.Tensor
    start: torch.Tensor
    end: torch.Tensor
    inside: torch.Tensor
    saliency: torch.Tensor

    def places(self) -> torch.Tensor:
        """Start and end of each proposal in groups, (k, 2): the likeliest pair with start <= end, and around each of
        the two the mean of the places nearby, weighed by their probabilities."""
        # best[i, t]: the group up to t in which proposal i starts likeliest.
        highest = self.start.detach().cummax(dim=1)
        ends = (highest.values + self.end.detach()).argmax(dim=1, keepdim=True)
        starts = highest.indices.gather(1, ends)
        first, last = self._around(self.start, starts, 0), self._around(self.end, ends, 1)
        # Within one group the two may come out in the other order.
        return torch.stack([torch.minimum(first, last), torch.maximum(first, last)], dim=1)

    def _around(self, logits: torch.Tensor, peak: torch.Tensor, border: int) -> torch.Tensor:
        groups = peak + torch.arange(-_NEAR, _NEAR + 1, device=peak.device)
        outside = (groups < 0) | (groups >= logits.shape[1])
        groups = groups.clamp(0, logits.shape[1] - 1)
        weights = logits.gather(1, groups).masked_fill(outside, -torch.inf).softmax(dim=1)
        return (weights * (groups + self.inside[:, border][groups])).sum(dim=1)


class SpanHead(FullPrecisionModule):
    r"""
    Proposes a moment per representative, from the visual tokens of all T groups and the query's slots.

    A group's feature is what each slot finds in it by attention, matched with the slot channel by channel, so that a
    small object is not averaged away; convolutions over time then tell each group about its surroundings.
    """

    def __init__(self, config, token_size: int):
        super().__init__()
        size, slots = config.selector_size, config.query_slots
        self.token_norm = nn.LayerNorm(token_size)
        self.key = nn.Linear(token_size, size)
        self.value = nn.Linear(token_size, size)
        self.slot_key = nn.Linear(size, size)
        self.slot_value = nn.Linear(size, size)
        self.match = nn.Linear(slots * (size + 1), size)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in _DILATIONS)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(size, size, 5, dilation=step, padding=2 * step) for step in _DILATIONS
        )
        self.norm = nn.LayerNorm(size)
        self.saliency = nn.Linear(size, 1)
        self.inside = nn.Linear(size, 2)
        self.borders = nn.Linear(size, 2 * size + 2)
        self.proposal = nn.Linear(2 * size + 1, size)
        self.confidence = nn.Linear(size, 1)
        self.wanted = nn.Linear(size, 2 * size)
        self.pull = nn.Parameter(torch.zeros(2))

    def forward(self, tokens, slots, indices, cells, weights) -> Proposals:
        r"""
        Args:
            tokens (`torch.Tensor` of shape `(T, n, D)`): of all groups.
            slots (`torch.FloatTensor` of shape `(m, s)`): of `NTLBGSelector.encode_query`.
            indices (`torch.LongTensor` of shape `(k,)`): the representatives.
            cells (`torch.LongTensor` of shape `(T,)`): position 0..k-1 of each group's representative.
            weights (`torch.FloatTensor` of shape `(k,)`): share of the video each representative stands for.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            device = self.pull.device
            indices, cells = indices.to(device), cells.to(device)
            features = self._features(tokens, slots.to(self.pull))
            saliency = self.saliency(features)[:, 0]
            # Coarse: what of each cell shows what was asked for, and about where that is.
            pooled = soft_cell_pool(features, cells, -saliency, len(indices))
            middles = torch.arange(len(features), device=device).to(features) + 0.5
            about = soft_cell_pool(middles[:, None], cells, -saliency, len(indices))
            # As a logarithm and relative to 1/k, so that a representative of average weight gives zero.
            weight = (weights.to(device, torch.float32).clamp_min(1e-6) * len(indices)).log()
            proposals = torch.cat([pooled, features[indices], weight[:, None].to(features)], dim=1)
            proposals = F.gelu(self.proposal(proposals))
            # Fine: every group as a border of what each proposal wants, those far from about there less likely.
            size = features.shape[1]
            start, end, bias = self.borders(features).split((size, size, 2), dim=1)
            wanted_start, wanted_end = self.wanted(proposals).split(size, dim=1)
            distance = (middles - about).abs()
            logits = [
                wanted @ border.T / math.sqrt(size) + bias[:, side] - F.softplus(self.pull[side] - 2) * distance
                for side, (wanted, border) in enumerate(((wanted_start, start), (wanted_end, end)))
            ]
            return Proposals(
                *(
                    part.to(tokens.device, torch.float32)
                    for part in (
                        self.confidence(proposals)[:, 0],
                        *logits,
                        self.inside(features).sigmoid(),
                        saliency,
                    )
                )
            )

    def _features(self, tokens: torch.Tensor, slots: torch.Tensor, chunk: int = 64) -> torch.Tensor:
        """Features (T, s) of the groups, `chunk` of them at once, which bounds the memory of keys and values."""
        keys_of_slots, values_of_slots = self.slot_key(slots), self.slot_value(slots)
        parts = []
        for part in tokens.split(chunk):
            normed = self.token_norm(part.to(slots))
            match = torch.einsum("tns,ms->tmn", self.key(normed), keys_of_slots) / math.sqrt(slots.shape[1])
            found = torch.einsum("tmn,tns->tms", match.softmax(dim=-1), self.value(normed))
            found = torch.cat([found * values_of_slots, match.amax(dim=-1, keepdim=True)], dim=-1)
            parts.append(F.gelu(self.match(found.flatten(1))))
        features = torch.cat(parts)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            features = features + F.gelu(convolution(norm(features).T).T)
        return self.norm(features)

    def init_own_parameters(self):
        """How fast borders grow unlikely with the distance, at birth: by .13 nat a group."""
        init.zeros_(self.pull)


def moments_of(evidence: torch.Tensor) -> torch.Tensor:
    """
    Start and end of each annotated moment in groups, (G, 2), of the share of each group's time that lies in a span,
    (T,) in [0, 1]: runs of evidence, the first group's part at its end, the last one's at its start.

    What shares alone do not tell: a moment inside one group is put in its middle, and moments without a group between
    them are one.
    """
    some = F.pad((evidence > 1e-3).int(), (1, 1)).diff()
    starts, stops = (some == 1).nonzero().flatten(), (some == -1).nonzero().flatten()
    first, last = evidence[starts], evidence[stops - 1]
    alone = stops - starts == 1
    begin = starts + torch.where(alone, (1 - first) / 2, 1 - first)
    end = stops - 1 + torch.where(alone, (1 + first) / 2, last)
    return torch.stack([begin, end], dim=1)


def span_loss(proposals: Proposals, evidence: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    r"""
    A quarter of: cross-entropy of start and end / (2 log T), 1 - IoU, binary cross-entropy of the confidence / log 2,
    Bernoulli KL of the saliency / log 2. So it is about 1 for a head that tells nothing apart.

    A representative is to propose the moment that its cell holds most of; the first two count only where it holds half
    a group of one, or more of it than any other cell does. Its confidence is to be the IoU that its proposal reaches,
    and 0 where its cell holds none: `spans: []` makes all of them low.

    Args:
        evidence (`torch.FloatTensor` of shape `(T,)`): share of each group's time that lies in a span, in [0, 1].
        cells (`torch.LongTensor` of shape `(T,)`): position 0..k-1 of each group's representative.
    """
    with torch.autocast(evidence.device.type, enabled=False):
        evidence = evidence.to(proposals.saliency)
        both = torch.stack([evidence, 1 - evidence])
        entropy = -torch.special.xlogy(both, both).sum(dim=0)
        saliency = F.binary_cross_entropy_with_logits(proposals.saliency, evidence, reduction="none") - entropy
        target = torch.zeros_like(proposals.confidence)
        terms = [saliency.mean() / math.log(2)]
        moments = moments_of(evidence)
        if len(moments):
            held = _held(moments, cells, len(target))
            best, which = held.max(dim=1)
            most = (held == held.amax(dim=0)) & (held > 0)
            positive = (best >= 0.5) | most.gather(1, which[:, None])[:, 0]
            wanted = moments[which]
            places = proposals.places()
            iou = interval_iou(places, wanted)
            target = torch.where(positive, iou.detach(), target)
            # An end on a group's very border belongs to the group before it.
            groups = torch.stack([wanted[:, 0].floor(), (wanted[:, 1].ceil() - 1)], dim=1).long()
            borders = [
                F.cross_entropy(logits[positive], groups[positive, side])
                for side, logits in enumerate((proposals.start, proposals.end))
            ]
            terms.append(sum(borders) / (2 * math.log(max(len(evidence), 2))))
            terms.append((1 - iou[positive]).mean())
        terms.append(F.binary_cross_entropy_with_logits(proposals.confidence, target) / math.log(2))
        return sum(terms) / 4


def _held(moments: torch.Tensor, cells: torch.Tensor, k: int) -> torch.Tensor:
    """How many groups of each moment each cell holds: (k, G)."""
    left = torch.arange(len(cells), device=moments.device).to(moments)[:, None]
    shared = (torch.minimum(left + 1, moments[:, 1]) - torch.maximum(left, moments[:, 0])).clamp(min=0)
    return shared.new_zeros(k, len(moments)).index_add(0, cells.to(moments.device), shared)


def interval_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Intersection over union of intervals (..., 2), pair by pair; the union is that of the two, not their hull."""
    both = torch.minimum(first[..., 1], second[..., 1]) - torch.maximum(first[..., 0], second[..., 0])
    both = both.clamp(min=0)
    either = (first[..., 1] - first[..., 0]) + (second[..., 1] - second[..., 0]) - both
    return both / either.clamp_min(1e-6)


def found_moments(proposals: Proposals, group_timestamps: torch.Tensor) -> dict[str, torch.Tensor]:
    r"""
    What a [`Selection`] says about moments: `moment_spans` (P, 2) in seconds and `moment_confidences` (P,), the surest
    first, and `saliency` (T,) in [0, 1].

    Each found moment counts once (`SAME_MOMENT`). A group lasts until the next one's time, the last one as long as the
    one before it.

    Args:
        group_timestamps (`torch.FloatTensor` of shape `(T,)`): seconds.
    """
    places, confidences = proposals.places().detach(), proposals.confidence.detach().sigmoid()
    kept: list[int] = []
    for number in confidences.argsort(descending=True, stable=True).tolist():
        same = interval_iou(places[kept], places[number]) > SAME_MOMENT
        if not same.any():
            kept.append(number)
    lasts = until_next(group_timestamps)
    lasts = torch.ones(1, dtype=torch.float64) if lasts is None else lasts
    borders = torch.cat([group_timestamps.cpu().double(), group_timestamps[-1:].cpu().double() + lasts[-1]])
    chosen = places[kept].cpu().double()
    group = chosen.floor().long().clamp(max=len(lasts) - 1)
    seconds = borders[group] + (chosen - group) * borders.diff()[group]
    return {
        "moment_spans": seconds.to(places),
        "moment_confidences": confidences[kept],
        "saliency": proposals.saliency.detach().sigmoid(),
    }


__all__ = ["SAME_MOMENT", "Proposals", "SpanHead", "found_moments", "interval_iou", "moments_of", "span_loss"]
