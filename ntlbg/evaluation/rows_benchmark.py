"""Selectors side by side on any rows with any model: every row is answered from what each selector takes of its video.

`ntlbg bench real` runs it. Each video is looked at once; what was answered is kept, a line an answer, so that a run
that was cut off goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntlbg.data.qa_records import question_text, video_source
from ntlbg.errors import InputError
from ntlbg.evaluation.harness_questions import option_letter
from ntlbg.evaluation.ledger import Ledger
from ntlbg.processors.video_source_ntlbg import VideoError
from ntlbg.training.answer_scoring import normalised


# What tells the answers of a ledger apart.
KEY = ("id", "selector", "k")
# What rows with options are told, in our words.
ANSWER_WITH_A_LETTER = "Answer with the letter of the right option alone."
# Lengths of videos in seconds that accuracies are told apart by, as LongVideoBench and Video-MME do.
LENGTHS = ((0, 60), (60, 600), (600, 3600), (3600, float("inf")))


@dataclass(frozen=True)
class Setting:
    """A selector and how many representatives it takes (groups or frames, as the model counts them)."""

    selector: str
    k: int

    def __str__(self) -> str:
        return f"{self.selector}, {self.k}"


def prompt_of(row: dict) -> str:
    """What the model is asked: the question, its options, and to answer with a letter where there are some."""
    return question_text(row) + (f"\n{ANSWER_WITH_A_LETTER}" if "options" in row else "")


def score(row: dict, text: str) -> tuple[bool, bool]:
    """Whether an answer is right, and whether it says anything that can be read: an option, or one word at least."""
    if "options" in row:
        letter = option_letter(text, tuple(row["options"]))
        return letter is not None and ord(letter) - ord("A") == row["answer_index"], letter is not None
    return normalised(text) == normalised(row["answer"]), bool(text.strip())


def spans_seen(row: dict, seconds: Sequence[float], step: float) -> float | None:
    """The share of the row's spans in which a chosen moment lies, or, for those shorter than the `step` of the
    candidates, next to which one lies; None where the row names none."""
    if not row.get("spans"):
        return None
    moments = np.asarray(seconds, dtype=float)
    seen = [bool(((moments > start - step) & (moments < end)).any()) for start, end in row["spans"]]
    return float(np.mean(seen))


def run(
    rows: Sequence[dict], answerer: Any, settings: Sequence[Setting], ledger: Ledger, tell: Callable[[], None]
) -> None:
    """
    Answer what is not answered yet.

    Args:
        rows: of `load_qa`; their ids are distinct.
        answerer: of `load_answerer`.
        tell: called after every answer, or every one that was there already.
    """
    for source, asked in _by_video(rows):
        pending = [
            (row, setting) for row in asked for setting in settings
            if (row["id"], setting.selector, setting.k) not in ledger.lines
        ]  # fmt: skip
        for _ in range(len(asked) * len(settings) - len(pending)):
            tell()
        if not pending:
            continue
        opened = trouble = None
        try:
            opened = answerer.open(source)
        except VideoError as error:
            trouble = str(error)
        for row, setting in pending:
            line = {"id": row["id"], "selector": setting.selector, "k": setting.k}
            ledger.add(line | ({"error": trouble} if opened is None else _answered(answerer, opened, row, setting)))
            tell()


def _answered(answerer: Any, opened: Any, row: dict, setting: Setting) -> dict:
    answerer.selector = setting.selector
    answer = opened.ask(row["question"], setting.k, prompt=prompt_of(row))
    right, read = score(row, answer.text)
    times = _seconds(answer.selection)
    candidates = _candidate_seconds(answer.selection)
    step = float(np.diff(candidates).max()) if len(candidates) > 1 else 0.0
    return {
        "answer": answer.text,
        "right": right,
        "read": read,
        "seen": spans_seen(row, times, step),
        "seconds": round(sum(answer.timings.values()), 4),
        "look": round(sum(opened.timings.values()), 4),
        "shown": len(times),
        "candidates": len(candidates),
        "times": [round(float(second), 3) for second in times],
    }


def _seconds(selection: Any) -> Sequence[float]:
    return selection.timestamps.tolist() if hasattr(selection, "timestamps") else selection.seconds.tolist()


def _candidate_seconds(selection: Any) -> np.ndarray:
    if hasattr(selection, "group_timestamps"):
        return selection.group_timestamps.numpy()
    return selection.candidate_seconds


def _by_video(rows: Sequence[dict]) -> Iterator[tuple[Any, list[dict]]]:
    """The rows of each video together, in the order in which videos come first."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(f"{row['video_path']}|{row.get('clip')}", []).append(row)
    for asked in groups.values():
        yield video_source(asked[0]), asked


