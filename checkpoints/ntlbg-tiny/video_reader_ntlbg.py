"""What every opened video offers, be it one file or many pictures: times, candidate numbers, exact pictures.

Shapes: N wanted pictures, M pictures of the video, H x W pixels, RGB.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from .video_scan_ntlbg import WIDEST_SCAN_GAP, scan_pictures
from .video_source_ntlbg import (
    CandidateFrames,
    VideoClip,
    VideoError,
    clip_range,
    clip_seconds,
    uniform_pictures,
)


# How candidates are looked for, see `VideoReader.scanned_pictures`.
SCANS = ("auto", "grid", "keyframes")

# Gives a writable uint8 array of a shape (N, H, W, 3).
Allocate = Callable[[tuple[int, ...]], np.ndarray]


def empty_frames(shape: tuple[int, ...]) -> np.ndarray:
    """A uint8 array of this shape, not filled."""
    return np.empty(shape, dtype=np.uint8)


class VideoReader(ABC):
    """
    An opened video. A context manager.

    Attributes:
        name (`str`): for messages and reports.
        times (`np.ndarray` of shape `(M,)`): seconds of every picture in presentation order.
        fps (`float`): average pictures per second.
        duration (`float`): seconds from the first picture to the end of the last one.
        warnings (`list[str]`): what was found damaged or missing.
        first, stop (`int`): only the pictures with numbers in [first, stop) may be read: those of the clip.
        clip (`tuple[float, float]`, *optional*): the seconds of the clip; None for the whole video.
    """

    name: str
    times: np.ndarray
    fps: float
    duration: float
    warnings: list[str]
    first: int
    stop: int
    clip: tuple[float, float] | None

    def cut_to(self, clip: VideoClip | None) -> None:
        """Sets `first`, `stop` and `clip`; called once, when `times` and `duration` are known.

        Raises:
            VideoError: no picture lies within the clip.
        """
        self.first, self.stop, self.clip = 0, len(self.times), None
        if clip is not None:
            video_end = float(self.times[0]) + self.duration
            self.first, self.stop, warnings = clip_range(clip, self.times, video_end, self.name)
            self.warnings += warnings
            self.clip = clip_seconds(clip, video_end)

    @property
    def pictures(self) -> np.ndarray:
        """int64 (M,): the numbers of all pictures that may be read."""
        return np.arange(self.first, self.stop, dtype=np.int64)

    @property
    def end(self) -> float:
        """Seconds at which the last picture that may be read ends."""
        return float(self.times[0]) + self.duration if self.clip is None else self.clip[1]

    @property
    def keyframes(self) -> np.ndarray | None:
        """int64 (K,): ascending numbers of the pictures in [first, stop) that are decoded alone.

        None where no picture is cheaper than another.
        """
        return None

    def candidate_pictures(self, candidate_fps: float | None, max_candidates: int) -> np.ndarray:
        """int64 (N,): picture numbers on a grid uniform in time, see [`uniform_pictures`]."""
        times = self.times[self.first : self.stop]
        return self.first + uniform_pictures(times, self.end - float(times[0]), candidate_fps, max_candidates)

    def scanned_pictures(self, candidate_fps: float | None, max_candidates: int, scan: str) -> np.ndarray | None:
        """
        int64 (N,): picture numbers of a scan, see [`scan_pictures`]; None where a grid is to be taken.

        Args:
            candidate_fps, max_candidates: as for [`candidate_pictures`].
            scan (`str`): `"grid"`: never; `"keyframes"`: wherever some pictures are cheaper than others; `"auto"`: for
                long videos, which a grid of `candidate_fps` would exceed `max_candidates` on and a scan would not.

        Raises:
            VideoError: `scan` is none of these.
        """
        if scan not in SCANS:
            raise VideoError(f"`scan` must be one of {', '.join(SCANS)}, but got {scan!r}.")
        grid = self.candidate_pictures(candidate_fps, max_candidates)
        keyframes = self.keyframes
        times = self.times[self.first : self.stop]
        fits = candidate_fps is not None and (self.end - float(times[0])) * candidate_fps <= max_candidates
        if scan == "grid" or keyframes is None or len(grid) == len(times) or (scan == "auto" and fits):
            return None
        numbers = scan_pictures(
            times,
            keyframes - self.first,
            self.end,
            candidate_fps=candidate_fps,
            max_candidates=max_candidates,
            widest_gap=WIDEST_SCAN_GAP if scan == "auto" else np.inf,
        )
        return None if numbers is None else self.first + numbers

    @abstractmethod
    def read(
        self,
        pictures: np.ndarray,
        max_side: int | None = None,
        drop_missing: bool = False,
        allocate: Allocate | None = None,
        draft: bool = False,
    ) -> CandidateFrames:
        """
        Exactly the pictures with these numbers.

        Args:
            pictures (`np.ndarray` of shape `(N,)`): presentation-order numbers in [first, stop), in any order, also
                repeated.
            max_side (`int`, *optional*): the longer side is scaled down to this many pixels.
            drop_missing (`bool`): leave out pictures that cannot be decoded and say so in `warnings`, else raise.
            allocate (`Callable`, *optional*): gives the uint8 array of a shape (N, H, W, 3) that the pictures are
                written to, once the size of the first one is known; `np.empty` by default.
            draft (`bool`): the pictures are only to be looked at small: the decoder may leave out its deblocking
                filter, which moves them by about 1 of 255 on average and saves a fifth of the time.

        Raises:
            VideoError: numbers out of range, too much memory, or pictures that cannot be decoded.
        """

    @abstractmethod
    def cost(self, pictures: np.ndarray) -> tuple[int, int, int]:
        """What reading `pictures` (N,), ascending, takes: packets to decode, of how many, in how many stretches."""

    def checked(self, pictures, max_side: int | None) -> np.ndarray:
        """`pictures` as int64 (N,), after checking the arguments of [`read`]."""
        pictures = np.asarray(pictures, dtype=np.int64)
        if pictures.ndim != 1 or not len(pictures) or pictures.min() < self.first or pictures.max() >= self.stop:
            clip = "" if self.clip is None else f" (the clip from {self.clip[0]:g} s to {self.clip[1]:g} s)"
            raise VideoError(
                f"Picture numbers of {self.name!r} must be a non-empty list within {self.first}..{self.stop - 1}"
                f"{clip}, but got {pictures.ravel()[:8].tolist()}."
            )
        if max_side is not None and max_side < 1:
            raise VideoError(f"`max_side` must be a positive number of pixels, but got {max_side}.")
        return pictures

    def candidates(
        self,
        wanted: np.ndarray,
        slots: np.ndarray,
        filled: np.ndarray,
        frames: np.ndarray,
        size: tuple[int, int],
        warnings: list[str],
    ) -> CandidateFrames:
        """
        [`CandidateFrames`] of what was read.

        Args:
            wanted (`np.ndarray` of shape `(U,)`): distinct picture numbers, ascending.
            slots (`np.ndarray` of shape `(N,)`): for each picture asked for, which of `wanted` it is.
            filled (`np.ndarray` of shape `(U,)`): bool, whether it could be decoded.
            frames (`np.ndarray` of shape `(U, H, W, 3)`): the pictures.
            size (`tuple[int, int]`): width and height of the source.
            warnings (`list[str]`): what happened.
        """
        keep = slots[filled[slots]]
        numbers = wanted[keep]
        # not copied where nothing changes: there may be gigabytes, or memory that was given
        in_order = len(keep) == len(frames) and (keep == np.arange(len(keep))).all()
        return CandidateFrames(
            frames=frames if in_order else frames[keep],
            timestamps=self.times[numbers].copy(),
            indices=numbers,
            fps=self.fps,
            total_num_frames=len(self.times),
            duration=self.duration,
            height=size[1],
            width=size[0],
            name=self.name,
            warnings=warnings,
            clip=self.clip,
        )

    @abstractmethod
    def close(self) -> None:
        """Lets go of what was opened."""

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_) -> None:
        self.close()
