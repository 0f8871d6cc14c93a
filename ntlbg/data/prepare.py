"""A benchmark's annotations and videos as a folder of rows with its card, which can be pushed as data alone.

OUT/README.md, OUT/prepared.json      the card, and the counts it is written from
OUT/<split>.jsonl or .parquet         the rows
OUT/subtitles/<split>.jsonl ...       the same rows with what is said, as a set of its own
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from ntlbg.data.benchmark_subtitles import SUBTITLE_SUFFIXES, benchmark_subtitles
from ntlbg.data.convert_annotations import Converted, convert_annotations
from ntlbg.data.data_card import data_card
from ntlbg.data.qa_records import TooManyBadRows
from ntlbg.data.video_folder import NamedFiles, VideoFolder
from ntlbg.errors import InputError
from ntlbg.hub_push import push_folder


COUNTS = "prepared.json"
SUBTITLES = "subtitles"  # the configuration with what is said


@dataclass(frozen=True)
class Prepared:
    """
    What became of one file of annotations.

    Args:
        benchmark: one of `BENCHMARKS`.
        config: "default", or "subtitles" for the rows with what is said.
        split: name of the split.
        file: the rows, relative to the folder.
        rows: how many.
        videos: how many videos they are about.
        cut: spans that ended after their video and were cut to its end.
        durations_read: videos that were opened for their duration.
        dropped: how many items or rows were left out, by reason.
        with_subtitles: rows that have subtitles; the others' have none, or none that can be read.
    """

    benchmark: str
    config: str
    split: str
    file: str
    rows: int
    videos: int
    cut: int
    durations_read: int
    dropped: dict[str, int]
    with_subtitles: int | None = None


def prepare(
    benchmark: str,
    annotations: str | os.PathLike,
    videos: str | os.PathLike,
    out: str | os.PathLike,
    *,
    split: str = "test",
    parquet: bool = False,
    subtitles: str | os.PathLike | None = None,
    max_bad_share: float = 1.0,
) -> Prepared:
    """
    Convert, check that the videos are there, read the durations that the annotations lack, and write.

    Args:
        benchmark: one of `converters.BENCHMARKS`.
        annotations: as their authors publish them.
        videos: folder of the videos, in it or below it; `video_path` is relative to it.
        out: folder; other splits and configurations in it stay.
        split: what these annotations are.
        parquet: write Parquet (needs `datasets`) instead of JSONL.
        subtitles: folder of the subtitles; the rows get theirs as cues and become the configuration "subtitles".
        max_bad_share: share of the items, in [0, 1], that may be dropped.

    Raises:
        TooManyBadRows: more were. InputError: an argument cannot be used, or no row is left.
    """
    if not re.fullmatch(r"\w+(\.\w+)*", split):
        raise InputError(f"a split is a word such as train, validation or test, got {split!r}")
    if not 0 <= max_bad_share <= 1:
        raise InputError(f"max_bad_share is a share in [0, 1], got {max_bad_share}")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{str(out)!r} is a file; give a folder for the prepared rows")
    known = _counts(out)
    if known and known[0].benchmark != benchmark:
        raise InputError(f"{str(out)!r} holds {known[0].benchmark}; give {benchmark} a folder of its own")
    folder = VideoFolder(videos)
    spoken = None if subtitles is None else NamedFiles(subtitles, SUBTITLE_SUFFIXES, "subtitle file")
    converted = convert_annotations(benchmark, annotations, folder)
    _check_share(converted, max_bad_share, annotations)
    with_subtitles = None if spoken is None else _add_subtitles(converted.rows, spoken)
    if with_subtitles == 0:
        raise InputError(
            f"no row has subtitles that can be read in {str(subtitles)!r}; give the folder of {benchmark}'s"
        )
    config = "default" if spoken is None else SUBTITLES
    name = f"{split}.{'parquet' if parquet else 'jsonl'}"
    prepared = Prepared(
        benchmark=benchmark,
        config=config,
        split=split,
        file=name if spoken is None else f"{SUBTITLES}/{name}",
        rows=len(converted.rows),
        videos=len({row["video_path"] for row in converted.rows}),
        cut=converted.cut,
        durations_read=folder.durations_read,
        dropped=dict(converted.reasons()),
        with_subtitles=with_subtitles,
    )
    target = out / prepared.file
    target.parent.mkdir(parents=True, exist_ok=True)
    (_write_parquet if parquet else _write_jsonl)(converted.rows, target)
    known = [one for one in known if (one.config, one.split) != (config, split)]
    known.append(prepared)
    (out / COUNTS).write_text(json.dumps([asdict(one) for one in known], indent=1) + "\n", encoding="utf-8")
    (out / "README.md").write_text(data_card(known), encoding="utf-8")
    return prepared


def push_prepared(folder: str | os.PathLike, repo: str, *, private: bool = True) -> str:
    """
    Push what `prepare` wrote, and nothing else, as a repository of data on the Hub; it holds no videos and no code.

    Args:
        folder: as given to `prepare` as `out`.
        repo: its name on the Hub; it is made if it is not there.
        private: of a repository that is made.

    Returns:
        the commit's address.

    Raises:
        InputError: there is nothing to push, or the Hub refuses it.
    """
    folder = Path(folder)
    files = [one.file for one in _counts(folder)]
    if not files:
        raise InputError(f"{str(folder)!r} holds no prepared rows; run `ntlbg data prepare` first")
    message, patterns = "Rows prepared from published annotations", ["README.md", COUNTS, *files]
    return push_folder(folder, repo, message=message, private=private, allow_patterns=patterns, kind="dataset")


def _counts(folder: Path) -> list[Prepared]:
    """What was prepared in `folder` before."""
    path = folder / COUNTS
    if not path.is_file():
        return []
    try:
        return [Prepared(**one) for one in json.loads(path.read_text("utf-8"))]
    except (ValueError, TypeError) as error:
        raise InputError(f"{str(path)!r} is not what `ntlbg data prepare` writes; give another folder") from error


def _check_share(converted: Converted, max_share: float, annotations: str | os.PathLike) -> None:
    total = len(converted.rows) + len(converted.dropped)
    told = "; ".join(f"{place}: {reason}" for place, reason in converted.dropped[:3])
    if not total:
        raise InputError(f"{str(annotations)!r} holds no annotations; give the published file")
    if not converted.rows:
        raise InputError(f"none of the {total} items of {str(annotations)!r} can be used: {told}")
    if len(converted.dropped) > max_share * total:
        raise TooManyBadRows(
            f"{len(converted.dropped)} of {total} items of {str(annotations)!r} cannot be used, more than the share "
            f"of {max_share:g} that is allowed (--max-bad): {told}"
        )


def _add_subtitles(rows: list[dict], files: NamedFiles) -> int:
    """Gives each row its cues and counts those that have some."""
    read: dict[tuple[str, str], list[dict] | None] = {}
    for row in rows:
        begins = row["metadata"].get("starting_timestamp_for_subtitles") or 0.0
        name = str(row["metadata"].get("subtitle_path") or Path(row["video_path"]).stem)
        key = (name, str(begins))
        if key not in read:
            try:
                found = benchmark_subtitles(files.folder / files.find(name), float(begins), row["duration"])
            except (ValueError, TypeError):  # no such file, none that can be read, or no time at which it begins
                read[key] = None
            else:
                read[key] = [asdict(cue) for cue in found.cues]
        if read[key] is not None:
            row["subtitles"] = read[key]
    return sum("subtitles" in row for row in rows)


def _tabled(row: dict) -> dict:
    """A table has one type for all rows, so metadata, which differs, is its JSON text."""
    return row | {"metadata": json.dumps(row["metadata"], ensure_ascii=False)}


def _write_jsonl(rows: list[dict], target: Path) -> None:
    lines = (json.dumps(_tabled(row), ensure_ascii=False) + "\n" for row in rows)
    target.write_text("".join(lines), encoding="utf-8")


def _write_parquet(rows: list[dict], target: Path) -> None:
    try:
        import datasets
    except ImportError as error:
        raise InputError("Parquet is written with the package 'datasets'; install ntlbg[train]") from error

    from ntlbg.data.benchmark_builder import FEATURES

    full = [dict.fromkeys(FEATURES) | _tabled(row) for row in rows]
    datasets.Dataset.from_list(full, features=FEATURES).to_parquet(str(target))


__all__ = ["Prepared", "prepare", "push_prepared"]
