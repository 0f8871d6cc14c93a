"""LongVideoBench (Wu et al. 2024, arXiv 2407.15754): lvb_val.json, or the Hub's rows with option0 ... option4."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ntlbg.data.converters.published_files import json_list
from ntlbg.data.qa_records import BadRow


NO_OPTION = "N/A"  # fills the Hub's five columns


def read(path: Path) -> Iterator[dict]:
    """The items of a JSON list, or the rows of the Hub's Parquet file."""
    yield from json_list(path)


def convert(item: dict) -> list[dict]:
    """One question. `position`, the evidence's frame numbers, stays in metadata: their times need the file's rate."""
    item = dict(item)
    options = item.pop("candidates", None)
    if options is None:
        columns = [item.pop(f"option{number}", NO_OPTION) for number in range(5)]
        options = [option for option in columns if option != NO_OPTION]
    right = item.pop("correct_choice", None)
    if not isinstance(right, int) or not 0 <= right < len(options):
        raise BadRow(f"there is no right answer among {len(options)} options (correct_choice {right!r})")
    return [{**item, "options": options, "answer_index": right, "answer": options[right]}]
