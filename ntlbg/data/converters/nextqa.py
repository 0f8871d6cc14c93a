"""NExT-QA, multiple choice (Xiao et al. 2021, arXiv 2105.08276): a CSV row a question, with options a0 ... a4.

It counts frames but names no rate, so that seconds have to come from the files.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from ntlbg.data.qa_records import BadRow


OPTIONS = ("a0", "a1", "a2", "a3", "a4")
COLUMNS = ("video", "question", "answer", "qid", "type", *OPTIONS)


def read(path: Path) -> Iterator[dict]:
    """The rows' objects, all values as text.

    Raises:
        ValueError: a column is missing.
    """
    table = csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline=""))
    if missing := set(COLUMNS) - set(table.fieldnames or ()):
        raise ValueError(f"no columns {sorted(missing)}")
    yield from table


def convert(item: dict) -> list[dict]:
    """One question; `frame_count`, `width`, `height`, `qid` and `type` stay in metadata."""
    item = dict(item)
    options = [item.pop(name) for name in OPTIONS]
    answer, video = item.pop("answer"), item.pop("video")
    if answer not in ("0", "1", "2", "3", "4"):
        raise BadRow(f"the answer is no number from 0 to 4 ({answer!r})")
    right = int(answer)
    if None in options or not options[right].strip():
        raise BadRow("an option is missing or empty")
    return [
        {
            "id": f"{video}_{item['qid']}",
            "video_id": video,
            "options": options,
            "answer_index": right,
            "answer": options[right].strip(),
            **item,
        }
    ]
