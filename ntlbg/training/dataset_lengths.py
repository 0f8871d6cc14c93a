"""How long the videos of a data set are, and which level they ask for."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ntlbg.errors import InputError, first_sentence
from ntlbg.training.tiers import LEVELS, Level, level_of


# Upper ends of the histogram's bins, in minutes; those of the levels are among them.
BIN_MINUTES = (1, 2, 5, 10, 20, 40, 60, 120, math.inf)


@dataclass(frozen=True)
class Lengths:
    r"""
    Args:
        seconds: of each video (or clip of it) once, however many questions there are about it.
        rows: lines read.
        probed: videos whose length was read from the file, as the row has none.
        bad: for each row without a length, its line and why.
    """

    seconds: list[float]
    rows: int
    probed: int
    bad: list[tuple[int, str]]

    def histogram(self) -> list[tuple[float, float, int]]:
        """(from, to, videos) in minutes, for each bin."""
        edges = (0, *BIN_MINUTES)
        counts = Counter(next(i for i, top in enumerate(BIN_MINUTES) if value / 60 < top) for value in self.seconds)
        return [(edges[i], top, counts[i]) for i, top in enumerate(BIN_MINUTES)]

    def quantile(self, share: float) -> float:
        """Seconds below which about this share of the videos lie."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def level(self) -> Level:
        """The level for all but the longest twentieth of the videos; the lowest for short ones."""
        return level_of(self.quantile(0.95)) or LEVELS["moderate_long"]

    def shares(self) -> dict[str, float]:
        """Share of the videos in the range of each level, and "shorter"."""
        names = Counter(level.name if (level := level_of(value)) else "shorter" for value in self.seconds)
        return {name: names[name] / len(self.seconds) for name in ("shorter", *LEVELS)}


def read_lengths(path: str | Path, video_root: str | Path | None = None) -> Lengths:
    """The lengths in a JSONL file: `clip`, else `duration`, else that of the file the row names.

    Args:
        video_root: folder that relative video paths start from; the file's own by default.

    Raises:
        InputError: the file cannot be read, or no row has a length.
    """
    path = Path(path)
    root = path.parent if video_root is None else Path(video_root)
    seconds: dict[str, float] = {}
    bad: list[tuple[int, str]] = []
    rows = probed = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                rows += 1
                try:
                    row = _row(line)
                    key, value = _given(row)
                    if key in seconds:
                        continue
                    if value is None:
                        value, probed = _probed(row, root), probed + 1
                    seconds[key] = value
                except InputError as error:
                    bad.append((number, str(error)))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the data set {str(path)!r} cannot be read ({first_sentence(error)})") from error
    if not seconds:
        why = f"; line {bad[0][0]}: {bad[0][1]}" if bad else ""
        raise InputError(f"no row of {str(path)!r} ({rows} rows) has a length{why}")
    return Lengths(list(seconds.values()), rows, probed, bad)


def _row(line: str) -> dict:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError("the line is not JSON") from error
    if not isinstance(row, dict):
        raise InputError(f"a row is an object, but this is a {type(row).__name__}")
    return row


def _is_seconds(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _given(row: dict) -> tuple[str, float | None]:
    """What tells a row's video (or clip) from others, and its length if the row says it."""
    name = str(row.get("video_path") or row.get("video_id") or row.get("id"))
    clip, duration = row.get("clip"), row.get("duration")
    if clip is not None:
        if not (isinstance(clip, list) and len(clip) == 2 and all(_is_seconds(end) or end == 0 for end in clip)):
            raise InputError(f"'clip' should be [start, end] in seconds, but is {clip!r}")
        if clip[1] <= clip[0]:
            raise InputError(f"'clip' ends before it starts: {clip!r}")
        return f"{name} {clip}", float(clip[1] - clip[0])
    if duration is not None and not _is_seconds(duration):
        raise InputError(f"'duration' should be a number of seconds above 0, but is {duration!r}")
    return name, None if duration is None else float(duration)


def _probed(row: dict, root: Path) -> float:
    from ntlbg.processors.video_decoding_ntlbg import open_video
    from ntlbg.processors.video_source_ntlbg import VideoError

    name = row.get("video_path") or row.get("video_id")
    if not isinstance(name, str):
        raise InputError("the row has neither 'duration' nor 'video_path'")
    try:
        with open_video(str(root / name)) as video:
            return float(video.duration)
    except VideoError as error:
        raise InputError(str(error)) from error
