"""Selectors side by side on any rows with any model: every row is answered from what each selector takes of its video.

`ntlbg bench real` runs it. Each video is looked at once; what was answered is kept, a line an answer, so that a run
that was cut off goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ntlbg.data.qa_records import question_text, video_source
from ntlbg.errors import InputError
from ntlbg.evaluation.answer_scores import rotations
from ntlbg.evaluation.ledger import Ledger
from ntlbg.evaluation.option_reading import option_letter
from ntlbg.fingerprints import hash_of
from ntlbg.processors.video_source_ntlbg import VideoError
from ntlbg.selection.subtitles import SubtitleError
from ntlbg.training.answer_scoring import normalised


# What tells the answers of a ledger apart.
KEY = ("id", "selector", "k")
# Where the benchmarks' published files tell the kind of a question: Video-MME and MLVU, LongVideoBench, NExT-QA.
TYPES = ("task_type", "question_type", "question_category", "type")
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


def in_rotations(rows: Sequence[dict]) -> list[dict]:
    """Every row with options once for each rotation of them (`answer_scores.rotations`), the others as they are.

    Raises:
        InputError: no row has options.
    """
    if not any("options" in row for row in rows):
        raise InputError(
            f"circular accuracy needs rows with options, but none of the {len(rows)} has any; leave out --circular"
        )
    return [turned for row in rows for turned in (rotations(row) if "options" in row else [row])]


def score(row: dict, text: str) -> tuple[bool, bool]:
    """Whether an answer is right, and whether it says anything that can be read: an option, or one word at least."""
    if "options" in row:
        letter = option_letter(text, tuple(row["options"]))
        return letter is not None and ord(letter) - ord("A") == row["answer_index"], letter is not None
    return normalised(text) == normalised(row["answer"]), bool(text.strip())


def spans_seen(row: dict, seconds: Sequence[float], step: float) -> float | None:
    """The share of the row's spans in which a chosen moment lies, or, for those shorter than the `step` of the
    candidates, less than a step before which one lies; None where the row names none."""
    if not row.get("spans"):
        return None
    moments = np.asarray(seconds, dtype=float)
    seen = []
    for start, end in row["spans"]:
        inside = (moments >= start) & (moments < end)
        before = (moments > start - step) & (moments < start) & (end - start < step)
        seen.append(bool((inside | before).any()))
    return float(np.mean(seen))


def asked_hash(row: dict) -> str:
    """Of what decides an answer but the setting: the prompt, what is said, and the video's file as it lies there."""
    path = Path(row["video_path"]) if "video_path" in row else None
    facts = (path.stat().st_size, path.stat().st_mtime_ns) if path is not None and path.is_file() else None
    return hash_of([prompt_of(row), row.get("subtitles"), row.get("clip"), row.get("video_path"), facts])


def run(
    rows: Sequence[dict],
    answerer: Any,
    settings: Sequence[Setting],
    ledger: Ledger,
    tell: Callable[[], None],
    *,
    subtitles: bool = False,
    subtitle_seconds: float | None = None,
) -> None:
    """
    Answer what is not answered yet, or was asked otherwise then; videos that could not be read are tried again.

    Args:
        rows: of `load_qa`; their ids are distinct.
        answerer: of `load_answerer`.
        tell: called after every answer, or every one that was there already.
        subtitles: tell what the rows' `subtitles` say at the moments chosen; rows without any go without.
        subtitle_seconds: leave out what is said further from every chosen moment; None tells all.
    """
    for source, told, asked in _by_video(rows, subtitles):
        hashes = {row["id"]: asked_hash(row) for row in asked}
        pending = []
        for row in asked:
            for setting in settings:
                line = ledger.lines.get((row["id"], setting.selector, setting.k))
                if line is None or "error" in line or line.get("asked") != hashes[row["id"]]:
                    pending.append((row, setting))
        for _ in range(len(asked) * len(settings) - len(pending)):
            tell()
        if not pending:
            continue
        opened = trouble = None
        try:
            opened = answerer.open(source, told, subtitle_seconds)
        except (VideoError, SubtitleError) as error:
            trouble = str(error)
        for row, setting in pending:
            line = {"id": row["id"], "selector": setting.selector, "k": setting.k, "asked": hashes[row["id"]]}
            ledger.add(line | ({"error": trouble} if opened is None else _answered(answerer, opened, row, setting)))
            tell()


