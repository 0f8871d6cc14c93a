"""How the task loss reaches the relevance head through the hard choice, in training.

Shapes: T groups, k of them chosen, n visual tokens per group, D their width.
"""

import math

import torch

from .prompt_ntlbg import IGNORED_LABEL


def gate_points(points: torch.Tensor, blank: torch.Tensor, log_weights: torch.Tensor, openness: float) -> torch.Tensor:
    r"""
    R_i + (R_i - b)(u - 1 + (l_i - sg(l_i))): the points themselves for u = 1, blank ones for u = 0; l_i gets the
    gradient of showing more of R_i.

    Against a blank b and not against zero: language models normalise what they read, so the length of a token says
    nothing to them, and a plain factor on R_i would have no gradient to speak of.

    Args:
        points (`torch.Tensor` of shape `(k, n, D)`): R_i.
        blank (`torch.Tensor` of shape `(n, D)`): b, what a group shows that holds nothing of its own.
        log_weights (`torch.FloatTensor` of shape `(k,)`): l_i.
        openness (`float`): u.

    Returns:
        `torch.Tensor` of shape `(k, n, D)`, of the points' own type.
    """
    factor = (openness - 1.0) + (log_weights - log_weights.detach())
    return points + (points - blank) * factor.to(points)[:, None, None]


def credit_shares(slopes: torch.Tensor) -> torch.Tensor:
    r"""
    t_i = max(-g_i, 0)^2 / sum_j max(-g_j, 0)^2: how much of what the answer would gain by more of the groups is i's.

    Squares sum up to the squared length of the gradient, and leave little to the many groups that matter by chance.

    Args:
        slopes (`torch.FloatTensor` of shape `(k,)`): g, the gradient of the loss along the gates.

    Returns:
        `torch.FloatTensor` of shape `(k,)`: of sum 1, or all zero where more of no group would help.
    """
    tiny = torch.finfo(slopes.dtype).tiny
    gains = (-slopes).clamp_min(0)
    squares = (gains / gains.max().clamp_min(tiny)).square()
    return squares / squares.sum().clamp_min(tiny)


def answer_beliefs(logits: torch.Tensor, targets: torch.LongTensor) -> torch.Tensor:
    """exp(-L) of every row, L the mean cross-entropy of its answer tokens: logits (B, L, vocabulary) over targets
    (B, L), -100 is ignored -> (B,) in [0, 1]; 0 for a row without an answer."""
    beliefs = []
    for row, wanted in zip(logits.detach(), targets.to(logits.device), strict=True):
        said = wanted != IGNORED_LABEL
        log_likelihood = row[said].float().log_softmax(dim=-1).gather(1, wanted[said, None])
        beliefs.append(log_likelihood.mean().exp() if said.any() else log_likelihood.new_zeros(()))
    return torch.stack(beliefs)


class TaskPull:
    r"""
    Makes of a video's gradient g = dL_v/dl, L_v the mean cross-entropy of its answer tokens, that of a cross-entropy

        -(q_0 log p_0 + sum_i q_i log p_i) / log(T + 1),   q_i = b t_i,   q_0 = 1 - sum_i q_i

    with p of `evidence_log_probabilities` over "none" and the k shown, t = `credit_shares(g)`, and b = exp(-L_v), how
    far the answer was believed, all taken as constant: what the answer hangs on stands in for annotated evidence, and
    where the answer was not believed the evidence was not shown. 1 / log(T + 1) is what L_evidence is divided by.

    The plain gradient will not do. Where a language model is sure of the answer, or of a wrong one, and where a video
    is faded to little more than a blank, slopes differ by many orders of magnitude, so that a few videos drown what
    all others say, annotated spans too. Their proportions hardly differ, and say which groups it was (attribution by
    gradients, as in Simonyan et al. 2014). What hurts is left out: a cross-entropy to negative shares has no least
    value, and the head would be driven away for ever.

    The factor that L_v has in the loss that is differentiated (weights, a gradient scaler, the number of processes) is
    known once the backward pass has begun: `watch` reads it off the gradient of the task loss itself. A backward pass
    that does not run through the task loss is left as it is.

    Args:
        labels (`torch.LongTensor` of shape `(B, L)`, *optional*): -100 is ignored. Without labels gradients are left
            as they are.
        items (`int`, *optional*): how many answer tokens the task loss is divided by; by default those of the labels.
    """

    def __init__(self, labels: torch.LongTensor | None = None, items: int | torch.Tensor | None = None):
        self._shares: torch.Tensor | None = None
        if labels is not None:
            answers = (labels[:, 1:] != IGNORED_LABEL).sum(dim=1).float()
            self._shares = answers / (answers.sum() if items is None else items)
        self._factor: torch.Tensor | None = None
        self._beliefs: torch.Tensor | None = None

    def watch(self, task_loss: torch.Tensor | None, beliefs: torch.Tensor):
        """To be called with the task loss, and b of every row, before the backward pass."""
        self._beliefs = beliefs
        if task_loss is not None and task_loss.requires_grad:
            task_loss.register_hook(self._keep)

    def _keep(self, gradient: torch.Tensor):
        self._factor = gradient.detach()

    def attach(self, log_probabilities: torch.Tensor, row: int, groups: int) -> torch.Tensor:
        r"""
        Args:
            log_probabilities (`torch.FloatTensor` of shape `(1 + k,)`): of "none" and of the k shown.
            row (`int`): of the batch, in which the video is.
            groups (`int`): T, at least 1.

        Returns:
            `torch.FloatTensor` of shape `(k,)`: l, the log-probabilities of those shown.
        """
        if self._shares is None:
            return log_probabilities[1:]
        return _Credited.apply(log_probabilities, self, row, math.log(groups + 1))[1:]

    def credit(self, gradient: torch.Tensor, row: int, scale: float) -> torch.Tensor:
        """The gradient (1 + k,) to be, for the one that came."""
        if self._factor is None:
            return gradient
        wanted = self._beliefs[row].to(gradient) * credit_shares(gradient[1:])
        wanted = torch.cat([1 - wanted.sum(dim=0, keepdim=True), wanted])
        return -wanted * self._factor.to(gradient) * self._shares[row].to(gradient) / scale


class _Credited(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, pull, row, scale):
        ctx.pull, ctx.row, ctx.scale = pull, row, scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.pull.credit(gradient, ctx.row, ctx.scale), None, None, None


__all__ = ["TaskPull", "answer_beliefs", "credit_shares", "gate_points"]
