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


class TaskPull:
    r"""
    Bounds what one video's answer may say about its groups: |dL_v/dl| <= 1 / log(T + 1), where L_v is the mean
    cross-entropy of the video's answer tokens.

    That is as much as annotated spans say: the gradient of L_evidence, (p - annotated) / log(T + 1), has at most that
    size, up to a factor of sqrt(2). Without the bound a few videos, those faded to little more than a blank, have
    gradients a hundred times those of the others, and what the others say is lost (clipping by example, as in Abadi et
    al. 2016, section 3.1).

    The factor that L_v has in the loss that is differentiated (weights, a gradient scaler, the number of processes) is
    known once the backward pass has begun: `watch` reads it off the gradient of the task loss itself. A backward pass
    that does not run through the task loss is not bounded.

    Args:
        labels (`torch.LongTensor` of shape `(B, L)`, *optional*): -100 is ignored. Without labels nothing is bounded.
        items (`int`, *optional*): how many answer tokens the task loss is divided by; by default those of the labels.
    """

    def __init__(self, labels: torch.LongTensor | None = None, items: int | torch.Tensor | None = None):
        self._shares: torch.Tensor | None = None
        if labels is not None:
            answers = (labels[:, 1:] != IGNORED_LABEL).sum(dim=1).float()
            self._shares = answers / (answers.sum() if items is None else items)
        self._factor: torch.Tensor | None = None

    def watch(self, task_loss: torch.Tensor | None):
        """To be called with the task loss before the backward pass."""
        if task_loss is not None and task_loss.requires_grad:
            task_loss.register_hook(self._keep)

    def _keep(self, gradient: torch.Tensor):
        self._factor = gradient.detach()

    def bound(self, log_weights: torch.Tensor, row: int, groups: int) -> torch.Tensor:
        r"""
        Args:
            log_weights (`torch.FloatTensor` of shape `(k,)`): l.
            row (`int`): of the batch, in which the video is.
            groups (`int`): T, at least 1.

        Returns:
            `torch.FloatTensor` of shape `(k,)`: l; what differs is its gradient.
        """
        if self._shares is None:
            return log_weights
        return _Bounded.apply(log_weights, self, self._shares[row] / math.log(groups + 1))

    def limit(self, gradient: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
        """The gradient, shortened to a length of `most` times the task loss's factor where it is longer."""
        if self._factor is None:
            return gradient
        length = torch.linalg.vector_norm(gradient)
        most = most.to(gradient) * self._factor.abs().to(gradient)
        return torch.where(length > most, gradient * (most / length), gradient)


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, pull, most):
        ctx.pull, ctx.most = pull, most
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.pull.limit(gradient, ctx.most), None, None


__all__ = ["TaskPull", "gate_points"]
