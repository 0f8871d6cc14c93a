"""How well predicted stretches and chosen frames fit annotated ones: temporal IoU, R@1, evidence recall.

Shapes: P predicted and G annotated spans [start, end] in seconds; k times of frames. Scores are shares in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ntlbg.errors import InputError
from ntlbg.evaluation.predictions import BadPrediction, checked, numbers, paired


THRESHOLDS = (0.3, 0.5, 0.7)


def check_span(prediction: Any) -> list[float] | None:
    """[start, end], or None for an answer that named no span.

    Raises:
        BadPrediction: it is neither; a span that ends before it begins is malformed, not swapped.
    """
    if prediction is None or prediction == []:
        return None
    start, end = numbers(prediction, "a span", 2)
    if not 0 <= start <= end:
        raise BadPrediction(f"a span should have 0 <= start <= end in seconds, but is [{start:g}, {end:g}]")
    return [start, end]


def check_times(prediction: Any) -> list[float]:
    """Seconds of the chosen frames.

    Raises:
        BadPrediction: they are none.
    """
    times = numbers(prediction, "the frames' times")
    if any(time < 0 for time in times):
        raise BadPrediction(f"the frames' times should be seconds from 0 on, but one is {min(times):g}")
    return times


def temporal_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """
    Intersection over union of stretches of time.

    Args:
        first: (P, 2) seconds.
        second: (G, 2) seconds.

    Returns:
        (P, G) in [0, 1]; 0 where the union has no length.
    """
    first, second = np.asarray(first, float).reshape(-1, 1, 2), np.asarray(second, float).reshape(1, -1, 2)
    shared = np.minimum(first[..., 1], second[..., 1]) - np.maximum(first[..., 0], second[..., 0])
    shared = np.maximum(shared, 0)
    union = first[..., 1] - first[..., 0] + second[..., 1] - second[..., 0] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def grounding_scores(
    predictions: Sequence[Any], references: Sequence[Sequence], thresholds: Sequence[float] = THRESHOLDS
) -> dict[str, float]:
    """
    One predicted span a question against its annotated ones; the best of these counts, as in Moment-DETR's R1.

    Args:
        predictions: (n,) [start, end], or None for an answer that named no span: it scores 0 and is counted.
        references: (n,) lists of at least one annotated span.
        thresholds: at which IoU a prediction is right.

    Returns:
        `miou`, `r1@<threshold>` for each, `answered`, and `unparsed`: how many predictions are None.

    Raises:
        BadPrediction: a prediction is malformed. InputError: a reference is, or there is none.
    """
    paired(predictions, references)
    spans = checked(predictions, check_span)
    if not spans:
        raise InputError("there is nothing to score; give at least one prediction")
    ious = np.zeros(len(spans))
    for number, (span, truth) in enumerate(zip(spans, references, strict=True)):
        truth = reference_spans(truth, number + 1)
        if not len(truth):
            raise InputError(f"reference {number + 1} has no span to find; leave its question out of grounding")
        if span is not None:
            ious[number] = temporal_iou(np.array([span]), truth).max()
    recalls = {f"r1@{threshold:g}": float(np.mean(ious >= threshold)) for threshold in thresholds}
    return {
        "miou": float(ious.mean()),
        **recalls,
        "answered": len(spans),
        "unparsed": sum(span is None for span in spans),
    }


def evidence_scores(
    predictions: Sequence[Any], references: Sequence[Sequence | None], k: int | None = None, tolerance: float = 0.0
) -> dict[str, float]:
    """
    Evidence recall@k: which annotated pieces of evidence have a chosen frame.

    Args:
        predictions: (n,) lists of the chosen frames' seconds, in any order.
        references: (n,) lists of spans; None (unknown) and [] (no moment is evidence) leave a question out.
        k: how many frames were allowed; more are malformed. None does not check.
        tolerance: seconds by which a frame may miss a span; half the distance of candidates takes a frame as the
            stretch it stands for.

    Returns:
        `evidence_recall`, the mean over questions of the share of spans with a frame in them (ends included);
        `all_evidence`, the share of questions with a frame in every span; `evidence_precision`, the mean share of
        frames that lie in a span; `answered`, and `without_evidence`: the questions left out.

    Raises:
        BadPrediction: a prediction is malformed. InputError: a reference is, or no question has evidence.
    """
    paired(predictions, references)
    recalls, precisions = [], []
    for number, (times, truth) in enumerate(zip(checked(predictions, check_times), references, strict=True), start=1):
        if k is not None and len(times) > k:
            raise BadPrediction(f"prediction {number}: {len(times)} frames were chosen, but {k} are allowed")
        if not truth:
            continue
        spans = reference_spans(truth, number)
        at = np.asarray(times, float)[None]
        inside = (at >= spans[:, :1] - tolerance) & (at <= spans[:, 1:] + tolerance)  # (G, k)
        recalls.append(inside.any(axis=1).mean())
        precisions.append(inside.any(axis=0).mean() if times else 0.0)
    if not recalls:
        raise InputError("no question has spans of evidence; give rows with 'spans'")
    return {
        "evidence_recall": float(np.mean(recalls)),
        "all_evidence": float(np.mean(np.array(recalls) == 1)),
        "evidence_precision": float(np.mean(precisions)),
        "answered": len(recalls),
        "without_evidence": len(references) - len(recalls),
    }


def reference_spans(value: Any, number: int) -> np.ndarray:
    """(G, 2) seconds of one question's annotated spans.

    Raises:
        InputError: they are malformed; `number` says whose.
    """
    try:
        spans = np.array([numbers(span, "a span", 2) for span in value or []], float).reshape(-1, 2)
    except (BadPrediction, TypeError) as error:
        raise InputError(f"reference {number} should be a list of [start, end] in seconds ({error})") from error
    if np.any(spans[:, 0] >= spans[:, 1]) or np.any(spans < 0):
        raise InputError(f"reference {number} should have spans with 0 <= start < end, but has {spans.tolist()}")
    return spans


__all__ = [
    "THRESHOLDS",
    "check_span",
    "check_times",
    "evidence_scores",
    "grounding_scores",
    "reference_spans",
    "temporal_iou",
]