def _answered(answerer: Any, opened: Any, row: dict, setting: Setting) -> dict:
    answerer.selector = setting.selector
    answer = opened.ask(row["question"], setting.k, prompt=prompt_of(row))
    times = _seconds(answer.selection)
    candidates = _candidate_seconds(answer.selection)
    step = float(np.diff(candidates).max()) if len(candidates) > 1 else 0.0
    return {
        "answer": answer.text,
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


def _by_video(rows: Sequence[dict], subtitles: bool) -> Iterator[tuple[Any, Any, list[dict]]]:
    """The rows of each video (and of what is said in it) together, in the order in which videos come first."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        said = row.get("subtitles") if subtitles else None
        groups.setdefault(f"{row['video_path']}|{row.get('clip')}|{said}", []).append(row)
    for asked in groups.values():
        yield video_source(asked[0]), (asked[0].get("subtitles") or None) if subtitles else None, asked


def summarise(rows: Sequence[dict], settings: Sequence[Setting], ledger: Ledger, *, circular: bool = False) -> dict:
    """
    The answers as a table.

    Args:
        circular: the rows are those of `in_rotations`: a question is then right by the share of its rotations that
            are.

    Returns:
        "settings": {name: {"accuracy" in percent, "low", "high" of 95 % by bootstrap over videos, "unread" share,
        "seen" share of the evidence or None, "seconds" a question, "lengths", "types", "pieces": {name: [right,
        asked]}, "less_first": difference to the first setting of the same k, [mean, low, high], paired by question and
        drawn by video}}, "asked": questions, "videos", "left_out": sentences of videos that cannot be read, with how
        many questions. If `circular`, each setting has "circular", of the questions with options: right is what is
        right in all rotations ("accuracy", "low", "high", "types", "less_first"), and the table "with_options", how
        many there are, and "chance", the percentages that guessing gets: ["accuracy", "circular"].

    Raises:
        InputError: no video could be read, or if `circular` none of a row with options.
    """
    asked = _questions(rows) if circular else [[at] for at in range(len(rows))]
    lines = {setting: [ledger.lines[row["id"], setting.selector, setting.k] for row in rows] for setting in settings}
    good, left_out = [], {}
    for question in asked:
        told = [lines[setting][at].get("error") for at in question for setting in settings]
        if any(told):
            sentence = next(filter(None, told))
            left_out[sentence] = left_out.get(sentence, 0) + 1
        else:
            good.append(question)
    if not good:
        raise InputError(f"none of the {len(rows)} rows has a video that can be read: {next(iter(left_out))}")
    ones = [rows[question[0]] for question in good]
    # Scored anew each time: the right answer is no part of what was asked.
    scores = {
        setting: [[score(rows[at], lines[setting][at]["answer"]) for at in question] for question in good]
        for setting in settings
    }
    videos, weights = _drawn_videos(ones)
    shares = {
        setting: [[float(right) for right, _ in question] for question in scores[setting]] for setting in settings
    }
    right = {setting: np.array([np.mean(share) for share in shares[setting]]) for setting in settings}
    table = {}
    for setting in settings:
        answers = [lines[setting][at] for question in good for at in question]
        # What is chosen does not depend on the order of the options.
        seen = [
            line["seen"] for line in (lines[setting][question[0]] for question in good) if line["seen"] is not None
        ]
        table[str(setting)] = {
            "selector": setting.selector,
            "k": setting.k,
            **_compared(right, setting, weights),
            "unread": float(np.mean([not read for question in scores[setting] for _, read in question])),
            "shown": max(line["shown"] for line in answers),
            "seen": float(np.mean(seen)) if seen else None,
            "seconds": float(np.median([line["seconds"] for line in answers])),
            "look": float(np.median([line["look"] for line in answers])),
            "lengths": _parts([_length(row["duration"]) for row in ones], right[setting]),
            "types": _parts([type_of(row) for row in ones], right[setting]),
            "pieces": _parts([str(len(row["spans"])) if "spans" in row else "unknown" for row in ones],
                             right[setting]),
        }  # fmt: skip
    result = {"settings": table, "asked": len(good), "videos": videos, "left_out": left_out}
    return result | _circular(ones, settings, shares, table) if circular else result


def type_of(row: dict) -> str:
    """What kind of question it is, as its benchmark says, else its type of answer."""
    metadata = row.get("metadata", {})
    return str(next((metadata[name] for name in TYPES if metadata.get(name)), row["answer_type"]))


def _circular(ones: list[dict], settings: Sequence[Setting], shares: dict, table: dict) -> dict:
    """Adds "circular" to the rows of the table; see `summarise`."""
    having = [number for number, row in enumerate(ones) if "options" in row]
    if not having:
        raise InputError("no row with options has a video that can be read; leave out --circular")
    _, weights = _drawn_videos([ones[number] for number in having])
    whole = {
        setting: np.array([min(shares[setting][number]) for number in having], dtype=float) for setting in settings
    }
    for setting in settings:
        types = _parts([type_of(ones[number]) for number in having], whole[setting])
        table[str(setting)]["circular"] = _compared(whole, setting, weights) | {"types": types}
    sizes = np.array([len(ones[number]["options"]) for number in having], dtype=float)
    chance = [100 * float((1 / sizes).mean()), 100 * float((sizes**-sizes).mean())]
    return {"with_options": len(having), "chance": chance}


def _questions(rows: Sequence[dict]) -> list[list[int]]:
    """Where the rotations of each question stand, of rows as `in_rotations` gives them."""
    places: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        places.setdefault(row["metadata"]["rotation_of"] if "options" in row else row["id"], []).append(at)
    return list(places.values())


def _drawn_videos(rows: Sequence[dict]) -> tuple[int, np.ndarray]:
    """How many videos there are, and the weights (2000, n) that drawing videos with replacement gives their rows."""
    videos = {name: number for number, name in enumerate(dict.fromkeys(row["video_id"] for row in rows))}
    video = np.array([videos[row["video_id"]] for row in rows])
    draws = np.random.default_rng(0).multinomial(len(videos), np.full(len(videos), 1 / len(videos)), size=2000)
    return len(videos), draws[:, video]


def _compared(right: dict[Setting, np.ndarray], setting: Setting, weights: np.ndarray) -> dict:
    """Accuracy with its interval, and less that of the first setting of the same k."""
    first = next(other for other in right if other.k == setting.k)
    return {
        **dict(zip(("accuracy", "low", "high"), _mean(right[setting], weights), strict=True)),
        "less_first": None if first == setting else _mean(right[setting] - right[first], weights),
    }


def _mean(values: np.ndarray, weights: np.ndarray) -> list[float]:
    """100 times the mean of (n,), with its 95 % interval under weights (draws, n)."""
    draws = (weights @ values) / weights.sum(axis=1)
    return [100 * float(values.mean()), *(100 * float(edge) for edge in np.quantile(draws, (0.025, 0.975)))]


def _parts(names: Sequence[str], right: np.ndarray) -> dict[str, list[float]]:
    parts: dict[str, list[float]] = {}
    for name, one in zip(names, right.tolist(), strict=True):
        counts = parts.setdefault(name, [0, 0])
        counts[0] += int(one) if one.is_integer() else one
        counts[1] += 1
    return dict(sorted(parts.items()))


def _length(seconds: float) -> str:
    low, high = next((low, high) for low, high in LENGTHS if low <= seconds < high)
    return f"{low // 60:g} min and more" if high == float("inf") else f"{low // 60:g} to {high // 60:g} min"


__all__ = ["KEY", "Setting", "in_rotations", "prompt_of", "run", "score", "spans_seen", "summarise"]
