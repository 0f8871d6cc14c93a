"""What a report needs to know of one choice, whether frames (`FrameSelection`) or groups (`Selection`) were chosen.

Shapes: k representatives, T candidates (frames or groups). Times are seconds from the start of the stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from ntlbg.selection.features import FrameSelection
from ntlbg.tables import clock, stretches


if TYPE_CHECKING:
    from ntlbg.modeling_ntlbg.selection_ntlbg import Selection


WHY = {
    "relevance": "it answers to the question",
    "novelty": "it is unlike the rest of the video",
    "coverage": "it stands for a stretch of the video",
    "given": "another rule chose it",
}


@dataclass(frozen=True)
class Evidence:
    """One choice, ready to be drawn.

    Args:
        positions: int (k,), which candidate each representative is; sorted.
        seconds: float (k,), when each representative is shown.
        weights: float (k,), the share of the video each stands for; sums to 1.
        strata: k names: "relevance", "novelty", "coverage" or "given".
        picture_numbers: int (k,), presentation number of each representative's (first) picture, or None if unknown.
        candidate_seconds: float (T,).
        cells: int (T,), which representative (0..k-1) stands for each candidate.
        mahalanobis: float (T,), squared distance of each candidate to the video's Gaussian.
        relevance: float (T,) or None when nothing was asked or nothing could judge it.
        unit: "frame" or "group".
        notes: sentences to show with the choice.
    """

    positions: np.ndarray
    seconds: np.ndarray
    weights: np.ndarray
    strata: list[str]
    picture_numbers: np.ndarray | None
    candidate_seconds: np.ndarray
    cells: np.ndarray
    mahalanobis: np.ndarray
    relevance: np.ndarray | None = None
    unit: str = "frame"
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, selection: FrameSelection | Selection) -> Evidence:
        """The evidence of a frame selection or of a model's group selection."""
        if isinstance(selection, FrameSelection):
            return cls(
                positions=selection.positions,
                seconds=selection.seconds,
                weights=selection.weights,
                strata=list(selection.strata),
                picture_numbers=selection.indices,
                candidate_seconds=selection.candidate_seconds,
                cells=selection.cells,
                mahalanobis=selection.mahalanobis,
                relevance=selection.relevance,
                unit="frame",
                notes=list(selection.warnings),
            )
        positions = _array(selection.indices, np.int64)
        pictures = None
        if selection.frames_indices is not None:
            pictures = _array(selection.frames_indices, np.int64)[positions * selection.temporal_patch_size]
        return cls(
            positions=positions,
            seconds=_array(selection.timestamps, np.float64),
            weights=_array(selection.weights, np.float64),
            strata=list(selection.strata),
            picture_numbers=pictures,
            candidate_seconds=_array(selection.group_timestamps, np.float64),
            cells=_array(selection.cells, np.int64),
            mahalanobis=_array(selection.mahalanobis, np.float64),
            relevance=None if selection.relevance is None else _array(selection.relevance, np.float64),
            unit="group",
            notes=list(selection.notes),
        )

    def windows(self, end: float, start: float = 0.0) -> list[list[tuple[float, float]]]:
        """For each representative the stretches of time it stands for, in order: cells of candidates, each of which
        stands from its time until the next one's.

        Args:
            end: end of what was looked at, in seconds.
            start: its start, which is not 0 in a clip of a video.

        Returns:
            k lists of (start, stop) seconds; together they tile [start, end] without overlap.
        """
        return stretches(self.candidate_seconds, self.cells, len(self.positions), end, start)

    def own_window(self, rank: int, end: float, start: float = 0.0) -> tuple[float, float, int]:
        """The stretch around representative `rank` itself, and how many further stretches it stands for."""
        stretches = self.windows(end, start)[rank]
        second = float(self.candidate_seconds[self.positions[rank]])
        for first, last in stretches:
            if first <= second <= last:
                return first, last, len(stretches) - 1
        raise ValueError(
            f"representative {rank} at {second:.2f} s lies outside its own cell {stretches}; cells must hold, for the "
            "candidate of each representative, that representative's own number"
        )

    def to_dict(self, end: float, start: float = 0.0) -> dict:
        """JSON-ready description, one record per representative, curves as lists."""
        representatives = []
        for rank, (second, weight, stratum) in enumerate(zip(self.seconds, self.weights, self.strata, strict=True)):
            first, last, more = self.own_window(rank, end, start)
            representatives.append(
                {
                    "rank": rank + 1,
                    self.unit: int(self.positions[rank]),
                    "picture": None if self.picture_numbers is None else int(self.picture_numbers[rank]),
                    "seconds": float(second),
                    "time": clock(float(second), tenths=True),
                    "stratum": stratum,
                    "weight": float(weight),
                    "window": [first, last],
                    "further_windows": more,
                }
            )
        return {
            "unit": self.unit,
            "k": len(self.positions),
            "num_candidates": len(self.candidate_seconds),
            "representatives": representatives,
            "candidate_seconds": _list(self.candidate_seconds),
            "relevance": None if self.relevance is None else _list(self.relevance),
            "mahalanobis": _list(self.mahalanobis),
            "cells": [int(cell) for cell in self.cells],
            "notes": list(self.notes),
        }


def _array(values: torch.Tensor, dtype: type) -> np.ndarray:
    return values.detach().cpu().numpy().astype(dtype)


def _list(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values]
