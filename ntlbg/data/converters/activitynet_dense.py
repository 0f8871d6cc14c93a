"""ActivityNet Captions as dense captions: one row a video, its sentences with their spans in the order of time."""

from __future__ import annotations

from ntlbg.data.converters.activitynet_captions import read
from ntlbg.data.qa_records import BadRow


QUESTION = "What happens in the video?"

__all__ = ["convert", "read"]


def convert(item: dict) -> list[dict]:
    """One row of the task `dense_captions`."""
    spans, sentences = item["timestamps"], item["sentences"]
    if len(spans) != len(sentences) or not spans:
        raise BadRow(f"there are {len(spans)} timestamps for {len(sentences)} sentences")
    events = sorted(zip(spans, (sentence.strip() for sentence in sentences), strict=True), key=lambda event: event[0])
    return [
        {
            "id": item["video_id"],
            "video_id": item["video_id"],
            "question": QUESTION,
            "answer": " ".join(sentence for _, sentence in events),
            "answer_type": "dense_captions",
            "duration": item["duration"],
            "spans": [span for span, _ in events],
            "captions": [sentence for _, sentence in events],
        }
    ]
