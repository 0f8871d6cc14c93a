"""Video-MME (Fu et al. 2024, arXiv 2405.21075): the Hub's rows (Parquet), or a JSON list with `questions` a video.

Its `duration` is a class (short, medium, long), so that seconds have to come from the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ntlbg.data.converters.published_files import bare_options, json_list
from ntlbg.data.qa_records import BadRow


def read(path: Path) -> Iterator[dict]:
    """One object a question."""
    for item in json_list(path):
        item = dict(item)
        for question in item.pop("questions", [{}]):
            yield {**item, **question}


def convert(item: dict) -> list[dict]:
    """One question. Videos are named by their YouTube name where there is one, as their files are."""
    item = dict(item)
    options = bare_options(list(item.pop("options")))
    number, name = item.pop("video_id"), item.pop("videoID", None)
    answer = item.pop("answer")
    if not isinstance(answer, str) or len(answer) != 1:
        raise BadRow(f"the answer is no letter ({answer!r})")
    return [
        {
            "id": item.pop("question_id"),
            "video_id": name or number,
            "video_number": number,
            "duration_class": item.pop("duration"),
            "options": options,
            "answer": answer,
            **item,
        }
    ]
