"""What converters of moment retrieval share."""

from __future__ import annotations

from typing import Any


def moment_row(query: str, spans: Any) -> dict:
    """The part of a row that asks when `query` happens: `spans` is the truth, `answer` the same in words."""
    return {"question": query, "answer": moment_answer(spans), "answer_type": "moment", "spans": spans}


def moment_answer(spans: Any) -> str:
    """Spans in words: "2.0 - 7.5 seconds", several with commas between them."""
    return ", ".join(f"{float(start):.1f} - {float(end):.1f} seconds" for start, end in spans)
