"""The losses' components and weights between two log lines, such that their products sum to the logged loss."""

from collections.abc import Callable

import torch

from ntlbg.training.loss_schedule import LOSSES


class LogWindow:
    r"""
    Sums over the optimizer steps since the last log line.

    A component is logged as its mean over the steps that had it. Its weight is logged as what the component was worth
    to the mean loss: with one step per line that is the schedule's own weight, over several it is their average,
    weighted by the component, so that sum(weight * component) is the logged loss to rounding.
    """

    def __init__(self):
        self._restart()

    def _restart(self):
        self.steps = 0
        self._steps_with = dict.fromkeys(LOSSES, 0)
        self._values = dict.fromkeys(LOSSES, 0.0)
        self._weighted = dict.fromkeys(LOSSES, 0.0)
        self._weights = dict.fromkeys(LOSSES, 0.0)

    def begin_step(self, totals: dict[str, int], weights: dict[str, float]):
        """`totals` over the accumulated batch of all processes, the schedule's `weights` of this step."""
        self.steps += 1
        for name in LOSSES:
            if totals[name]:
                self._steps_with[name] += 1
                self._weights[name] += weights[name]

    def add(self, shares: dict[str, torch.Tensor], weights: dict[str, float]):
        """One micro-batch's shares of each component."""
        for name, share in shares.items():
            value = float(share.detach())
            self._values[name] += value
            self._weighted[name] += weights[name] * value

    def close(self, reduce: Callable[[list[float]], list[float]]) -> dict[str, float]:
        """What to log; `reduce` sums a list over all processes. The window starts anew."""
        sums = reduce([*self._values.values(), *self._weighted.values()])
        logs = {}
        for name, value, weighted in zip(LOSSES, sums[: len(LOSSES)], sums[len(LOSSES) :], strict=True):
            if steps := self._steps_with[name]:
                mean = value / steps
                logs[f"loss_{name}"] = mean
                logs[f"weight_{name}"] = weighted / self.steps / mean if mean else self._weights[name] / self.steps
        self._restart()
        return logs


__all__ = ["LogWindow"]
