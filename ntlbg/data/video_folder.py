"""Folders of files as a benchmark's authors unpack them: which file a row means, and how long a video is."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path, PurePosixPath

from ntlbg.data.qa_records import BadRow
from ntlbg.errors import InputError
from ntlbg.processors.video_decoding_ntlbg import VideoLimits, open_video
from ntlbg.processors.video_source_ntlbg import VideoError


VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".mpg", ".mpeg", ".wmv", ".ts", ".ogv")


class NamedFiles:
    """
    The files of a folder and of those below it, listed once.

    Args:
        folder: where they are.
        suffixes: of which files, in small letters with their dot.
        what: what these are, in messages.

    Raises:
        InputError: it is no folder, or holds no such files.
    """

    def __init__(self, folder: str | os.PathLike, suffixes: tuple[str, ...], what: str):
        self.folder, self._suffixes, self._what = Path(folder), suffixes, what
        if not self.folder.is_dir():
            raise InputError(f"{str(folder)!r} is no folder of {what}s; give the one that holds them")
        self._paths: set[str] = set()
        self._named: dict[str, list[str]] = defaultdict(list)
        for root, _, files in os.walk(self.folder):
            for file in sorted(files):
                path = PurePosixPath(Path(root, file).relative_to(self.folder).as_posix())
                if path.suffix.lower() in suffixes:
                    self._paths.add(str(path))
                    for known_as in (path.name, path.stem):
                        self._named[known_as].append(str(path))
        if not self._paths:
            raise InputError(f"there are no {what}s in {str(folder)!r}; give the folder that holds them")

    def find(self, name: str) -> str:
        """
        The file meant by `name`: a path in the folder, else the one file of that name in any folder below it, with,
        without, or with another suffix.

        Returns:
            its path relative to the folder, with forward slashes.

        Raises:
            BadRow: there is none, or more than one.
        """
        if name in self._paths:
            return name
        path = PurePosixPath(name)
        found = self._named.get(path.name, [])
        if not found and path.suffix.lower() in self._suffixes:
            found = self._named.get(path.stem, [])
        if not found:
            raise BadRow(f"its {self._what} is not in the folder ({name!r})")
        if len(found) > 1:
            raise BadRow(
                f"more than one file in the folder could be its {self._what} ({name!r}: {', '.join(sorted(found))})"
            )
        return found[0]


class VideoFolder(NamedFiles):
    """
    The videos of a folder, and how long they are.

    Args:
        folder: where they are.
        limits: what reading a duration may cost.

    Raises:
        InputError: it is no folder, or holds no videos.
    """

    def __init__(self, folder: str | os.PathLike, limits: VideoLimits | None = None):
        super().__init__(folder, VIDEO_SUFFIXES, "video")
        self._limits = limits
        self._durations: dict[str, float] = {}

    @property
    def durations_read(self) -> int:
        """Files that were opened for their duration so far."""
        return len(self._durations)

    def duration(self, path: str) -> float:
        """Seconds of the file at `path`, which `find` gave.

        Raises:
            BadRow: it cannot be read.
        """
        if path not in self._durations:
            try:
                with open_video(str(self.folder / path), self._limits) as video:
                    self._durations[path] = float(video.duration)
            except VideoError as error:
                raise BadRow(f"its video cannot be read ({error})") from error
        return self._durations[path]

    def completed(self, row: dict) -> dict:
        """`row` with its file as `video_path`, and with a duration if it has none.

        Raises:
            BadRow: see `find` and `duration`.
        """
        path = self.find(str(row.get("video_path") or row.get("video_id") or ""))
        row = row | {"video_path": path}
        return row if row.get("duration") is not None else row | {"duration": self.duration(path)}


__all__ = ["VIDEO_SUFFIXES", "NamedFiles", "VideoFolder"]
