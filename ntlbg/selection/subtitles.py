"""Subtitles (SubRip .srt, WebVTT .vtt): what is said when, told at the frame it belongs to.

An own parser: those of PyPI drop a cue with broken times without a word, or take it for text of the cue before.
What is left out here is counted, with the line of the first. Times are seconds.
"""

from __future__ import annotations

import html
import os
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path

from ntlbg.errors import InputError
from ntlbg.plain_text import printable


# A day of speech takes about 2 MB.
MAX_BYTES = 16 * 2**20

_TIME = r"(?:(\d{1,4}):)?([0-5]?\d):([0-5]?\d)(?:[.,](\d{1,3}))?"
_TIMING = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?", re.DOTALL)
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?\s([^<>]+)>")
# Markup, and what a chat template would take for its own: <i>, </c.yellow>, <00:01.000>, <|im_end|>; {\an8}.
_TAG = re.compile(r"<[/|!?\w][^<>]*>|\{\\[^{}]*\}")
# Captions that roll repeat the line before; with so many seconds between them two cues are one stream of speech.
_ROLLING_GAP = 0.1
_ROLLING_LINES = 4


class SubtitleError(InputError):
    """Subtitles that cannot be used; one sentence: what is wrong, what came, how to fix it."""


@dataclass(frozen=True)
class Cue:
    """A text and when it is shown: `start` <= `end` in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Subtitles:
    """The cues of one file.

    Args:
        cues: in the order of their start.
        name: of the file.
        warnings: what was left out or guessed, with counts.
    """

    cues: tuple[Cue, ...]
    name: str
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, source: str | os.PathLike | Sequence[dict] | Subtitles) -> Subtitles:
        """`source` itself, what the file of that name holds, or cues as rows of data hold them (see `of_cues`).

        Raises:
            SubtitleError: it cannot be read, is larger than `MAX_BYTES`, or holds no cues.
        """
        if isinstance(source, Subtitles):
            return source
        if isinstance(source, list | tuple):
            return cls.of_cues(source)
        if not isinstance(source, str | os.PathLike):
            raise SubtitleError(f"subtitles are a .srt or .vtt file, got {type(source).__name__}; give its name")
        path = Path(source)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise SubtitleError(f"the subtitles {str(path)!r} cannot be read: {error.strerror}") from error
        if len(data) > MAX_BYTES:
            raise SubtitleError(
                f"the subtitles {path.name!r} have more than {MAX_BYTES // 2**20} MiB; give the .srt or .vtt file of "
                "one video"
            )
        text, warnings = _decoded(data, path.name)
        return cls.parse(text, path.name, warnings)

    @classmethod
    def of_cues(cls, cues: Sequence[dict], name: str = "subtitles") -> Subtitles:
        """Cues as {"start", "end", "text"}, in any order.

        Raises:
            SubtitleError: there are none, or one has no text or times.
        """
        made = []
        for number, cue in enumerate(cues, start=1):
            try:
                start, end, said = float(cue["start"]), float(cue["end"]), _plain(cue["text"])
            except (KeyError, TypeError, ValueError) as error:
                raise SubtitleError(f"cue {number} of {name!r} has not start, end and text: {cue!r}") from error
            if not 0 <= start <= end < float("inf"):
                raise SubtitleError(
                    f"cue {number} of {name!r} should have 0 <= start <= end, got {start:g} to {end:g}"
                )
            if said:
                made.append(Cue(start, end, said))
        if not made:
            raise SubtitleError(f"the subtitles {name!r} hold no cues; give those of a video that has some")
        return cls(tuple(sorted(made, key=lambda cue: cue.start)), name)

    @classmethod
    def parse(cls, text: str, name: str = "subtitles", warnings: Sequence[str] = ()) -> Subtitles:
        """The cues in the text of a .srt or .vtt file; which of them it is, its first line says.

        Raises:
            SubtitleError: there are no cues.
        """
        lines = text.removeprefix("\ufeff").splitlines()
        web = next((line for line in lines if line.strip()), "").startswith("WEBVTT")
        marks = [number for number, line in enumerate(lines) if "-->" in line]
        cues, broken, rolled = [], [], 0
        last, last_lines = None, []
        for mark, following in pairwise([*marks, len(lines)]):
            times = _times(lines[mark])
            if times is None:
                broken.append(mark + 1)
                continue
            said = _body(lines[mark + 1 : following], web, following < len(lines))
            if last is not None and times[0] <= last[1] + _ROLLING_GAP:
                repeated = _repeated(last_lines, said, brief=times[1] - times[0] <= _ROLLING_GAP)
            else:
                repeated = 0
            last, last_lines = times, said
            rolled += repeated
            if said[repeated:]:
                cues.append(Cue(*times, " ".join(said[repeated:])))
        notes = list(warnings)
        if broken:
            what = "1 cue has" if len(broken) == 1 else f"{len(broken)} cues have"
            notes.append(f"{what} no readable times in {name!r}, first in line {broken[0]}: left out.")
        if rolled:
            notes.append(f"{rolled} lines of {name!r} that roll on from the cue before are told once.")
        if not cues:
            raise SubtitleError(
                f"the subtitles {name!r} hold no cues"
                + (f", and {len(broken)} with times that cannot be read" if broken else "")
                + "; give a .srt or .vtt file"
            )
        return cls(tuple(sorted(cues, key=lambda cue: cue.start)), name, tuple(notes))

    def told_at(
        self,
        seconds: Sequence[float],
        duration: float,
        within: float | None = None,
        clip: tuple[float, float] | None = None,
    ) -> tuple[list[list[Cue]], list[str]]:
        """What is told at each of the chosen times: the cues nearest to it, each cue once.

        A cue that is shown at a chosen time is nearest to that one; between two it belongs to the nearer. So with
        `within=0` a frame is told what is on the screen with it, as LongVideoBench and Video-MME do.

        Args:
            seconds: (k,), the chosen times in order.
            duration: of the video.
            within: leave out cues more than so many seconds from every chosen time; None tells all.
            clip: the seconds (start, end) of the video that were looked at, if not all; what is said outside is left
                out.

        Returns:
            k lists of cues in the order of time, and notes on what was guessed or left out.

        Raises:
            SubtitleError: `within` is negative.
        """
        if within is not None and not within >= 0:
            raise SubtitleError(f"the seconds around a frame are at least 0, got {within}")
        times = [float(second) for second in seconds]
        told: list[list[Cue]] = [[] for _ in times]
        far = outside = 0
        for cue in self.cues:
            if clip is not None and (cue.end < clip[0] or cue.start > clip[1]):
                outside += 1
                continue
            at = bisect_left(times, cue.start)
            near = [number for number in (at - 1, at) if 0 <= number < len(times)]
            distances = [max(cue.start - times[number], times[number] - cue.end, 0.0) for number in near]
            best = distances.index(min(distances))
            if within is not None and distances[best] > within:
                far += 1
            else:
                told[near[best]].append(cue)
        notes = list(self.warnings)
        late = sum(cue.start > duration for cue in self.cues)
        if late:
            notes.append(
                f"{late} of the {len(self.cues)} cues of {self.name!r} begin after the end of the video "
                f"({duration:.1f} s): they may belong to another one."
            )
        if outside:
            notes.append(
                f"{outside} of the {len(self.cues)} cues of {self.name!r} lie outside of what was looked at and were "
                "left out."
            )
        if far:
            notes.append(
                f"{far} of the {len(self.cues)} cues of {self.name!r} are more than {within:g} s from every chosen "
                "moment and were left out."
            )
        return told, notes


def _decoded(data: bytes, name: str) -> tuple[str, list[str]]:
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            try:
                return data.decode(encoding), []
            except UnicodeDecodeError as error:
                raise SubtitleError(
                    f"the subtitles {name!r} begin as {encoding} and cannot be read as such ({error.reason} at byte "
                    f"{error.start}); save them as UTF-8"
                ) from error
    if b"\0" in data:
        raise SubtitleError(f"the subtitles {name!r} hold zero bytes, so they are no text; save them as UTF-8")
    try:
        return data.decode("utf-8"), []
    except UnicodeDecodeError:
        # What most programs that wrote "Latin-1" meant; it reads every file, and may be wrong.
        text = data.decode("cp1252", errors="replace")
        return text, [
            f"{name!r} is no UTF-8 and was read as Latin-1 (Windows-1252); if it is garbled, save it as UTF-8."
        ]


def _times(line: str) -> tuple[float, float] | None:
    found = _TIMING.fullmatch(line)
    if found is None:
        return None
    values = [(found[at], found[at + 1], found[at + 2], (found[at + 3] or "0").ljust(3, "0")) for at in (1, 5)]
    start, end = (int(h or 0) * 3600 + int(m) * 60 + int(s) + int(ms) / 1000 for h, m, s, ms in values)
    return (start, end) if start <= end else None


def _body(lines: list[str], web: bool, another_follows: bool) -> list[str]:
    """The lines said by a cue, of those between its times and the next cue's."""
    if web:
        # A blank line ends the cue; what follows are comments, styles, and the name of the next cue.
        lines = list(takewhile(str.strip, lines))
    elif another_follows and lines and lines[-1].strip().isdecimal():
        # SubRip: the number of the next cue. Blank lines inside a text are common.
        lines = lines[:-1]
    spoken = (line for line in lines if line.strip())
    return [said for line in spoken if (said := _plain(html.unescape(line) if web else line))]


def _plain(line: str) -> str:
    """A line without markup; what could steer a chat template or a terminal taken out."""
    bare = _TAG.sub("", _VOICE.sub(r"\1: ", line))
    if _TAG.search(bare):
        # Tags in tags are nothing a subtitle needs: no bracket stays.
        bare = re.sub(r"[<>{}]", "", bare)
    return printable(" ".join(bare.split()))


def _repeated(before: list[str], lines: list[str], *, brief: bool) -> int:
    """How many of the first `lines` only repeat the last ones of the cue before, as rolling captions do.

    A whole cue that repeats is speech, unless it is too brief to be read.
    """
    for count in range(min(len(before), len(lines), _ROLLING_LINES), 0, -1):
        if lines[:count] == before[-count:] and (count < len(lines) or brief):
            return count
    return 0
