"""Three ways to say in text when something happens, behind one interface: numbers on frames, time tokens, seconds.

`TimeFormat` turns spans of seconds into text that a model can be taught or asked to write, and strictly back. A text
that names no span raises `TimeParseError`; nothing is guessed, and never is the whole video the answer.

| format | a span | error of a time |
|---|---|---|
| `NumberFormat` | From Frame 12 to Frame 20 | half the step between numbered frames, behind the last one all of it |
| `TokenFormat` | <24><40> | below duration / M (the floor rule of Grounded-VideoLLM, arXiv 2410.03290; M = 300) |
| `TextFormat` | 12.0 - 20.0 seconds | below duration / M, by enough decimals |
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ntlbg.errors import InputError
from ntlbg.plain_text import printable


BINS = 300
GROUNDING_TOKEN = "<timestamp_grounding>"

# No digit, and no decimals, may go on where a whole number ends.
_END = r"(?!\d|[.,]\d)"
# Nor does a number begin behind a digit or a minus, or as the end of another span ("10 - 20 - 30 seconds").
_START = r"(?<![\d.,:–-])(?<!\d\s[–-]\s)(?<!\d[–-]\s)(?<!\d\sto\s)"
_FRAMES = re.compile(
    rf"\bfrom\s+(?:frames?\s+)?(\d{{1,9}}){_END}\s*(?:to|-|–)\s*(?:frames?\s+)?(\d{{1,9}}){_END}", re.IGNORECASE
)
_TOKENS = re.compile(r"<(\d{1,9})>")
_SECONDS = re.compile(
    rf"{_START}(\d{{1,9}}(?:\.\d{{1,9}})?)\s*(?:s|sec|seconds)?\s*(?:-|–|to)\s*(\d{{1,9}}(?:\.\d{{1,9}})?){_END}"
    r"\s*(?:s|sec|seconds)\b",
    re.IGNORECASE,
)


class TimeParseError(InputError):
    """A text that names no span of the video."""


class TimeFormat(ABC):
    """How times are written; all seconds are those of the video.

    Attributes:
        duration: seconds of the video.
    """

    duration: float

    @abstractmethod
    def encode(self, second: float) -> str:
        """One time as text.

        Raises:
            ValueError: it lies outside the video.
        """

    @abstractmethod
    def decode(self, text: str) -> float:
        """The seconds that `encode` wrote, up to the format's error.

        Raises:
            TimeParseError: it is not exactly one time of the video.
        """

    def mark(self, start: float, end: float) -> float:
        """The second by which a clip is named: its middle, or what this format can write next to it, within the clip
        if the format can write any time of it."""
        return self._checked((start + end) / 2)

    @abstractmethod
    def encode_span(self, start: float, end: float) -> str:
        """A span as an answer.

        Raises:
            ValueError: it lies outside the video, or ends before it starts.
        """

    @abstractmethod
    def _pairs(self, text: str) -> list[tuple[str, str]]:
        """The pairs of times, each as `decode` takes it, that stand in `text` as spans."""

    @abstractmethod
    def _list(self, times: list[str]) -> str:
        """Single times, each from `encode`, as a list of highlights begins."""

    @abstractmethod
    def _listed(self, text: str) -> list[str]:
        """The single times, each as `decode` takes it, that stand in `text`."""

    def encode_highlights(self, scored: Sequence[tuple[float, float]]) -> str:
        """Times and their saliency as an answer, see `parse_highlights`; of times that are written alike the best.

        Args:
            scored: (seconds, score from 1 to 5) each.

        Raises:
            ValueError: there is none, one lies outside the video, or a score is out of range.
        """
        best: dict[str, float] = {}
        for second, score in scored:
            if not 1 <= score <= 5:
                raise ValueError(f"the score of a highlight lies in 1..5, got {score!r}")
            written = self.encode(second)
            best[written] = max(best.get(written, score), score)
        if not best:
            raise ValueError("there is no highlight to write")
        scores = ", ".join(f"{score:.1f}" for score in best.values())
        return f"Highlights: {self._list(list(best))}; scores {scores}."

    def parse_spans(self, text: str) -> list[tuple[float, float]]:
        """Every span that the text names, in its order, as (start, end) seconds.

        Raises:
            TimeParseError: it names none, or one that lies outside the video or ends before it starts.
        """
        spans = []
        for first, last in self._pairs(text):
            start, end = self.decode(first), self.decode(last)
            if end < start:
                raise TimeParseError(f"the span {first} to {last} ends before it starts")
            spans.append((start, end))
        if not spans:
            raise TimeParseError(f"no span is named in {quoted(text)}; expected is {self.example}")
        return spans

    def parse_span(self, text: str) -> tuple[float, float]:
        """The first span that the text names; metrics of one answer count the first.

        Raises:
            TimeParseError: see `parse_spans`.
        """
        return self.parse_spans(text)[0]

    @property
    def example(self) -> str:
        """A span of this video as it should be written."""
        return repr(self.encode_span(0.0, self.duration / 2))

    def _checked(self, second: float) -> float:
        if not 0 <= second <= self.duration:
            raise ValueError(f"a time of this video lies in 0..{self.duration:g} s, got {second!r}")
        return float(second)

    def _check_span(self, start: float, end: float) -> None:
        if end < start:
            raise ValueError(f"a span ends after it starts, got {start:g} to {end:g} s")


@dataclass(frozen=True)
class NumberFormat(TimeFormat):
    """Numbers of frames, which stand on the frames themselves (`number_frames=True`).

    Args:
        seconds: (N,), when each candidate is shown, ascending; number n is the time of candidate n. True presentation
            times make this right at 29.97 pictures per second and at a variable rate.
        step: how far numbers are apart: `temporal_patch_size` where groups of frames are numbered.
        duration: of the video; the last candidate's time if None.
    """

    seconds: Sequence[float]
    step: int = 1
    duration: float = None  # type: ignore[assignment]

    def __post_init__(self):
        seconds = np.asarray(self.seconds, dtype=np.float64)
        if seconds.ndim != 1 or not len(seconds) or not np.isfinite(seconds).all() or (np.diff(seconds) < 0).any():
            raise ValueError("`seconds` are the ascending times of at least one candidate")
        if self.step < 1:
            raise ValueError(f"`step` is at least 1, got {self.step}")
        object.__setattr__(self, "seconds", seconds)
        object.__setattr__(self, "duration", float(seconds[-1] if self.duration is None else self.duration))

    def encode(self, second: float) -> str:
        """The number of the numbered frame that is nearest in time."""
        distances = np.abs(self.seconds[:: self.step] - self._checked(second))
        return str(int(distances.argmin()) * self.step)

    def mark(self, start: float, end: float) -> float:
        # Of two candidates at the same distance the earlier: the later one begins the next clip.
        return self.decode(self.encode(max(super().mark(start, end) - 1e-6, 0.0)))

    def decode(self, text: str) -> float:
        """The time of a candidate; also of one between numbered frames, where a model may place what it sees."""
        number = _whole(text)
        if number >= len(self.seconds):
            raise TimeParseError(f"there is no frame {number}; the last one is {len(self.seconds) - 1}")
        return float(self.seconds[number])

    def encode_span(self, start: float, end: float) -> str:
        self._check_span(start, end)
        return f"From Frame {self.encode(start)} to Frame {self.encode(end)}"

    def _pairs(self, text: str) -> list[tuple[str, str]]:
        return _FRAMES.findall(text)

    def _list(self, times: list[str]) -> str:
        return f"frames {', '.join(times)}"

    def _listed(self, text: str) -> list[str]:
        return re.findall(rf"(?<![\d.,])\d{{1,9}}{_END}", text)


@dataclass(frozen=True)
class TokenFormat(TimeFormat):
    """Time tokens `<0>` .. `<bins>`, relative to the duration."""

    duration: float
    bins: int = BINS

    def __post_init__(self):
        _check_duration(self.duration, self.bins)

    def encode(self, second: float) -> str:
        """`<k>`, k = floor(t / duration * bins)."""
        # The last digits of a product must not carry a border, which decodes to itself, into the bin below.
        return f"<{math.floor(self._checked(second) / self.duration * self.bins + 1e-9)}>"

    def mark(self, start: float, end: float) -> float:
        # The floor rule would carry the middle of a clip shorter than two bins into the clip before it.
        share = super().mark(start, end) / self.duration
        return self.duration * (math.ceil(share * self.bins - 0.5 - 1e-9) / self.bins)

    def decode(self, text: str) -> float:
        found = re.fullmatch(r"<(\d{1,9})>", text.strip(" "))
        if found is None or int(found[1]) > self.bins:
            raise TimeParseError(f"a time token is one of <0> .. <{self.bins}>, got {quoted(text)}")
        return self.duration * (int(found[1]) / self.bins)

    def encode_span(self, start: float, end: float) -> str:
        self._check_span(start, end)
        return self.encode(start) + self.encode(end)

    def _pairs(self, text: str) -> list[tuple[str, str]]:
        tokens = [f"<{number}>" for number in _TOKENS.findall(text)]
        if len(tokens) % 2:
            raise TimeParseError(f"time tokens come in pairs, but there are {len(tokens)} in {quoted(text)}")
        return list(zip(tokens[::2], tokens[1::2], strict=True))

    def _list(self, times: list[str]) -> str:
        return ", ".join(times)

    def _listed(self, text: str) -> list[str]:
        return [f"<{number}>" for number in _TOKENS.findall(text)]


@dataclass(frozen=True)
class TextFormat(TimeFormat):
    """Absolute seconds as text; as many decimals as keep the error below duration / bins, one at least."""

    duration: float
    bins: int = BINS

    def __post_init__(self):
        _check_duration(self.duration, self.bins)

    @property
    def decimals(self) -> int:
        """Digits behind the point: half of the last one is less than duration / bins."""
        return min(9, max(1, math.floor(math.log10(self.bins / (2 * self.duration))) + 1))

    def encode(self, second: float) -> str:
        return f"{self._checked(second):.{self.decimals}f}"

    def decode(self, text: str) -> float:
        if not re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", text):
            raise TimeParseError(f"a time is a number of seconds, got {quoted(text)}")
        second = float(text)
        # The end of a video may be rounded up.
        if second > self.duration + 10.0**-self.decimals:
            raise TimeParseError(f"{text} s lies behind the end of the video at {self.duration:g} s")
        return min(second, self.duration)

    def encode_span(self, start: float, end: float) -> str:
        self._check_span(start, end)
        return f"{self.encode(start)} - {self.encode(end)} seconds"

    def _pairs(self, text: str) -> list[tuple[str, str]]:
        return _SECONDS.findall(text)

    def _list(self, times: list[str]) -> str:
        return f"{', '.join(times)} seconds"

    def _listed(self, text: str) -> list[str]:
        return re.findall(rf"(?<![\d.,:–-])\d{{1,9}}(?:\.\d{{1,9}})?{_END}", text)


def parse_highlights(text: str, times: TimeFormat) -> list[tuple[float, float]]:
    """(seconds, score) of each time that an answer calls a highlight.

    Read is "Highlights: frames 80, 81; scores 1.3, 1.5." (or tokens, or seconds): a list of times, the word "scores",
    and as many scores from 1 to 5. So the longer sentence that NumPro asks for is read, too.

    Raises:
        TimeParseError: there is no such list, the two have different lengths, a time stands twice, or one is out of
            range.
    """
    first, said, last = re.sub(r"\s+", " ", text).partition("scores")
    listed = [times.decode(time) for time in times._listed(first)]
    scores = [float(score) for score in re.findall(r"(?<![\d.])\d{1,3}(?:\.\d{1,3})?(?![\d])", last)]
    if not said or not listed or len(listed) != len(scores):
        raise TimeParseError(f"no list of times with as many scores stands in {quoted(text)}")
    if len(set(listed)) != len(listed):
        raise TimeParseError(f"a time is scored twice in {quoted(text)}")
    if not all(1 <= score <= 5 for score in scores):
        raise TimeParseError(f"scores lie in 1..5, but there are others in {quoted(text)}")
    return list(zip(listed, scores, strict=True))


def _check_duration(duration: float, bins: int) -> None:
    if not 0 < duration < math.inf:
        raise ValueError(f"`duration` is a positive number of seconds, got {duration!r}")
    if bins < 1:
        raise ValueError(f"`bins` is at least 1, got {bins}")


def _whole(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise TimeParseError(f"a frame has a whole number, got {quoted(text)}")
    return int(text)


def quoted(text: str, longest: int = 80) -> str:
    """A model's words for a message of one line."""
    line = " ".join(printable(text).split())
    return repr(line if len(line) <= longest else line[: longest - 1] + "…")


__all__ = [
    "BINS",
    "GROUNDING_TOKEN",
    "NumberFormat",
    "TextFormat",
    "TimeFormat",
    "TimeParseError",
    "TokenFormat",
    "parse_highlights",
    "quoted",
]
