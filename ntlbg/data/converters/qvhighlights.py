"""QVHighlights (Lei et al. 2021, arXiv 2107.09609): a JSONL line a query, with windows and three scores a 2-s clip."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ntlbg.data.converters.moments import moment_row
from ntlbg.data.qa_records import BadRow


CLIP_SECONDS = 2.0


def read(path: Path) -> Iterator[dict]:
    """The lines' objects."""
    yield from (json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip())


def convert(item: dict) -> list[dict]:
    """One query with its moments and its clips' saliency."""
    item = dict(item)
    if not item.get("relevant_windows"):
        raise BadRow("there are no relevant_windows (the test split keeps them)")
    row = moment_row(item.pop("query"), item.pop("relevant_windows"))
    if "saliency_scores" in item:
        ids, scores = item.pop("relevant_clip_ids"), item.pop("saliency_scores")
        row["saliency"] = {"clip_len": CLIP_SECONDS, "clip_ids": ids, "scores": scores}
    return [{**row, "id": item.pop("qid"), "video_id": item.pop("vid"), **item}]
