"""The expected distribution of L_align: running mean and variance of the base's own visual tokens.

Each forward in training adds to sums; once per optimizer step the sums are folded into the buffers. So the buffers do
not change between the parts of an accumulated batch, and processes that saw different numbers of videos, also none,
meet in one reduction of fixed size.

Shapes: T groups, n visual tokens per group, D their width.
"""

from collections.abc import Callable

import torch


MOMENTUM = 0.99


class StatisticsMixin:
    """For a model with the buffers `expected_mean` (zeros at birth) and `expected_variance` (ones at birth), (D,)."""

    # Set by whoever calls `fold_statistics` once per optimizer step; else the model folds at its next forward.
    statistics_folded_by_caller = False
    # Not a buffer: DistributedDataParallel overwrites those with the first process's.
    _pending_statistics: torch.Tensor | None = None

    def _apply(self, fn, recurse=True):
        # As of the selector: in half precision a step of 1 % would round to none.
        before = {name: getattr(self, name) for name in ("expected_mean", "expected_variance")}
        super()._apply(fn, recurse)
        for name, value in before.items():
            if getattr(self, name).dtype != value.dtype:
                setattr(self, name, value.to(getattr(self, name).device))
        return self

    @property
    def statistics_seen(self) -> bool:
        """Whether any token was ever folded in; until then there is nothing to compare with."""
        return bool(self.expected_mean.any() or (self.expected_variance != 1).any())

    @torch.no_grad()
    def observe_tokens(self, tokens: torch.Tensor, chunk: int = 64):
        """Add the tokens (T, n, D) of one video to the pending sums: count, sum, sum of squares, (1 + 2 D,) in
        float64 (in which a sum of squares loses nothing that matters) and so on the CPU."""
        if self._pending_statistics is None:
            self._pending_statistics = torch.zeros(1 + 2 * tokens.shape[-1], dtype=torch.float64)
        for part in tokens.split(chunk):
            flat = part.float().flatten(0, -2)
            variance, mean = (value.cpu().double() for value in torch.var_mean(flat, 0, correction=0))
            sums = len(flat) * torch.cat([torch.ones_like(mean[:1]), mean, variance + mean.square()])
            self._pending_statistics += sums

    @torch.no_grad()
    def fold_statistics(self, reduce: Callable[[torch.Tensor], torch.Tensor] | None = None):
        r"""
        Fold what was seen since the last call into the running mean and variance; the first tokens ever are copied.

        Args:
            reduce (`Callable`, *optional*): from one process's sums (1 + 2 D,) to those of all processes; every
                process has to call, also one that saw no video.
        """
        sums, self._pending_statistics = self._pending_statistics, None
        if sums is None:
            if reduce is None:
                return
            sums = torch.zeros(1 + 2 * len(self.expected_mean), dtype=torch.float64)
        if reduce is not None:
            sums = reduce(sums)
        count = sums[0]
        # A single overflow in half precision, whose step is skipped, would stay in the running values for ever.
        if not count or not sums.isfinite().all():
            return
        mean, square = (sums[1:] / count).chunk(2)
        step = 1 - MOMENTUM if self.statistics_seen else 1.0
        self.expected_mean.lerp_(mean.to(self.expected_mean), step)
        self.expected_variance.lerp_((square - mean.square()).clamp_min(0).to(self.expected_variance), step)


__all__ = ["StatisticsMixin"]
