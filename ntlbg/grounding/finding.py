"""When something happens in a video: by a relevance curve, or by times that a model writes.

`find_by_curve` needs a dual encoder; `find_by_checkpoint` an NTLBG checkpoint with a span head, with a trained
relevance or with a scorer; `find_by_numbers` any vision-language model of transformers that takes several images, and
no training; `find_by_text` an NTLBG model, which should have learnt the time format.
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
from ntlbg.grounding.tasks import GroundedText, Grounding, read_grounded
from ntlbg.grounding.time_tokens import check_time_tokens
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.processors.frame_numbers_ntlbg import number_frames
from ntlbg.selection.answers import ModelError
from ntlbg.selection.api import FrameSelector
from ntlbg.selection.chat import image_part
from ntlbg.selection.features import CandidateFeatures, FrameSelection
from ntlbg.selection.image_answering import IMAGE_SIDE, ImageAnswerer
from ntlbg.selection.video_answering import OpenVideo, VideoAnswerer


# A span head's confidence is the IoU it expects of its moment; below this it expects to miss.
LEAST_CONFIDENCE = 0.3

NOTHING_STANDS_OUT = "No moment stands out from the rest of the video for this query."


@dataclass
class Found:
    """The moments that were found for one query, and what they rest on.

    Args:
        query: as given.
        spans: the moments, the surest first; empty where none was found.
        selection: the frames or groups chosen for the query.
        frames: one picture per representative, uint8 (H, W, 3).
        seconds: (T,), the candidates' times: of frames when they are shown, of groups when they begin.
        saliency: (T,), in [0, 1], of a curve or a span head; of an answer the scores / 5, None where a frame got none.
        answer: what the model said, if one was asked.
        said: what of it was read, or None.
        unread: why it cannot be read, or None.
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
    said: GroundedText | None = None
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

    Args:
        video: as `FrameSelector.encode` takes it, or what that made of it.

    Raises:
        VideoError: the video cannot be read. EncoderError: there is no dual encoder.
    """
    features = video if isinstance(video, CandidateFeatures) else selector.encode(video)
    selection = selector.select(features, query, k, max_side=IMAGE_SIDE)
    looked_at = selection.clip or (0.0, selection.duration)
    return _of_curve(
        query, selection, selection.frames, selection.candidate_seconds, selection.relevance, looked_at, most
    )


def find_by_checkpoint(answerer: VideoAnswerer, video: Any, query: str, k: int | None = None, most: int = 1) -> Found:
    """`find_by_relevance` in a video that is opened for it.

    Raises:
        VideoError: the video cannot be read. ModelError: nothing in the model judges relevance.
    """
    return find_by_relevance(answerer.open(video), query, k, most)


def find_by_relevance(opened: OpenVideo, query: str, k: int | None = None, most: int = 1) -> Found:
    """The same with an NTLBG model: by its span head, or, without one, by its relevance; make the answerer with
    `max_new_tokens=1`, its text is not used.

    Raises:
        ModelError: nothing in the model judges relevance.
    """
    answer = opened.ask(query, k)
    selection = answer.selection
    if selection.moment_spans is not None:
        found = _of_head(query, selection, answer.frames, opened.candidates, most)
        found.video = opened.candidates
        return found
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
        video: as `FrameSelector.encode` takes it, or what that made of it.
        highlights: ask for frames with scores instead of one span; runs of scored neighbours become the moments.

    Raises:
        VideoError: the video cannot be read. EncoderError: the encoder judges no query.
    """
    selector, grounding, task = answerer.frames, Grounding("numbers"), "highlights" if highlights else "moment"
    features = video if isinstance(video, CandidateFeatures) else selector.encode(video)
    selection = selector.select(
        features, query if selector.encoder is not None else None, k, selector=answerer.selector, max_side=IMAGE_SIDE
    )
    selection = dataclasses.replace(selection, frames=number_frames(selection.frames, selection.positions))
    content = [image_part(image) for image in selection.images()]
    content.append({"type": "text", "text": grounding.prompt(task, {"question": query})})
    recorder = _Certainty()
    text = answerer._generate([{"role": "user", "content": content}], logits_processor=LogitsProcessorList([recorder]))
    seconds = features.candidate_seconds
    found = Found(query, [], selection, selection.frames, seconds, [None] * len(seconds), notes=selection.warnings[:])
    times = grounding.times(features.duration, seconds, 1)
    return _read(found, task, text, times, recorder.confidence, most, selection.positions.tolist())