def summarise(rows: Sequence[dict], settings: Sequence[Setting], ledger: Ledger) -> dict:
    """
    The answers as a table.

    Returns:
        "settings": {name: {"accuracy" in percent, "low", "high" of 95 % by bootstrap over videos, "unread" share,
        "seen" share of the evidence or None, "seconds" a question, "lengths", "types", "pieces": {name: [right,
        asked]}, "less_first": difference to the first setting of the same k, [mean, low, high], paired by question and
        drawn by video}}, "asked", "videos", "left_out": sentences of videos that cannot be read, with how many rows.

    Raises:
        InputError: no video could be read.
    """
    lines = {setting: [ledger.lines[row["id"], setting.selector, setting.k] for row in rows] for setting in settings}
    good = [at for at in range(len(rows)) if all("error" not in lines[setting][at] for setting in settings)]
    left_out: dict[str, int] = {}
    for at in sorted(set(range(len(rows))) - set(good)):
        sentence = next(lines[setting][at]["error"] for setting in settings if "error" in lines[setting][at])
        left_out[sentence] = left_out.get(sentence, 0) + 1
    if not good:
        raise InputError(f"none of the {len(rows)} rows has a video that can be read: {next(iter(left_out))}")
    videos = {name: number for number, name in enumerate(dict.fromkeys(rows[at]["video_id"] for at in good))}
    video = np.array([videos[rows[at]["video_id"]] for at in good])
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(videos), np.full(len(videos), 1 / len(videos)), size=2000)[:, video]
    right = {setting: np.array([lines[setting][at]["right"] for at in good], float) for setting in settings}
    table = {}
    for setting in settings:
        chosen = [lines[setting][at] for at in good]
        seen = [line["seen"] for line in chosen if line["seen"] is not None]
        first = next(other for other in settings if other.k == setting.k)
        table[str(setting)] = {
            "selector": setting.selector,
            "k": setting.k,
            **dict(zip(("accuracy", "low", "high"), _mean(right[setting], weights), strict=True)),
            "less_first": None if first == setting else _mean(right[setting] - right[first], weights),
            "unread": float(np.mean([not line["read"] for line in chosen])),
            "seen": float(np.mean(seen)) if seen else None,
            "seconds": float(np.median([line["seconds"] for line in chosen])),
            "look": float(np.median([line["look"] for line in chosen])),
            "lengths": _parts([_length(rows[at]["duration"]) for at in good], right[setting]),
            "types": _parts([rows[at]["answer_type"] for at in good], right[setting]),
            "pieces": _parts([str(len(rows[at]["spans"])) if "spans" in rows[at] else "unknown" for at in good],
                             right[setting]),
        }  # fmt: skip
    return {"settings": table, "asked": len(good), "videos": len(videos), "left_out": left_out}


def _mean(values: np.ndarray, weights: np.ndarray) -> list[float]:
    """100 times the mean of (n,), with its 95 % interval under weights (draws, n)."""
    draws = (weights @ values) / weights.sum(axis=1)
    return [100 * float(values.mean()), *(100 * float(edge) for edge in np.quantile(draws, (0.025, 0.975)))]


def _parts(names: Sequence[str], right: np.ndarray) -> dict[str, list[int]]:
    parts: dict[str, list[int]] = {}
    for name, one in zip(names, right, strict=True):
        counts = parts.setdefault(name, [0, 0])
        counts[0] += int(one)
        counts[1] += 1
    return dict(sorted(parts.items()))


def _length(seconds: float) -> str:
    low, high = next((low, high) for low, high in LENGTHS if low <= seconds < high)
    return f"{low // 60:g} min and more" if high == float("inf") else f"{low // 60:g} to {high // 60:g} min"


__all__ = ["KEY", "Setting", "prompt_of", "run", "score", "spans_seen", "summarise"]
