"""QVHighlights as its authors score it: moment retrieval (mAP, R1) and highlight detection (mAP, HIT@1).

Source: Moment-DETR (Lei et al. 2021, arXiv 2107.09609), the semantics of its standalone evaluation. Scores are shares
in [0, 1], not rounded. Shapes: P predicted, G annotated windows [start, end] in seconds; C clips; A annotators.

A departure: a query without any predicted window scores 0. There it leaves the mean of mAP, and R1 fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ntlbg.errors import InputError
from ntlbg.evaluation.predictions import BadPrediction, checked, numbers, paired, shown
from ntlbg.evaluation.span_scores import reference_spans, temporal_iou


# .5 to .95 in steps of .05, as decimals: 0.6 from np.linspace is a little more than 0.6.
IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))

R1_THRESHOLDS = (0.3, 0.5, 0.7)

# Seconds that an annotated window lasts: above the first, at most the second.
LENGTHS = {"short": (0.0, 10.0), "middle": (10.0, 30.0), "long": (30.0, 150.0)}

# An annotator's score of a clip, 0 to 4, from which on it is a highlight.
LEVELS = {"fair": 2, "good": 3, "very_good": 4}

MAX_WINDOWS = 10


def check_highlights(prediction: Any) -> dict:
    """{"windows": [[start, end, score], ...], "saliency": [score of each clip, ...]}; either may be None.

    Raises:
        BadPrediction: something else.
    """
    if not isinstance(prediction, dict) or not {"windows", "saliency"} & set(prediction):
        raise BadPrediction(f"a prediction holds 'windows', 'saliency' or both, but this is {shown(prediction)}")
    windows, saliency = prediction.get("windows"), prediction.get("saliency")
    if windows is not None:
        if not isinstance(windows, Sequence) or isinstance(windows, str):
            raise BadPrediction(f"'windows' should be a list of [start, end, score], but is {shown(windows)}")
        windows = [numbers(window, f"windows[{number}]", 3) for number, window in enumerate(windows)]
        for number, (start, end, _) in enumerate(windows):
            if not 0 <= start <= end:
                raise BadPrediction(f"windows[{number}] should have 0 <= start <= end, but is [{start:g}, {end:g}]")
    if saliency is not None:
        saliency = numbers(saliency, "'saliency'")
    return {"windows": windows, "saliency": saliency}


def highlight_scores(predictions: Sequence[Any], references: Sequence[dict]) -> dict[str, float]:
    """
    Everything that can be said of these predictions.

    Args:
        predictions: (n,) as `check_highlights` takes them. The windows' order counts: the first is R1's, and only
            the first ten take part in mAP. Windows are scored if any prediction has them, and saliency likewise; a
            prediction that lacks what others have scores 0 there.
        references: (n,) rows with `spans` and, for highlights, `duration` and `saliency` as in `qa_records`.

    Returns:
        `answered`; for windows `map`, `map@.5`, `map@.75`, `r1@.3`, `r1@.5`, `r1@.7`, `no_windows` (how many predict
        none) and, where annotated windows have such lengths, `map_short`, `map_middle`, `map_long`; for saliency
        `hit1_<level>` and `saliency_map_<level>` for fair, good and very_good, and `no_saliency`.

    Raises:
        BadPrediction: a prediction is malformed. InputError: a reference is, or nothing is to be scored.
    """
    paired(predictions, references)
    found = checked(predictions, check_highlights)
    if not found:
        raise InputError("there is nothing to score; give at least one prediction")
    scores: dict[str, float] = {"answered": len(found)}
    if any(prediction["windows"] is not None for prediction in found):
        scores |= _moment_scores([prediction["windows"] or [] for prediction in found], references)
    if any(prediction["saliency"] is not None for prediction in found):
        scores |= _saliency_scores([prediction["saliency"] or [] for prediction in found], references)
    return scores


def moment_average_precision(
    windows: Sequence[Sequence[float]], truth: np.ndarray, thresholds: Sequence[float] = IOU_THRESHOLDS
) -> np.ndarray:
    """
    Interpolated average precision of one query, as in ActivityNet's detection task.

    The first ten windows, in the order of their scores, each take the free annotated window they overlap most; with
    less than the threshold, or none free, they are false.

    Args:
        windows: (P, 3) start, end, score.
        truth: (G, 2), G >= 1.

    Returns:
        (thresholds,) in [0, 1].
    """
    chosen = sorted(windows[:MAX_WINDOWS], key=lambda window: -window[2])
    if not chosen:
        return np.zeros(len(thresholds))
    iou = temporal_iou(np.array(chosen)[:, :2], truth)  # (P, G)
    results = []
    for threshold in thresholds:
        free, right = np.ones(len(truth), bool), np.zeros(len(chosen), bool)
        for number, row in enumerate(iou):
            # Of equal overlaps the later window, as the reference's reversed argsort has it.
            best = next((at for at in np.argsort(row)[::-1] if free[at]), None)
            if best is not None and row[best] >= threshold:
                free[best], right[number] = False, True
        hits = np.cumsum(right)
        precision = np.maximum.accumulate((hits / np.arange(1, len(chosen) + 1))[::-1])[::-1]
        results.append(float(np.sum(precision[right])) / len(truth))
    return np.array(results)


def saliency_average_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    """
    The mean, over the distinct recalls that are reached, of the highest precision at that recall or a higher one.

    Not scikit-learn's average precision: that weighs by the steps of recall and takes no maximum.

    Args:
        positive: (C,) bool. scores: (C,) predicted.

    Returns:
        0 where no clip is positive, 1 where all are.
    """
    positive = np.asarray(positive, bool)
    if positive.all() or not positive.any():
        return float(positive.all() and positive.size > 0)
    order = np.argsort(-np.asarray(scores, float), kind="stable")
    values, hits = np.asarray(scores, float)[order], np.cumsum(positive[order])
    last = np.flatnonzero(np.append(np.diff(values) != 0, True))  # clips of equal score come together
    hits, precision = hits[last], hits[last] / (last + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.diff(hits, prepend=0) > 0
    return float(envelope[reached].mean())


def clip_scores(row: dict, number: int) -> np.ndarray:
    """(C, A) annotators' scores of every clip of a row's video, 0 where nothing was annotated.

    Raises:
        InputError: the row has no saliency, or one that does not fit; `number` says which.
    """
    saliency = row.get("saliency")
    if not saliency or not row.get("duration"):
        raise InputError(f"reference {number} has no 'saliency' and 'duration', which highlights are scored by")
    annotated = np.array(saliency["scores"], float)
    annotated = annotated.reshape(len(annotated), -1) if annotated.size else np.zeros((0, 1))
    ids = np.array(saliency["clip_ids"], int)
    if len(ids) != len(annotated) or (len(ids) and ids.min() < 0):
        raise InputError(f"reference {number} has {len(annotated)} scores for {len(ids)} clips; give one a clip")
    # The reference counts whole clips; an annotated part of a clip at the end is one too.
    clips = max(int(row["duration"] / saliency["clip_len"]), int(ids.max(initial=-1)) + 1)
    full = np.zeros((clips, max(annotated.shape[1], 1)))
    if len(ids):
        full[ids] = annotated
    return full


def _moment_scores(windows: list[list], references: Sequence[dict]) -> dict[str, float]:
    truths = [reference_spans(row.get("spans"), number) for number, row in enumerate(references, start=1)]
    if empty := [number for number, truth in enumerate(truths, start=1) if not len(truth)]:
        raise InputError(f"reference {empty[0]} has no 'spans', which moments are scored by")
    precisions = np.array([moment_average_precision(*pair) for pair in zip(windows, truths, strict=True)])
    first = np.array(
        [
            temporal_iou(np.array(own[:1])[:, :2], truth).max() if own else 0.0
            for own, truth in zip(windows, truths, strict=True)
        ]
    )
    scores = {
        "map": float(precisions.mean()),
        "map@0.5": float(precisions[:, IOU_THRESHOLDS.index(0.5)].mean()),
        "map@0.75": float(precisions[:, IOU_THRESHOLDS.index(0.75)].mean()),
        **{f"r1@{threshold:g}": float(np.mean(first >= threshold)) for threshold in R1_THRESHOLDS},
        "no_windows": sum(not own for own in windows),
    }
    for name, (above, most) in LENGTHS.items():
        part = []
        for own, truth in zip(windows, truths, strict=True):
            lengths = truth[:, 1] - truth[:, 0]
            within = truth[(lengths > above) & (lengths <= most)]
            if len(within):
                part.append(moment_average_precision(own, within).mean())
        if part:
            scores[f"map_{name}"] = float(np.mean(part))
    return scores


def _saliency_scores(predicted: list[list[float]], references: Sequence[dict]) -> dict[str, float]:
    annotated = [clip_scores(row, number) for number, row in enumerate(references, start=1)]
    scores: dict[str, float] = {}
    for name, least in LEVELS.items():
        hits, precisions = [], []
        for own, truth in zip(predicted, annotated, strict=True):
            positive = truth >= least  # (C, A)
            best = int(np.argmax(own)) if own else len(positive)
            hits.append(best < len(positive) and positive[best].any())
            # Clips beyond the video's do not count; those without a prediction have the score 0.
            fitted = np.zeros(len(positive))
            fitted[: len(own)] = own[: len(positive)]
            precisions.append(
                np.mean([saliency_average_precision(positive[:, by], fitted) for by in range(positive.shape[1])])
                if own
                else 0.0
            )
        scores[f"hit1_{name}"], scores[f"saliency_map_{name}"] = float(np.mean(hits)), float(np.mean(precisions))
    return scores | {"no_saliency": sum(not own for own in predicted)}


__all__ = [
    "IOU_THRESHOLDS",
    "LENGTHS",
    "LEVELS",
    "check_highlights",
    "clip_scores",
    "highlight_scores",
    "moment_average_precision",
    "saliency_average_precision",
]
