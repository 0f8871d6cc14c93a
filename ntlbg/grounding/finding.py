"""When something happens in a video, without training: by a relevance curve, or by numbers that a model reads.

`find_by_curve` needs a dual encoder; `find_by_checkpoint` an NTLBG checkpoint whose relevance is trained (or that has
a scorer); `find_by_numbers` any vision-language model of transformers that takes several images.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from ntlbg.grounding.spans import Span, saliency, spans_of_curve
from ntlbg.grounding.time_formats import NumberFormat, TimeParseError, parse_highlights
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.processors.frame_numbers_ntlbg import number_frames
from ntlbg.selection.answering import IMAGE_SIDE, ImageAnswerer, ModelError, VideoAnswerer
from ntlbg.selection.api import FrameSelector
from ntlbg.selection.chat import image_part
from ntlbg.selection.features import FrameSelection


NUMBERED = "Each picture is a frame of one video and bears its number in red in its bottom right corner."
ASK_MOMENT = (
    NUMBERED + " Between which frames does this happen: {query}? Reply with one line of the form "
    "'From Frame x to Frame y', with the numbers that stand on the frames."
)
ASK_HIGHLIGHTS = (
    NUMBERED + " Which of these frames show best: {query}? Reply with one line of the form 'The highlight frames are "
    "in the x, y, z frames. Their saliency scores are a, b, c.', with the numbers that stand on the frames and scores "
    "from 1 to 5."
)

NOTHING_STANDS_OUT = "No moment stands out from the rest of the video for this query."


@dataclass
class Found:
    """The moments that were found for one query, and what they rest on.

    Args:
        query: as given.
        spans: the moments, the surest first; empty where none was found.
        selection: the frames or groups chosen for the query.
        frames: one picture per representative, uint8 (H, W, 3).
        seconds: (T,), the candidates' times.
        saliency: (T,), in [0, 1], of a curve; of an answer the scores / 5, None where a frame got none.
        answer: what the model said, if one was asked.
        unread: why that answer names no moment, or None.
        notes: what the reader should know.
        video: what carries the video's name, length and size.
    """

    query: str
    spans: list[Span]
    selection: FrameSelection | Selection
    frames: Any
    seconds: np.ndarray
    saliency: list[float | None]
    answer: str | None = None
    unread: str | None = None
    notes: list[str] = field(default_factory=list)
    video: Any = None

    def to_dict(self) -> dict:
        """Everything but the pictures, ready for JSON."""
        return {
            "query": self.query,
            "spans": [span.to_dict() for span in self.spans],
            "seconds": [float(second) for second in self.seconds],
            "saliency": self.saliency,
            "answer": self.answer,
            "unread": self.unread,
            "notes": self.notes,
            "selection": self.selection.to_dict(),
        }


def find_by_curve(selector: FrameSelector, video: Any, query: str, k: int = 16, most: int = 1) -> Found:
    """Moments at which a dual encoder's relevance stands out, see `spans_of_curve`.

    Raises:
        VideoError: the video cannot be read. EncoderError: there is no dual encoder.
    """
    selection = selector.select(selector.encode(video), query, k, max_side=IMAGE_SIDE)
    looked_at = selection.clip or (0.0, selection.duration)
    return _of_curve(
        query, selection, selection.frames, selection.candidate_seconds, selection.relevance, looked_at, most
    )


def find_by_checkpoint(answerer: VideoAnswerer, video: Any, query: str, k: int | None = None, most: int = 1) -> Found:
    """The same with the relevance of an NTLBG model; make the answerer with `max_new_tokens=1`, its text is not used.

    Raises:
        VideoError: the video cannot be read. ModelError: nothing in the model judges relevance.
    """
    opened = answerer.open(video)
    answer = opened.ask(query, k)
    selection = answer.selection
    if selection.relevance is None:
        raise ModelError(
            "this model has neither a trained relevance nor a scorer, so nothing tells when the query happens; train "
            "it, or leave --model out for a dual encoder"
        )
    looked_at = opened.candidates.clip or (0.0, opened.candidates.duration)
    seconds, relevance = selection.group_timestamps.numpy(), selection.relevance.float().numpy()
    found = _of_curve(query, selection, answer.frames, seconds, relevance, looked_at, most)
    found.video = opened.candidates
    return found


def find_by_numbers(
    answerer: ImageAnswerer, video: Any, query: str, k: int = 16, *, highlights: bool = False, most: int = 1
) -> Found:
    """Ask a model about the chosen frames with their numbers drawn on them, and read its answer strictly.

    The numbers are those of the candidates, so they mean times although only k frames are shown. The confidence is
    the geometric mean of the probabilities the model gave its own tokens. An answer that names no moment gives none.

    Args:
        highlights: ask for frames with scores instead of one span; runs of scored neighbours become the moments.

    Raises:
        VideoError: the video cannot be read. EncoderError: the encoder judges no query.
    """
    selector = answerer.frames
    features = selector.encode(video)
    selection = selector.select(features, query if selector.encoder is not None else None, k, max_side=IMAGE_SIDE)
    selection = dataclasses.replace(selection, frames=number_frames(selection.frames, selection.positions))
    content = [image_part(image) for image in selection.images()]
    content.append({"type": "text", "text": (ASK_HIGHLIGHTS if highlights else ASK_MOMENT).format(query=query)})
    recorder = _Certainty()
    text = answerer._generate([{"role": "user", "content": content}], logits_processor=LogitsProcessorList([recorder]))
    times = NumberFormat(features.candidate_seconds, duration=features.duration)
    found = Found(
        query=query,
        spans=[],
        selection=selection,
        frames=selection.frames,
        seconds=features.candidate_seconds,
        saliency=[None] * len(features.candidate_seconds),
        answer=text,
        notes=list(selection.warnings),
    )
    try:
        if highlights:
            _read_highlights(found, parse_highlights(text, times), recorder.confidence, most)
        else:
            start, end = times.parse_span(text)
            found.spans = [Span(start, end, recorder.confidence, (start + end) / 2, recorder.confidence)]
    except TimeParseError as error:
        found.unread = str(error)
        found.notes.append(f"The model's answer names no moment: {error}.")
    return found


def _read_highlights(found: Found, scored: list[tuple[float, float]], confidence: float, most: int) -> None:
    """Saliency from (seconds, score), and moments from frames that were shown next to each other."""
    places = {float(second): place for place, second in enumerate(found.seconds)}
    for second, score in scored:
        found.saliency[places[second]] = score / 5
    shown = sorted(set(found.selection.positions.tolist()) | {places[second] for second, _ in scored})
    run: list[int] = []
    for place in [*shown, None]:
        if place is not None and found.saliency[place] is not None:
            run.append(place)
        elif run:
            best = max(run, key=lambda at: found.saliency[at])
            start, end = float(found.seconds[run[0]]), float(found.seconds[run[-1]])
            found.spans.append(Span(start, end, confidence, float(found.seconds[best]), 5 * found.saliency[best]))
            run = []
    found.spans = sorted(found.spans, key=lambda span: -span.score)[:most]


def _of_curve(query, selection, frames, seconds, relevance, looked_at, most) -> Found:
    spans = spans_of_curve(relevance, seconds, looked_at, most)
    notes = list(selection.warnings if isinstance(selection, FrameSelection) else selection.notes)
    if not spans:
        notes.append(NOTHING_STANDS_OUT)
    return Found(query, spans, selection, frames, np.asarray(seconds), saliency(relevance), notes=notes)


class _Certainty(LogitsProcessor):
    """Watches greedy decoding: the probability of each token that is about to be taken."""

    def __init__(self):
        self.logs: list[float] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.logs.append(float(torch.log_softmax(scores[0].float(), dim=-1).max()))
        return scores

    @property
    def confidence(self) -> float:
        """Geometric mean over the tokens."""
        return math.exp(sum(self.logs) / max(len(self.logs), 1))


__all__ = ["Found", "find_by_checkpoint", "find_by_curve", "find_by_numbers"]
