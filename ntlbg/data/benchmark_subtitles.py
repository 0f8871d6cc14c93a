"""Subtitles as benchmarks publish them: .srt and .vtt, and LongVideoBench's JSON in its two forms."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from pathlib import Path
from typing import Any

from ntlbg.selection.subtitles import MAX_BYTES, SubtitleError, Subtitles


SUBTITLE_SUFFIXES = (".srt", ".vtt", ".json")

_CLOCK = re.compile(r"(\d{1,4}):([0-5]?\d):([0-5]?\d(?:[.,]\d{1,9})?)")


def benchmark_subtitles(path: str | os.PathLike, offset: float = 0.0, duration: float | None = None) -> Subtitles:
    """
    The cues of one file.

    Args:
        path: .srt or .vtt; or .json: a list of {"timestamp": [start, end], "text"} or {"start", "end", "line"}.
        offset: seconds of the file at which the video begins (LongVideoBench: starting_timestamp_for_subtitles); cues
            before it are left out.
        duration: of the video; when a cue ends that does not say so.

    Raises:
        SubtitleError: it cannot be read, or holds no cues.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        return Subtitles.of(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SubtitleError(
                f"the subtitles {path.name!r} have more than {MAX_BYTES // 2**20} MiB; give one video's"
            )
        items = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SubtitleError(f"the subtitles {str(path)!r} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SubtitleError(f"the subtitles {path.name!r} are no JSON; give them as published") from error
    items = items if isinstance(items, list) else [items]
    cues, broken = [], 0
    for item in items:
        try:
            start, end = item["timestamp"] if "timestamp" in item else (item["start"], item["end"])
            text = item["text"] if "text" in item else item["line"]
            begin = _seconds(start) - offset
            # The last cue of some files goes on to the end.
            last = (begin if duration is None else duration) if end is None else _seconds(end) - offset
        except (KeyError, TypeError, ValueError):
            broken += 1
            continue
        if not isinstance(text, str) or not math.isfinite(begin + last):
            broken += 1
        elif max(begin, last) >= 0:
            cues.append({"start": max(begin, 0.0), "end": max(begin, last), "text": text})
    subtitles = Subtitles.of_cues(cues, path.name)
    if not broken:
        return subtitles
    told = f"{broken} of the {len(items)} cues of {path.name!r} have no readable times or text: left out."
    return dataclasses.replace(subtitles, warnings=(*subtitles.warnings, told))


def _seconds(value: Any) -> float:
    if isinstance(value, str) and (found := _CLOCK.fullmatch(value.strip())):
        return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3].replace(",", "."))
    return float(value)


__all__ = ["SUBTITLE_SUFFIXES", "benchmark_subtitles"]
