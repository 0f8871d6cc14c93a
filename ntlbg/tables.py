"""Times, stretches of time and columns as plain text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


# Columns of words; all others hold numbers and stand to the right.
_WORDS = ("stratum", "stands for")


def clock(seconds: float, tenths: bool = False) -> str:
    """`mm:ss`, `h:mm:ss` from one hour on, with tenths of a second if asked: 75.25 -> "01:15" or "01:15.3"."""
    units = round(seconds * 10) if tenths else round(seconds) * 10
    whole, tenth = divmod(units, 10)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    text = f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute:02d}:{second:02d}"
    return f"{text}.{tenth}" if tenths else text


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned to the right, except words to the left."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    left = [head[column] in _WORDS for column in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(row, widths, left, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def borders(candidate_seconds: np.ndarray, end: float, start: float = 0.0) -> np.ndarray:
    """Seconds (N + 1,) that part what each of the N candidates stands for: the time from its own until the next one's.

    A picture is on the screen until the next one, and a scan's candidates are often the first pictures of shots. The
    first candidate also stands for what is before it, the last one stands until `end`.
    """
    return np.concatenate(
        ([min(start, float(candidate_seconds[0]))], candidate_seconds[1:], [max(end, float(candidate_seconds[-1]))])
    )


def stretches(
    candidate_seconds: np.ndarray, cells: np.ndarray, k: int, end: float, start: float = 0.0
) -> list[list[tuple[float, float]]]:
    """For each representative the stretches of time it stands for, in order; for their `borders`, see there.

    Args:
        candidate_seconds: (N,), in order.
        cells: (N,), which of the k stands for each candidate.
        k: number of representatives.
        end: end of what was looked at, in seconds.
        start: its start, which is not 0 in a clip of a video.

    Returns:
        k lists of (start, stop) seconds; together they tile [start, end] without overlap.
    """
    between = borders(candidate_seconds, end, start)
    found: list[list[tuple[float, float]]] = [[] for _ in range(k)]
    starts = np.flatnonzero(np.concatenate(([True], cells[1:] != cells[:-1])))
    for first, stop in zip(starts, np.append(starts[1:], len(cells)), strict=True):
        found[int(cells[first])].append((float(between[first]), float(between[stop])))
    return found


def stretches_text(found: Sequence[tuple[float, float]], second: float) -> str:
    """The stretch around `second` and how many more there are: "00:10.0 – 00:14.5 and 2 more"."""
    start, stop = next((start, stop) for start, stop in found if start <= second <= stop)
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{clock(start, tenths=True)} – {clock(stop, tenths=True)}{more}"
