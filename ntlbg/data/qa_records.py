"""One row of question-answer data about a video: what it may hold, and one sentence for each row that does not.

Required are id, video_id, question, answer and duration (seconds). Known beside them: answer_type, metadata,
video_path, options, answer_index, subtitles, clip, spans, captions and saliency. Unknown keys go to metadata. Seconds
are always those of the whole video.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from ntlbg.errors import InputError
from ntlbg.processors.video_source_ntlbg import VideoClip


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

REQUIRED = ("id", "video_id", "question", "answer", "duration")
OPTIONAL = ("video_path", "options", "answer_index", "subtitles", "clip", "spans", "captions", "saliency")
KNOWN = (*REQUIRED, "answer_type", "metadata", *OPTIONAL)

# What a row gets while it is loaded: the bytes of a video that lies in the data set itself, and where it stands.
LOADED = ("video_bytes", "place")

# A column of datasets.Video(decode=False) holds {"path", "bytes"} under this name.
VIDEO_COLUMN = "video"

_SURROGATE = re.compile("[\ud800-\udfff]")


class BadRow(InputError):
    """A row that cannot be used; the message says what is wrong with it, without where it stands."""


class TooManyBadRows(InputError):
    """More rows than allowed cannot be used; the run was stopped."""


def parse_line(line: str | bytes) -> dict:
    """The row on one line of a JSONL file; see `parse_row`.

    Raises:
        BadRow: not UTF-8, not JSON, no object, or what `parse_row` refuses.
    """
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        raise BadRow(f"the line is not UTF-8 text ({error.reason}); save the file as UTF-8") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadRow("the line is not JSON; give one object a line") from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise BadRow("the line holds a number that is too long; give one object a line") from error
    return parse_row(row)


def parse_row(row: Any) -> dict:
    """
    A row as the library uses it.

    Args:
        row: a mapping as in the module's docstring. Keys that are None count as absent, so that tables in which every
            row has every column can be read. `id` and `video_id` may be integers; `metadata` may be the text of a JSON
            object (tables need one type for all rows).

    Returns:
        `dict` with the required keys, `answer_type` ("multiple_choice" or "open" if it was not given), `metadata`, and
        those optional keys that are there. With options there is always an `answer_index`, and `answer` is the
        option's text. Parsing what was parsed changes nothing.

    Raises:
        BadRow: one sentence on the first thing that is wrong.
    """
    if not isinstance(row, dict):
        raise BadRow(f"a row is an object with {', '.join(REQUIRED)}, but this is {_shown(row)}")
    row = {name: value for name, value in row.items() if value is not None}
    if missing := [name for name in REQUIRED if name not in row]:
        raise BadRow(f"{', '.join(map(repr, missing))} is missing; a row needs {', '.join(REQUIRED)}")
    duration = _duration(row)
    parsed: dict = {
        "id": _name(row, "id"),
        "video_id": _name(row, "video_id"),
        "question": _text(row, "question"),
        "answer": _text(row, "answer"),
        "answer_type": _text(row, "answer_type") if "answer_type" in row else None,
        "duration": duration,
        "metadata": _metadata(row),
    }
    parsed.update({name: row[name] for name in LOADED if name in row})
    if VIDEO_COLUMN in row:
        parsed.update(_video_column(row))
    if "video_path" in row:
        parsed["video_path"] = _text(row, "video_path")
    if "options" in row:
        parsed["options"] = _options(row)
        parsed["answer_index"] = _answer_index(row, parsed["options"], parsed["answer"])
        parsed["answer"] = parsed["options"][parsed["answer_index"]]
    elif "answer_index" in row:
        raise BadRow("'answer_index' speaks of options, but there are none; give 'options', or leave it out")
    if parsed["answer_type"] is None:
        parsed["answer_type"] = "multiple_choice" if "options" in parsed else "open"
    if "clip" in row:
        parsed["clip"] = _span(row["clip"], "clip", duration)
    if "spans" in row:
        parsed["spans"] = [
            _span(span, f"spans[{number}]", duration) for number, span in enumerate(_list(row, "spans"))
        ]
    if "captions" in row:
        parsed["captions"] = _captions(row, parsed.get("spans", []))
    if "saliency" in row:
        parsed["saliency"] = _saliency(row["saliency"], duration)
    if "subtitles" in row:
        parsed["subtitles"] = _subtitles(row["subtitles"])
    for name in parsed:
        if name not in LOADED:
            _check_characters(name, parsed[name])
    return parsed


def target_text(row: dict) -> str:
    """What the model should say: the option's letter where there are options, else the answer."""
    return LETTERS[row["answer_index"]] if "options" in row else row["answer"]


