"""Charades-STA (Gao et al. 2017, arXiv 1705.02101): a line `VIDEO start end##sentence` a moment, in seconds.

Durations have to come from the files; some moments end after their video.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ntlbg.data.converters.moments import moment_row
from ntlbg.data.qa_records import BadRow


def read(path: Path) -> Iterator[dict]:
    """One object a line that is not blank: its number and its text.

    Raises:
        ValueError: no line is of that form.
    """
    lines = path.read_text("utf-8").splitlines()
    if not any("##" in line for line in lines):
        raise ValueError("no line has ##")
    yield from ({"line": number, "text": line} for number, line in enumerate(lines, start=1) if line.strip())


def convert(item: dict) -> list[dict]:
    """One moment."""
    head, _, sentence = item["text"].partition("##")
    parts = head.split()
    if len(parts) != 3:
        raise BadRow(f"the line is not `VIDEO start end##sentence` ({item['text']!r})")
    video, start, end = parts[0], float(parts[1]), float(parts[2])
    return [
        {
            **moment_row(sentence.strip(), [[start, end]]),
            "id": f"{video}#{item['line']}",
            "video_id": video,
        }
    ]
