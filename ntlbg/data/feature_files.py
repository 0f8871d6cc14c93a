"""A folder of feature files, one per video, made by many workers and taken up again where a run was cut off.

A file is there whole or not at all, and its name tells the video (path, size, time of change) and how it was looked
at: what is found under its name is done. `report.jsonl` says of every video which file is its, or why it has none.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ntlbg.data.batch_decoding import BatchVideo, encode_videos
from ntlbg.errors import InputError
from ntlbg.selection.features import FORMAT


if TYPE_CHECKING:
    from ntlbg.selection.api import FrameSelector


REPORT = "report.jsonl"

# What `CandidateFeatures.save` leaves when it is killed.
_PART = re.compile(r"\..*\.npz\.[0-9a-f]{16}\.part")


class TooManyBadVideos(InputError):
    """More videos than allowed cannot be used; the run was stopped."""


@dataclass(frozen=True)
class FeatureFiles:
    """What a run did.

    Args:
        made: videos whose features were made.
        kept: videos whose features were there already.
        bad: videos that have none; `report` tells why.
        report: the file.
    """

    made: int
    kept: int
    bad: int
    report: Path


def read_video_list(path: str | os.PathLike, field: str = "video_path") -> list[str]:
    """The videos of a JSONL file: one object per line whose `field` is a path, relative to the file's folder.

    Many questions may be about one video: it is listed once.

    Raises:
        InputError: not UTF-8, a line is no object, or it has no such field.
    """
    path = Path(path)
    videos: dict[str, None] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}); give a JSONL file") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"line {number} of {path} is not JSON; give one object per line") from error
        video = record.get(field) if isinstance(record, dict) else None
        if not isinstance(video, str) or not video:
            raise InputError(
                f"line {number} of {path} has no {field!r} that names a video; say which field does (field)"
            )
        videos[str(path.parent / video)] = None
    return list(videos)


def feature_file(folder: str | os.PathLike, video: str | os.PathLike, selector: FrameSelector) -> Path:
    """Where the features of `video`, as this selector sees it, are kept.

    Raises:
        OSError: there is no such file.
    """
    video = Path(video)
    facts = video.stat()
    looked = selector.settings()
    # Where an encoder runs changes the last bits only, and what may be refused changes no features.
    looked = {name: looked.get(name) for name in ("candidate_fps", "max_candidates", "scan", "max_side", "encoder")}
    told = [FORMAT, os.path.abspath(video), facts.st_size, facts.st_mtime_ns, looked]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return Path(folder) / f"{_plain(video.stem)}-{digest[:16]}.npz"


def make_feature_files(
    videos: Iterable[str | os.PathLike],
    folder: str | os.PathLike,
    selector: FrameSelector,
    *,
    max_bad: float = 1.0,
    **batch: Any,
) -> FeatureFiles:
    """
    Look at every video and keep its features in `folder`; what is there already is not looked at again.

    Args:
        videos: paths; one that is named twice counts once.
        folder: made if it is not there; one run at a time writes to it.
        selector: how videos are looked at.
        max_bad: share of the videos, in [0, 1], that may be bad; one more stops the run.
        batch: `workers`, `prefetch`, `max_bytes`, `timeout` and `progress` of `encode_videos`.

    Raises:
        TooManyBadVideos: see `max_bad`; what was made stays.
        InputError: nothing to do, `max_bad` out of range, or another run writes to the folder.
        WorkerError: see `decode_videos`.
        OSError: the folder cannot be written to.
    """
    if not 0 <= max_bad <= 1:
        raise InputError(f"max_bad is a share in [0, 1], got {max_bad}")
    videos = list(dict.fromkeys(os.fspath(video) for video in videos))
    if not videos:
        raise InputError("there is no video to look at; name files, or a list that is not empty")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _report(folder) as report:
        for part in folder.iterdir():
            if _PART.fullmatch(part.name):
                part.unlink()
        places = {video: _place(folder, video, selector) for video in videos}
        done = [video for video, place in places.items() if place is not None and zipfile.is_zipfile(place)]
        for video in done:
            _tell(report, video=video, features=places.pop(video).name)
        made = bad = 0
        with contextlib.closing(encode_videos(list(places), selector, in_order=False, **batch)) as looked:
            for video in looked:
                if video.error is None:
                    _keep(report, video, places[video.source] or feature_file(folder, video.source, selector))
                    made += 1
                    continue
                _tell(report, video=video.source, error=video.error)
                bad += 1
                if bad > max_bad * len(videos):
                    raise TooManyBadVideos(
                        f"{bad} of {len(videos)} videos cannot be used, more than the share of {max_bad:g} that is "
                        f"allowed, and the run was stopped; {folder / REPORT} says why"
                    )
        return FeatureFiles(made, len(done), bad, folder / REPORT)


def _place(folder: Path, video: str, selector: FrameSelector) -> Path | None:
    try:
        return feature_file(folder, video, selector)
    except OSError:
        # The decoder says what is wrong with it.
        return None


def _keep(report: TextIO, video: BatchVideo, place: Path) -> None:
    features = video.features
    features.save(place)
    _tell(
        report,
        video=video.source,
        features=place.name,
        candidates=len(features.candidate_indices),
        duration=features.duration,
        warnings=features.warnings,
    )


def _tell(report: TextIO, **facts: Any) -> None:
    report.write(json.dumps(facts, ensure_ascii=False) + "\n")
    report.flush()


@contextlib.contextmanager
def _report(folder: Path) -> Iterator[TextIO]:
    """The report, emptied, and held against other runs; the system lets go of it however this process ends."""
    # A name that is no UTF-8 has lone surrogates, and their backslashes are JSON again.
    with (folder / REPORT).open("a", encoding="utf-8", errors="backslashreplace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"another run writes to {folder}; wait for it, or give another folder") from error
        file.truncate(0)
        yield file


def _plain(stem: str) -> str:
    """The part of a file's name that people read: portable characters, and not too many."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", stem)[:80].lstrip(".") or "video"


__all__ = ["FeatureFiles", "TooManyBadVideos", "feature_file", "make_feature_files", "read_video_list"]