def question_text(row: dict) -> str:
    """What the model is asked: the question, and each option on a line of its own after its letter."""
    options = [f"{LETTERS[number]}. {option}" for number, option in enumerate(row.get("options", ()))]
    return "\n".join([row["question"], *options])


def video_source(row: dict) -> Any:
    """What the processor is given for the row's video: a path, an address or bytes; a `VideoClip` of it if the row has
    a clip.
    """
    source = row["video_bytes"] if "video_bytes" in row else row["video_path"]
    return VideoClip(source, *row["clip"]) if "clip" in row else source


# -- one field each --------------------------------------------------------------------------------------------------


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _name(row: dict, name: str) -> str:
    value = row[name]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(row, name)


def _text(row: dict, name: str) -> str:
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"{name!r} should be text that is not empty, but is {_shown(value)}")
    return value.strip()


def _check_characters(name: str, value: Any) -> None:
    """JSON's escapes can hold halves of characters (lone surrogates), which no file in UTF-8 and no tokeniser can."""
    inside = [value]
    while inside:
        value = inside.pop()
        if isinstance(value, dict):
            inside.extend((*value, *value.values()))
        elif isinstance(value, list | tuple):
            inside.extend(value)
        elif isinstance(value, str) and _SURROGATE.search(value):
            raise BadRow(f"{name!r} holds half of a character (a lone surrogate) in {_shown(value)}; give whole ones")


def _list(row: dict, name: str) -> list:
    value = row[name]
    if not isinstance(value, list):
        raise BadRow(f"{name!r} should be a list, but is {_shown(value)}")
    return value


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    # Python's integers may be larger than any float.
    return abs(value) < 2**53 if isinstance(value, int) else math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _duration(row: dict) -> float:
    value = row["duration"]
    if not _is_number(value) or value <= 0:
        raise BadRow(f"'duration' should be the video's seconds, above 0, but is {_shown(value)}")
    return float(value)


def _metadata(row: dict) -> dict:
    value = row.get("metadata", {})
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadRow("'metadata' is text, but not that of a JSON object") from error
    if not isinstance(value, dict):
        raise BadRow(f"'metadata' should be an object, but is {_shown(value)}")
    return value | {name: row[name] for name in row if name not in (*KNOWN, *LOADED, VIDEO_COLUMN)}


def _video_column(row: dict) -> dict:
    value = row[VIDEO_COLUMN]
    if isinstance(value, str):
        value = {"path": value}
    if not isinstance(value, dict) or not (value.get("bytes") or value.get("path")):
        raise BadRow(f"'video' should hold a path or the bytes of a file, but is {_shown(value)}; use decode=False")
    if value.get("bytes"):
        return {"video_bytes": value["bytes"]}
    return {"video_path": _text(value, "path")}


def _options(row: dict) -> list[str]:
    options = _list(row, "options")
    if not 2 <= len(options) <= len(LETTERS):
        raise BadRow(f"'options' should be 2 to {len(LETTERS)} texts, but are {len(options)}")
    for number, option in enumerate(options):
        if not isinstance(option, str) or not option.strip():
            raise BadRow(f"'options[{number}]' should be text that is not empty, but is {_shown(option)}")
    if all(option.lstrip().startswith((f"{LETTERS[i]}.", f"({LETTERS[i]})")) for i, option in enumerate(options)):
        raise BadRow(f"the options carry their letters already ({_shown(options[0])}); give their bare texts")
    return [option.strip() for option in options]


