"""Rows of ours from a benchmark's published annotations; what is dropped is counted with its reason."""

from __future__ import annotations

import csv
import importlib
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ntlbg.data.converters import BENCHMARKS
from ntlbg.data.converters.moments import moment_answer
from ntlbg.data.qa_records import BadRow, parse_row
from ntlbg.data.video_folder import VideoFolder
from ntlbg.errors import InputError


CONVERTERS = {name: importlib.import_module(f"ntlbg.data.converters.{name}") for name in BENCHMARKS}


@dataclass
class Converted:
    """
    Args:
        rows: as `parse_row` gives them.
        dropped: (place, reason) of each item or row that was left out.
        cut: how many spans ended after their video and were cut to its end.
    """

    rows: list[dict] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    cut: int = 0

    def reasons(self) -> Counter:
        """How often each reason to drop came, without the values in brackets."""
        return Counter(reason.split(" (")[0] for _, reason in self.dropped)


def convert_annotations(name: str, path: str | os.PathLike, videos: VideoFolder | None = None) -> Converted:
    """
    Args:
        name: one of `CONVERTERS`.
        path: the annotation file as its authors publish it.
        videos: where its videos are. A row whose video is not there is dropped then, and the others get their
            `video_path`, relative to that folder, and their duration where the annotations lack it (Charades-STA,
            NExT-QA, Video-MME).

    Raises:
        InputError: the name is unknown, or the file cannot be read as this benchmark's.
    """
    if name not in CONVERTERS:
        raise InputError(f"there is no converter {name!r}; choose from {', '.join(sorted(CONVERTERS))}")
    converter, result, seen = CONVERTERS[name], Converted(), set()
    try:
        items = list(converter.read(Path(path)))
    except OSError as error:
        raise InputError(
            f"the annotations {str(path)!r} cannot be read ({error.strerror or error}); give the published file"
        ) from error
    except InputError:
        raise
    except (ValueError, AttributeError, TypeError, RecursionError, csv.Error) as error:
        raise InputError(f"{str(path)!r} is no annotation file of {name}; give it as published") from error
    for number, item in enumerate(items, start=1):
        place = f"item {number}"
        try:
            rows = converter.convert(item)
        except BadRow as error:
            result.dropped.append((place, str(error)))
            continue
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            result.dropped.append((place, f"it lacks a field, or holds one of another type ({error!r})"))
            continue
        for row in rows:
            try:
                if videos is not None:
                    row = videos.completed(row)
                cut = _cut(row)
                parsed = parse_row(row)
                if parsed["id"] in seen:
                    raise BadRow(f"its id was there before ({parsed['id']})")
            except BadRow as error:
                result.dropped.append((place, str(error)))
                continue
            seen.add(parsed["id"])
            result.cut += cut
            result.rows.append(parsed)
    return result


def _cut(row: dict) -> int:
    """Ends spans with their video, in the answer too where it is made of them: annotators' times run over its end.
    Returns how many were cut."""
    duration, cut = row.get("duration"), 0
    for number, span in enumerate(row.get("spans", ())):
        if _is_seconds([duration]) and _is_seconds(span) and len(span) == 2 and span[0] < duration < span[1]:
            row["spans"] = [*row["spans"][:number], [span[0], duration], *row["spans"][number + 1 :]]
            cut += 1
    if cut and row["answer_type"] == "moment":
        row["answer"] = moment_answer(row["spans"])
    return cut


def _is_seconds(values: Any) -> bool:
    """Whether these are numbers; what are not `parse_row` refuses."""
    return isinstance(values, list) and all(isinstance(value, int | float) for value in values)


__all__ = ["CONVERTERS", "Converted", "convert_annotations"]
