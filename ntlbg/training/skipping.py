"""A run that is taken up in the middle of a stream: the batches it had are passed over without being made."""

from __future__ import annotations

from collections.abc import Callable

from torch.utils.data import get_worker_info


class SkippingCollator:
    """
    `collate`, but for the first batches of a loader, which it throws away: these are empty, and no video is decoded.

    Args:
        collate: rows to a batch.
        batches: how many are thrown away, over all of the loader's workers, which take turns.
    """

    def __init__(self, collate: Callable, batches: int):
        self._collate, self._batches = collate, batches
        self._left: int | None = None

    def __call__(self, rows: list) -> dict:
        if self._left is None:
            worker = get_worker_info()
            first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
            self._left = len(range(first, self._batches, step))
        if self._left:
            self._left -= 1
            return {}
        return self._collate(rows)


__all__ = ["SkippingCollator"]
