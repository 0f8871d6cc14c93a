"""Counting what cannot be used, also in the workers of a DataLoader, and ending the run when it is too much."""

from __future__ import annotations

import logging

import torch
from torch.utils.data import get_worker_info

from ntlbg.data.qa_records import TooManyBadRows
from ntlbg.errors import InputError


logger = logging.getLogger(__name__)

# How many are told one by one in each process; all are counted.
TOLD = 20

# Where the number of rows is not known beforehand, the share is judged as if at least so many had been seen: else a
# first row that is bad would be a share of 1.
JUDGED_ROWS = 200

_MAX_WORKERS = 256


class BadRows:
    """
    How many rows were seen, were bad, or had to be repeated; shared by a process and its DataLoader workers.

    Args:
        max_share: share of the rows, in [0, 1], that may be bad; one more ends the run.
        what: the rows' name in messages.

    Raises:
        InputError: the share is out of range.
    """

    def __init__(self, max_share: float, what: str):
        if not 0 <= max_share <= 1:
            raise InputError(f"max_bad_share is a share in [0, 1], got {max_share}")
        self.max_share, self.what = max_share, what
        # One line for each worker, so that no two write to the same place; workers get this very memory.
        self._counts = torch.zeros(_MAX_WORKERS, 3, dtype=torch.int64).share_memory_()
        self._told = 0

    @property
    def seen(self) -> int:
        """Rows so far, good and bad."""
        return int(self._counts[:, 0].sum())

    @property
    def bad(self) -> int:
        """Rows so far that could not be used."""
        return int(self._counts[:, 1].sum())

    @property
    def repeated(self) -> int:
        """Rows so far that were given again in the place of a batch without a good one."""
        return int(self._counts[:, 2].sum())

    def add_good(self) -> None:
        """One more row that can be used."""
        self._line()[0] += 1

    def add_repeated(self) -> None:
        """One more row given again."""
        self._line()[2] += 1

    def add_bad(self, sentence: str) -> None:
        """One more row that cannot.

        Raises:
            TooManyBadRows: it is one too many.
        """
        line = self._line()
        line[0] += 1
        line[1] += 1
        if self._told < TOLD:
            self._told += 1
            more = "; further ones are only counted" if self._told == TOLD else ""
            logger.warning("A bad row is left out: %s%s", sentence, more)
        if self.bad > self.max_share * max(self.seen, JUDGED_ROWS):
            raise TooManyBadRows(
                f"{self.bad} of {self.seen} {self.what} cannot be used, more than the share of {self.max_share:g} "
                f"that is allowed (max_bad_share); the last one: {sentence}"
            )

    def _line(self) -> torch.Tensor:
        worker = get_worker_info()
        return self._counts[0 if worker is None else 1 + worker.id % (_MAX_WORKERS - 1)]


__all__ = ["BadRows"]
