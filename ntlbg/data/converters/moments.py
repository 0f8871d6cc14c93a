"""What converters of moment retrieval share."""

from __future__ import annotations

from typing import Any


def moment_row(query: str, spans: Any) -> dict:
    """The part of a row that asks when `query` happens: `spans` is the truth, `answer` the same in words."""
    times = [f"{float(start):.1f} - {float(end):.1f} seconds" for start, end in spans]
    return {"question": query, "answer": ", ".join(times), "answer_type": "moment", "spans": spans}
