"""What can be asked about time: four tasks, each with its prompt, what is to be answered, and how an answer is read.

| task | asked | answered, with numbers on frames |
|---|---|---|
| `moment` | when something happens | From Frame 12 to Frame 20; nowhere |
| `highlights` | the best moments | Highlights: frames 12, 14; scores 4.0, 3.5. |
| `dense_captions` | what happens, and when | a line an event: From Frame 12 to Frame 20: a door opens. |
| `grounded_answer` | a question | red. Evidence: From Frame 12 to Frame 20 |

The times are written in one of the formats of `time_formats`. A text that does not have its task's form raises
`TimeParseError`; nothing is guessed, and never is the whole video the answer.

The prompts are worded here and nowhere else. The form of a span of numbers is NumPro's (arXiv 2411.10332), the token
that comes before a prompt for time tokens Grounded-VideoLLM's (arXiv 2410.03290).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ntlbg.data.qa_records import BadRow, question_text, target_text
from ntlbg.errors import InputError
from ntlbg.grounding.names import TASKS, TIME_FORMATS
from ntlbg.grounding.time_formats import (
    BINS,
    GROUNDING_TOKEN,
    NumberFormat,
    TextFormat,
    TimeFormat,
    TimeParseError,
    TokenFormat,
    parse_highlights,
    quoted,
)


# From this mean score of its annotators on, 0 to 4 as in QVHighlights, a clip is a highlight: the level "fair".
LEAST_SALIENCY = 2.0

_BEGINNINGS = {
    "numbers": "The number drawn on each frame of the video is the number of that frame. ",
    "tokens": f"{GROUNDING_TOKEN}\n",
    "text": "",
}
_SPANS = {"numbers": "From Frame x to Frame y", "tokens": "<x><y>", "text": "x - y seconds"}
_LISTS = {"numbers": "frames x, y", "tokens": "<x>, <y>", "text": "x, y seconds"}
_EVIDENCE = re.compile(r"\bevidence:", re.IGNORECASE)
_NOWHERE = "nowhere"


@dataclass(frozen=True)
class GroundedText:
    """What an answer says, read strictly.

    Args:
        spans: (start, end) seconds, in the answer's order; of `dense_captions` one an event.
        highlights: (seconds, score from 1 to 5) each, of `highlights` alone.
        captions: one a span, of `dense_captions` alone.
        answer: what was answered beside the times, of `grounded_answer` alone.
    """

    spans: list[tuple[float, float]] = field(default_factory=list)
    highlights: list[tuple[float, float]] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    answer: str | None = None


@dataclass(frozen=True)
class Grounding:
    """How times are asked for and written.

    Args:
        time_format: one of `names.TIME_FORMATS`.
        task: one of `names.TASKS`, for all rows; by default a row's `answer_type` says which, and a row that names
            none of them is an ordinary question.
        bins: M of the time tokens.

    Raises:
        InputError: there is no such format or task.
    """

    time_format: str
    task: str | None = None
    bins: int = BINS

    def __post_init__(self):
        if self.time_format not in TIME_FORMATS:
            raise InputError(f"`time_format` should be one of {', '.join(TIME_FORMATS)}, got {self.time_format!r}")
        if self.task is not None and self.task not in TASKS:
            raise InputError(f"`grounding_task` should be one of {', '.join(TASKS)}, got {self.task!r}")

    def task_of(self, row: dict) -> str | None:
        """The task that a row asks, or None for an ordinary question."""
        return self.task or (row["answer_type"] if row["answer_type"] in TASKS else None)

    def times(self, duration: float, seconds: Sequence[float], step: int) -> TimeFormat:
        """How the times of one video are written.

        Args:
            duration: seconds of the video, also where only a clip of it is shown.
            seconds: (N,), when each candidate is shown.
            step: candidates per group, of which the first one's number is drawn.
        """
        if self.time_format == "numbers":
            return NumberFormat(seconds, step, duration=max(duration, float(seconds[-1])))
        return (TokenFormat if self.time_format == "tokens" else TextFormat)(duration, self.bins)

    def prompt(self, task: str, row: dict) -> str:
        """What the model is asked for a row, or for any mapping with `question` and possibly `options`."""
        return _BEGINNINGS[self.time_format] + _ask(task, row, self.time_format)

    def target(self, task: str, row: dict, times: TimeFormat) -> str:
        """What the model should answer.

        Raises:
            BadRow: the row lacks what the task is taught by, or it lies outside the video.
        """
        try:
            return _TARGETS[task](row, times)
        except ValueError as error:
            if isinstance(error, BadRow):
                raise
            raise BadRow(f"its times cannot be written as {self.time_format}: {error}") from error


def parse_grounded(task: str, text: str, times: TimeFormat) -> GroundedText:
    """What an answer to a task's prompt says.

    Raises:
        TimeParseError: it does not have the task's form, or names what is not in the video. Of captions every line
            has to be an event; of a grounded answer both parts have to be there.
    """
    if task == "moment":
        return GroundedText(spans=[] if _says_nowhere(text) else times.parse_spans(text))
    if task == "highlights":
        return GroundedText(highlights=parse_highlights(text, times))
    if task == "dense_captions":
        return _parse_captions(text, times)
    return _parse_answer(text, times)


def read_grounded(task: str, text: str, times: TimeFormat) -> tuple[GroundedText | None, str | None]:
    """What an answer says, or None and why it cannot be read."""
    try:
        return parse_grounded(task, text, times), None
    except TimeParseError as error:
        return None, str(error)


def clip_saliency(highlights: Sequence[tuple[float, float]], duration: float, clip_len: float) -> list[float]:
    """The score of each clip of a video: the best of the times that lie in it, 0 where none does.

    Args:
        highlights: (seconds, score) each.
        duration, clip_len: seconds.
    """
    clips = np.zeros(max(int(np.ceil(duration / clip_len - 1e-9)), 1))
    for second, score in highlights:
        place = min(int(second / clip_len + 1e-9), len(clips) - 1)
        clips[place] = max(clips[place], score)
    return clips.tolist()


# -- asking -----------------------------------------------------------------------------------------------------------


def _ask(task: str, row: dict, time_format: str) -> str:
    query, span = row["question"].strip().rstrip("?.! "), _SPANS[time_format]
    if task == "moment":
        return f'When does this happen: "{query}"? Answer in the form: {span}'
    if task == "highlights":
        form = f"Highlights: {_LISTS[time_format]}; scores a, b"
        return f'Which moments show this best: "{query}"? Score them from 1 to 5. Answer in the form: {form}'
    if task == "dense_captions":
        return f"{row['question']}\nGive each event a line in the form: {span}: what happens"
    return f"{question_text(row)}\nAnswer, and tell when it is seen, in the form: answer. Evidence: {span}"


# -- what is to be answered -------------------------------------------------------------------------------------------


def _spans(row: dict, times: TimeFormat, task: str) -> list[str]:
    if not row.get("spans"):
        raise BadRow(f"it should teach the task {task!r}, but has no 'spans'; give them, or leave the row out")
    return [times.encode_span(start, end) for start, end in row["spans"]]


def _moment_target(row: dict, times: TimeFormat) -> str:
    if row.get("spans") == []:
        return _NOWHERE
    return ", ".join(_spans(row, times, "moment"))


def _highlight_target(row: dict, times: TimeFormat) -> str:
    """Clips that are highlights, each by its `TimeFormat.mark`; scores 0 to 4 are written as 1 to 5."""
    saliency = row.get("saliency")
    if saliency is None:
        raise BadRow("it should teach the task 'highlights', but has no 'saliency'; give it, or leave the row out")
    scored = []
    for clip, scores in zip(saliency["clip_ids"], saliency["scores"], strict=True):
        score = float(np.mean(scores))
        if not 0 <= score <= 4:
            raise BadRow(f"'saliency.scores' of clip {clip} have the mean {score:g}, but highlights need 0 to 4")
        if score >= LEAST_SALIENCY:
            start = clip * saliency["clip_len"]
            scored.append((times.mark(start, min(start + saliency["clip_len"], row["duration"])), score + 1))
    if not scored:
        raise BadRow(f"no clip of it is a highlight (a mean score of {LEAST_SALIENCY:g} or more); leave the row out")
    return times.encode_highlights(scored)


def _caption_target(row: dict, times: TimeFormat) -> str:
    if len(row.get("captions", ())) == 0:
        raise BadRow("it should teach the task 'dense_captions', but has no 'captions'; give one a span")
    lines = zip(_spans(row, times, "dense_captions"), row["captions"], strict=True)
    return "\n".join(f"{span}: {' '.join(caption.split())}" for span, caption in lines)


def _answer_target(row: dict, times: TimeFormat) -> str:
    if "spans" not in row:
        raise BadRow("it should teach the task 'grounded_answer', but has no 'spans'; give them, [] for none")
    spans = ", ".join(times.encode_span(start, end) for start, end in row["spans"]) or _NOWHERE
    return f"{target_text(row).rstrip('. ')}. Evidence: {spans}"


_TARGETS = {
    "moment": _moment_target,
    "highlights": _highlight_target,
    "dense_captions": _caption_target,
    "grounded_answer": _answer_target,
}


# -- reading ----------------------------------------------------------------------------------------------------------


def _says_nowhere(text: str) -> bool:
    return text.strip().rstrip(".").casefold() == _NOWHERE


def _parse_captions(text: str, times: TimeFormat) -> GroundedText:
    spans, captions = [], []
    for line in text.splitlines():
        if not line.strip():
            continue
        head, found, caption = line.partition(": ")
        if not found or not caption.strip():
            raise TimeParseError(f"a line of captions is a span, a colon and what happens, but one is {quoted(line)}")
        own = times.parse_spans(head)
        if len(own) != 1:
            raise TimeParseError(f"a caption has one span, but {len(own)} stand in {quoted(head)}")
        spans += own
        captions.append(caption.strip())
    if not spans:
        raise TimeParseError("there is no line with a span and what happens")
    return GroundedText(spans=spans, captions=captions)


def _parse_answer(text: str, times: TimeFormat) -> GroundedText:
    marks = list(_EVIDENCE.finditer(text))
    answer = text[: marks[-1].start()].strip().rstrip(".,;: ") if marks else ""
    if not answer:
        raise TimeParseError(f"no answer followed by 'Evidence:' stands in {quoted(text)}")
    evidence = text[marks[-1].end() :].strip().rstrip(".")
    spans = [] if _says_nowhere(evidence) else times.parse_spans(evidence)
    return GroundedText(spans=spans, answer=answer)


__all__ = [
    "LEAST_SALIENCY",
    "GroundedText",
    "Grounding",
    "clip_saliency",
    "parse_grounded",
    "read_grounded",
]
