"""ActivityNet Captions (Krishna et al. 2017, arXiv 1705.00754): {"v_ID": {duration, timestamps, sentences}}."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ntlbg.data.converters.moments import moment_row
from ntlbg.data.qa_records import BadRow


def read(path: Path) -> Iterator[dict]:
    """One object a video, with its name as `video_id`."""
    for name, item in json.loads(path.read_text("utf-8")).items():
        yield {"video_id": name, **item}


def convert(item: dict) -> list[dict]:
    """One row a sentence; metadata tells which of how many, so that a video's rows are its dense captions."""
    spans, sentences = item["timestamps"], item["sentences"]
    if len(spans) != len(sentences):
        raise BadRow(f"there are {len(spans)} timestamps for {len(sentences)} sentences")
    name = item["video_id"]
    return [
        {
            **moment_row(sentence.strip(), [span]),
            "id": f"{name}#{number}",
            "video_id": name,
            "duration": item["duration"],
            "metadata": {"event": number, "events": len(spans)},
        }
        for number, (span, sentence) in enumerate(zip(spans, sentences, strict=True))
    ]
