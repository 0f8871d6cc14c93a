"""What was found for rows that ask for times, as a file of predictions, and its scores.

A line of the file is what `predictions.read_predictions` reads: `{"id", "prediction": [start, end] or null,
"highlights": {"windows": [[start, end, score], ...], "saliency": [a score a clip]}, ...}`; `prediction` is for
`span_scores`, `highlights` (`key="highlights"`) for `highlight_scores`. Beside them stand the task, the confidence,
what the model said, its captions and answer, and why something is missing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np

from ntlbg.evaluation.highlight_scores import check_highlights, highlight_scores
from ntlbg.evaluation.predictions import BadPrediction, read_predictions, shown
from ntlbg.evaluation.span_scores import check_span, grounding_scores, temporal_iou
from ntlbg.grounding.finding import Found
from ntlbg.grounding.tasks import clip_saliency
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.training.answer_scoring import AnswerScores, score_answer


# Seconds of a clip where a row does not say: QVHighlights'.
CLIP_SECONDS = 2.0

CAPTION_THRESHOLDS = (0.3, 0.5, 0.7, 0.9)


def prediction_of(row: dict, task: str, found: Found) -> dict:
    """One line of the file.

    Args:
        row: as `load_qa` gives it.
        task: what it asked.
        found: the moments, the surest or first named one first. None of them is `"prediction": null`.
    """
    spans = found.spans if task != "highlights" or found.said is None else []
    windows = [[span.start, span.end, span.score] for span in spans]
    return {
        "id": row["id"],
        "task": task,
        "prediction": windows[0][:2] if windows else None,
        "confidence": found.spans[0].confidence if found.spans else None,
        "highlights": {"windows": windows, "saliency": _saliency(row, task, found)},
        "answer": None if found.said is None else found.said.answer,
        "captions": [] if found.said is None else found.said.captions,
        "text": found.answer,
        "unread": found.unread,
    }


def no_prediction(row: dict, task: str, why: str) -> dict:
    """The line of a row whose video cannot be read."""
    saliency = [] if task == "highlights" else None
    return {
        "id": row["id"],
        "task": task,
        "prediction": None,
        "highlights": {"windows": [], "saliency": saliency},
        "answer": None,
        "unread": why,
    }


def score_predictions(path: str | os.PathLike, rows: Sequence[dict], tasks: Sequence[str]) -> dict[str, dict]:
    """
    The scores of a file of predictions, by task.

    Args:
        path: the file; one line a row.
        rows: (n,) with the truth as `qa_records` has it; one without it is counted and not scored.
        tasks: (n,) what each row asked.

    Returns:
        for each task that was asked `rows`, `without_truth` and, of the others, what `grounding_scores`,
        `highlight_scores`, `caption_scores` and, of an answer's words, `AnswerScores` say.

    Raises:
        InputError, BadPrediction: see `read_predictions`.
    """
    ids = [row["id"] for row in rows]
    first = read_predictions(path, ids, check_span)
    windows = read_predictions(path, ids, check_highlights, key="highlights")
    words = read_predictions(path, ids, _check_words, key="answer")
    scores: dict[str, dict] = {}
    for task in dict.fromkeys(tasks):
        asked = [number for number, other in enumerate(tasks) if other == task]
        known = [number for number in asked if rows[number].get("saliency" if task == "highlights" else "spans")]
        told = [rows[number] for number in known]
        scores[task] = own = {"rows": len(asked), "without_truth": len(asked) - len(known)}
        if known and task in ("moment", "grounded_answer"):
            own |= grounding_scores([first[number] for number in known], [row["spans"] for row in told])
        if known and task == "moment":
            own |= highlight_scores([{"windows": windows[number]["windows"] or []} for number in known], told)
        if known and task == "highlights":
            own |= highlight_scores([{"saliency": windows[number]["saliency"] or []} for number in known], told)
        if known and task == "dense_captions":
            own |= caption_scores([windows[number]["windows"] or [] for number in known], told)
        if task == "grounded_answer":
            answers = sum((score_answer(words[number] or "", rows[number]) for number in asked), AnswerScores())
            own |= answers.metrics()
    return scores


def caption_scores(windows: Sequence[Sequence], rows: Sequence[dict]) -> dict[str, float]:
    """
    How well the events of captions are found in time; their words are not scored.

    As in the evaluation of ActivityNet Captions (arXiv 1705.00754): a predicted event is right if it overlaps any
    annotated one by the threshold, and the other way round; means over the thresholds .3, .5, .7 and .9.

    Args:
        windows: (n,) lists of [start, end, ...]; an answer that could not be read has none, and is counted.
        rows: (n,) with `spans`.

    Returns:
        `event_precision`, `event_recall` in [0, 1], and `unparsed`.
    """
    precisions, recalls = [], []
    for own, row in zip(windows, rows, strict=True):
        if not own:
            precisions.append(0.0)
            recalls.append(0.0)
            continue
        iou = temporal_iou(np.array([window[:2] for window in own]), np.array(row["spans"]))
        reached = iou[None] >= np.array(CAPTION_THRESHOLDS)[:, None, None]
        precisions.append(reached.any(axis=2).mean())
        recalls.append(reached.any(axis=1).mean())
    return {
        "event_precision": float(np.mean(precisions)),
        "event_recall": float(np.mean(recalls)),
        "unparsed": sum(not own for own in windows),
    }


def _check_words(answer: object) -> str | None:
    if answer is not None and not isinstance(answer, str):
        raise BadPrediction(f"'answer' should be text or null, but is {shown(answer)}")
    return answer


def _saliency(row: dict, task: str, found: Found) -> list[float] | None:
    """A score a clip: of an answer about highlights its scores, of a curve its value at the clip's middle."""
    clip_len = row.get("saliency", {}).get("clip_len", CLIP_SECONDS)
    if found.answer is not None:
        if task != "highlights":
            return None
        return [] if found.said is None else clip_saliency(found.said.highlights, row["duration"], clip_len)
    middles = (np.arange(max(math.ceil(row["duration"] / clip_len - 1e-9), 1)) + 0.5) * clip_len
    if isinstance(found.selection, Selection):  # of groups the one on screen, of frames the nearest
        places = np.clip(np.searchsorted(found.seconds, middles, "right") - 1, 0, None)
    else:
        places = np.abs(middles[:, None] - found.seconds[None]).argmin(axis=1)
    return [float(found.saliency[place]) for place in places]


__all__ = ["CLIP_SECONDS", "caption_scores", "no_prediction", "prediction_of", "score_predictions"]