def _answer_index(row: dict, options: list[str], answer: str) -> int:
    letters = LETTERS[: len(options)]
    if "answer_index" in row:
        index = row["answer_index"]
        if not _is_whole(index) or not 0 <= index < len(options):
            raise BadRow(f"'answer_index' should be 0 to {len(options) - 1}, but is {_shown(index)}")
        if answer not in (options[index], letters[index]):
            raise BadRow(
                f"'answer' is {answer!r}, but 'answer_index' {index} is option {letters[index]} ({options[index]!r}); "
                "make them agree"
            )
        return index
    same = [number for number, option in enumerate(options) if option == answer]
    if len(same) > 1:
        raise BadRow(f"'answer' {answer!r} is more than one of the options; say which with 'answer_index'")
    if not same and len(answer) == 1 and answer in letters:
        same = [letters.index(answer)]
    if not same:
        raise BadRow(f"'answer' {answer!r} is none of the options and no letter from A to {letters[-1]}")
    return same[0]


def _span(value: Any, name: str, duration: float) -> list[float]:
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(map(_is_number, value)):
        raise BadRow(f"{name!r} should be [start, end] in seconds, but is {_shown(value)}")
    start, end = map(float, value)
    if not 0 <= start < end <= duration:
        raise BadRow(
            f"{name!r} should lie within the video, 0 <= start < end <= {duration:g} (its duration), but is "
            f"[{start:g}, {end:g}]"
        )
    return [start, end]


def _captions(row: dict, spans: list) -> list[str]:
    captions = _list(row, "captions")
    if len(captions) != len(spans):
        raise BadRow(f"there are {len(captions)} 'captions' for {len(spans)} 'spans'; give one a span")
    for number, caption in enumerate(captions):
        if not isinstance(caption, str) or not caption.strip():
            raise BadRow(f"'captions[{number}]' should be text that is not empty, but is {_shown(caption)}")
    return [caption.strip() for caption in captions]


def _saliency(value: Any, duration: float) -> dict:
    if not isinstance(value, dict) or sorted(value) != ["clip_ids", "clip_len", "scores"]:
        raise BadRow(f"'saliency' should hold clip_len, clip_ids and scores, but is {_shown(value)}")
    length, clips, scores = value["clip_len"], _list(value, "clip_ids"), _list(value, "scores")
    if not _is_number(length) or length <= 0:
        raise BadRow(f"'saliency.clip_len' should be seconds above 0, but is {_shown(length)}")
    if len(clips) != len(scores):
        raise BadRow(f"'saliency' has {len(clips)} clip_ids, but {len(scores)} scores; give one score a clip")
    last = math.ceil(duration / length) - 1
    for clip in clips:
        if not _is_whole(clip) or not 0 <= clip <= last:
            raise BadRow(
                f"'saliency.clip_ids' should be 0 to {last} (clips of {length:g} s in {duration:g} s), but one is "
                f"{_shown(clip)}"
            )
    for score in scores:
        if not all(map(_is_number, score if isinstance(score, list) else [score])):
            raise BadRow(
                f"'saliency.scores' should be numbers, or one list of numbers a clip, but one is {_shown(score)}"
            )
    return {"clip_len": float(length), "clip_ids": clips, "scores": scores}


def _subtitles(value: Any) -> str | list[dict]:
    if isinstance(value, str) and value.strip():
        return value
    if not isinstance(value, list):
        raise BadRow(f"'subtitles' should be a file's name or a list of cues, but is {_shown(value)}")
    for number, cue in enumerate(value):
        if not isinstance(cue, dict) or not isinstance(cue.get("text"), str):
            raise BadRow(f"'subtitles[{number}]' should hold start, end and text, but is {_shown(cue)}")
        start, end = cue.get("start"), cue.get("end")
        if not (_is_number(start) and _is_number(end) and 0 <= start <= end):
            raise BadRow(f"'subtitles[{number}]' should have 0 <= start <= end in seconds, but has {start!r}, {end!r}")
    return value


__all__ = [
    "LETTERS",
    "BadRow",
    "TooManyBadRows",
    "parse_line",
    "parse_row",
    "question_text",
    "target_text",
    "video_source",
]
