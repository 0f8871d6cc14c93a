"""MLVU dev (Zhou et al. 2024, arXiv 2406.04264): the authors' JSON list a task, or the Hub's table of all.

The authors give `candidates` and the right one's text, the Hub a question with lettered lines and a letter.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ntlbg.data.converters.published_files import json_list, split_question
from ntlbg.data.qa_records import BadRow


def read(path: Path) -> Iterator[dict]:
    """The items of a file, or of all JSON files of a folder, each with where it stood as `place`."""
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        for number, item in enumerate(json_list(file), start=1):
            yield {**item, "place": f"{file.stem}#{number}"}


def convert(item: dict) -> list[dict]:
    """One question; without options it is an open one (sub-scene captioning, summary)."""
    item = dict(item)
    video = item.pop("video", None) or item.pop("video_name", None)
    if not video:
        raise BadRow("it names no video (neither 'video' nor 'video_name')")
    question, options = item["question"], item.pop("candidates", None)
    if options is None:
        question, options = split_question(question)
    row = {
        "id": item.pop("place"),
        "video_id": str(PurePosixPath(video).with_suffix("")),
        "video_path": video,
        **item,
        "question": question,
    }
    return [row | {"options": options} if options else row]
