"""The auxiliary losses of L = L_task + l1 L_NTLBG + l2 L_align + l3 L_context + l4 L_evidence + l5 L_teacher
(+ L_span of `span_head_ntlbg`), each about 1 in size.

Shapes: T groups, k representatives, d descriptor width, D width of the language model, c context width.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .gaussian_ntlbg import LowRankGaussian
from .rich_points_ntlbg import evidence_log_probabilities
from .selector_ntlbg import FullPrecisionModule


AUXILIARY_LOSSES = ("ntlbg", "align", "context", "evidence", "teacher", "span")


def ntlbg_loss(gaussian: LowRankGaussian, points, descriptors, likelihood_weight: float) -> torch.Tensor:
    r"""
    mean_i (m_i / c - 1)^2 with c the (constant) mean of m_i, plus `likelihood_weight` times the descriptors' negative
    log-likelihood per dimension. Without the second term the loss is least for an infinite Sigma.

    Args:
        points (`torch.FloatTensor` of shape `(k, d)`): softly pooled representatives.
        descriptors (`torch.FloatTensor` of shape `(T, d)`)
    """
    distances = gaussian.mahalanobis(points)
    shell = distances.detach().mean().clamp_min(1e-6)
    size = descriptors.shape[-1]
    likelihood = 0.5 * (gaussian.mahalanobis(descriptors).mean() + gaussian.logdet()) / size
    return (distances / shell - 1).square().mean() + likelihood_weight * likelihood


def align_loss(tokens: torch.Tensor, expected_mean: torch.Tensor, expected_variance: torch.Tensor) -> torch.Tensor:
    r"""
    KL(N(m_R, S_R) || N(m_E, S_E)) / D with diagonal covariances.

    Args:
        tokens (`torch.Tensor` of shape `(k, n, D)`): what the language model is given.
        expected_mean, expected_variance (`torch.FloatTensor` of shape `(D,)`): of the base's own visual tokens.
    """
    flat = tokens.float().flatten(0, -2)
    mean = flat.mean(dim=0)
    log_ratio = (
        (flat.var(dim=0, unbiased=False).clamp_min(1e-4) / expected_variance.clamp_min(1e-4)).log().clamp(-10, 10)
    )
    shift = (mean - expected_mean).square() / expected_variance.clamp_min(1e-4)
    return 0.5 * (log_ratio.exp() + shift - 1 - log_ratio).mean()


class Transition(FullPrecisionModule):
    """f(c_i, r_i, r_{i+1}, dt): what the next representative's context should be, as a change of this one's."""

    def __init__(self, context_size: int, token_size: int):
        super().__init__()
        self.visual = nn.Linear(token_size, context_size)
        self.hidden = nn.Linear(3 * context_size + 1, 2 * context_size)
        self.out = nn.Linear(2 * context_size, context_size)

    def forward(self, context, visual, seconds):
        """Contexts (k, c), visual features (k, D), seconds (k,) -> predicted contexts 1..k-1, shape (k - 1, c)."""
        weight = self.out.bias
        visual = self.visual(F.layer_norm(visual, visual.shape[-1:]).to(weight))
        gap = seconds.diff().clamp_min(0).log1p()[:, None]
        x = torch.cat([context[:-1], visual[:-1], visual[1:], gap], dim=-1).to(weight)
        return context[:-1] + self.out(F.gelu(self.hidden(x)))


def context_loss(predicted: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    r"""
    mean_i |c_{i+1} - predicted_i|^2 / Var(c) against a constant target, plus the hinge max(0, 1 - std(c)) that keeps
    the contexts from collapsing to one point.

    Args:
        predicted (`torch.FloatTensor` of shape `(k - 1, c)`)
        context (`torch.FloatTensor` of shape `(k, c)`), k >= 2.
    """
    spread = context.var(dim=0, unbiased=False).mean()
    error = (context[1:].detach() - predicted).square().mean()
    return error / (spread.detach() + 1e-4) + F.relu(1 - (spread + 1e-8).sqrt())


def _divergence(target: torch.Tensor, log_probabilities: torch.Tensor) -> torch.Tensor:
    """KL(target || probabilities) of two distributions over the same outcomes."""
    return torch.special.xlogy(target, target).sum() - (target * log_probabilities).sum()


def evidence_loss(relevance: torch.Tensor, evidence: torch.Tensor, pictures: int = 1) -> torch.Tensor:
    r"""
    Half of it KL(annotated || predicted) / log(T + 1) over "no group" and the T groups, half of it the mean over the
    groups of KL(Bernoulli(s_t) || Bernoulli(sigmoid(r_t))) / log 2, s_t = min(1, n e_t).

    In the first the groups compete: the predicted distribution is that of `evidence_log_probabilities`; the annotated
    one is shared out by the time within the spans, and is all on "no group" where no group has any. It says which
    group is more likely evidence than another, and leaves open how many are: of a video with evidence all other groups
    may stay above 0. So the second takes each logit at its word, as the choice does: the probability that the group
    shows evidence, which is s_t where n pictures stand evenly in the group and a span covers e_t of it.

    log(T + 1) and log 2 are what a head that tells nothing apart is at most away by, so that this loss is about 1 for
    it whatever T is.

    Args:
        relevance (`torch.FloatTensor` of shape `(T,)`): logits.
        evidence (`torch.FloatTensor` of shape `(T,)`): e, the share of each group's time that lies in a span, in
            [0, 1].
        pictures (`int`): n, the pictures of a group.
    """
    log_probabilities = evidence_log_probabilities(relevance)
    evidence = evidence.to(log_probabilities)
    total = evidence.sum()
    target = F.pad(evidence / total.clamp_min(1e-12), (1, 0))
    target[0] = total == 0
    among = _divergence(target, log_probabilities) / math.log(len(target))
    with torch.autocast(relevance.device.type, enabled=False):
        shown = (pictures * evidence).clamp(max=1)
        both = torch.stack([shown, 1 - shown])
        entropy = -torch.special.xlogy(both, both).sum(dim=0)
        each = F.binary_cross_entropy_with_logits(relevance.float(), shown, reduction="none") - entropy
    return (among + each.mean() / math.log(2)) / 2


def teacher_loss(relevance: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    r"""
    KL(attention || softmax of relevance) / log k over the k kept groups: what the language model itself looked at
    while it answered teaches the relevance head, where nobody has annotated spans.

    Restricted to the kept groups: of the others the language model saw nothing. log k as in `evidence_loss`.

    Args:
        relevance (`torch.FloatTensor` of shape `(k,)`): logits of the kept groups, k >= 2.
        attention (`torch.FloatTensor` of shape `(k,)`): paid to each; its scale does not matter. A constant target.
    """
    attention = attention.detach().float()
    target = attention / attention.sum().clamp_min(1e-12)
    return _divergence(target, relevance.float().log_softmax(dim=0)) / math.log(len(relevance))


def attention_to_groups(attentions, row: int, answers: torch.Tensor, pads: torch.Tensor) -> torch.Tensor:
    r"""
    Attention from the positions that say the answer to each kept group: the sum over the group's tokens, the mean over
    layers, heads and answer positions.

    Args:
        attentions (`tuple[torch.Tensor]`): per layer, of shape `(B, heads, L', L')`.
        answers (`torch.LongTensor` of shape `(a,)`): positions whose logits are the answer's tokens.
        pads (`torch.LongTensor` of shape `(k, n)`): positions of each kept group's tokens.

    Returns:
        `torch.FloatTensor` of shape `(k,)`, without gradient.
    """
    paid = [layer[row].detach()[:, answers][..., pads].float().sum(dim=-1).mean(dim=(0, 1)) for layer in attentions]
    return torch.stack([layer.to(paid[0].device) for layer in paid]).mean(dim=0)


__all__ = [
    "AUXILIARY_LOSSES",
    "Transition",
    "align_loss",
    "attention_to_groups",
    "context_loss",
    "evidence_loss",
    "ntlbg_loss",
    "teacher_loss",
]