def find_by_text(
    opened: OpenVideo, row: dict, grounding: Grounding, task: str, k: int | None = None, most: int = 1
) -> Found:
    """Ask an NTLBG model about an opened video as it is asked in training, and read its answer strictly.

    With numbers, the processor should draw them (`number_frames`) when the video is opened. The confidence is that of
    `find_by_numbers`.

    Args:
        row: with `question`, and `options` and `duration` where it has them.

    Raises:
        InputError: the tokenizer lacks the time tokens that the format needs.
    """
    processor, candidates, recorder = opened.answerer.processor, opened.candidates, _Certainty()
    if grounding.time_format == "tokens":
        check_time_tokens(processor.tokenizer, grounding.bins)
    prompt = grounding.prompt(task, row)
    answer = opened.ask(row["question"], k, prompt=prompt, logits_processor=LogitsProcessorList([recorder]))
    seconds, selection = candidates.timestamps, answer.selection
    found = Found(
        row["question"],
        [],
        selection,
        answer.frames,
        seconds,
        [None] * len(seconds),
        notes=answer.notes,
        video=candidates,
    )
    step = processor.video_processor.temporal_patch_size
    times = grounding.times(row.get("duration", candidates.duration), seconds, step)
    return _read(found, task, answer.text, times, recorder.confidence, most, selection.candidate_indices.tolist())


def _read(found: Found, task: str, text: str, times, confidence: float, most: int, shown: list[int]) -> Found:
    """`found` with what the answer says; `shown` are the positions of the frames that the model saw."""
    found.answer = text
    found.said, found.unread = read_grounded(task, text, times)
    if found.said is None:
        found.notes.append(f"The model's answer names no moment: {found.unread}.")
    elif task == "highlights":
        _place_highlights(found, confidence, most, shown)
    else:
        if not found.said.spans:
            found.notes.append("The model's answer is that it happens nowhere.")
        spans = [Span(start, end, confidence, (start + end) / 2, confidence) for start, end in found.said.spans]
        found.spans = spans[:most]
    return found


def _place_highlights(found: Found, confidence: float, most: int, shown: list[int]) -> None:
    """Saliency of the candidates nearest to the times, and moments from those that were shown next to each other."""
    for second, score in found.said.highlights:
        place = int(np.abs(found.seconds - second).argmin())
        found.saliency[place] = max(found.saliency[place] or 0.0, score / 5)
    scored = {place for place, score in enumerate(found.saliency) if score is not None}
    run: list[int] = []
    for place in [*sorted(set(shown) | scored), None]:
        if place is not None and found.saliency[place] is not None:
            run.append(place)
        elif run:
            best = max(run, key=lambda at: found.saliency[at])
            start, end = float(found.seconds[run[0]]), float(found.seconds[run[-1]])
            found.spans.append(Span(start, end, confidence, float(found.seconds[best]), 5 * found.saliency[best]))
            run = []
    found.spans = sorted(found.spans, key=lambda span: -span.score)[:most]


def _of_head(query: str, selection: Selection, frames, candidates, most: int) -> Found:
    """What a span head found; its last group lasts as long as the one before it, but no longer than the video."""
    seconds, shown = selection.group_timestamps.numpy(), selection.saliency.numpy()
    last = max((candidates.clip or (0.0, candidates.duration))[1], float(seconds[-1]))
    spans = []
    for (start, end), confidence in zip(
        selection.moment_spans.tolist(), selection.moment_confidences.tolist(), strict=True
    ):
        if confidence < LEAST_CONFIDENCE or len(spans) == most:
            break
        # Of the groups that are on screen in it, the one that shows best what was asked for.
        inside = (seconds < end) & (np.append(seconds[1:], last) > start)
        peak = float(seconds[int(np.where(inside, shown, -1.0).argmax())])
        spans.append(Span(min(start, last), min(end, last), confidence, peak, confidence))
    notes = list(selection.notes) if spans else [*selection.notes, NOTHING_STANDS_OUT]
    return Found(query, spans, selection, frames, seconds, shown.tolist(), notes=notes)


def _of_curve(query, selection, frames, seconds, relevance, looked_at, most) -> Found:
    spans = spans_of_curve(relevance, seconds, looked_at, most, groups=isinstance(selection, Selection))
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


__all__ = ["Found", "find_by_checkpoint", "find_by_curve", "find_by_numbers", "find_by_relevance", "find_by_text"]
