"""From a file to exact pictures with their true times, decoding only what is needed.

Shapes: N wanted pictures, M pictures of the file, H x W pixels, RGB.

The way: an index without decoding (`video_index_ntlbg`), a grid uniform in time snapped to real pictures, then one
visit per group of pictures (GOP): from its keyframe to the last wanted packet, jumping only over long stretches
(`video_walk_ntlbg`); large reads are shared out to threads. Each frame is converted to its final size as it leaves the
decoder, so that full-size frames are never collected. Where the index cannot be trusted (`VideoIndex.sequential`),
everything is decoded and counted instead: slower, equally exact.
"""

import copy
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from av.video.reformatter import VideoReformatter

from .video_download_ntlbg import download_video, is_address
from .video_images_ntlbg import ImageFiles, ImageReader
from .video_index_ntlbg import (
    PYAV_VERSION,
    check_pixels,
    check_time,
    source_name,
)
from .video_reader_ntlbg import Allocate, VideoReader, empty_frames
from .video_source_ntlbg import (
    CandidateFrames,
    VideoClip,
    VideoError,
    VideoLimits,
    frames_in_memory,
    is_encoded_source,
    is_image_files,
    is_video_source,
    not_a_video,
    unclipped,
    uniform_pictures,
)
from .video_torchcodec_ntlbg import check_torchcodec, torchcodec_pictures
from .video_walk_ntlbg import VideoWalk, plan_visits, share_out


# A share of the pictures goes to a thread of its own where it decodes at least this many pixels, more than a second's
# work: the file is opened once more for it.
PIXELS_PER_THREAD = 1e9
# Each holds a decoder with its reference pictures: 13 MiB at 1280 x 720.
MAX_THREADS = 4

# PyAV's later releases let the scaler start threads of its own; for one picture they cost more than they bring.
SCALER_THREADS = {"threads": 1} if PYAV_VERSION >= (17, 1) else {}

# Sample aspect ratios beyond this are damage, not intent (anamorphic film is 2, VCD 1.5).
MAX_SAMPLE_ASPECT_RATIO = 4.0


class _Picker:
    """Turns decoded frames into the rows of one uint8 array (N, H, W, 3): scaled, square pixels, upright."""

    def __init__(
        self,
        count: int,
        max_side: int | None,
        sample_aspect_ratio: float,
        limits: VideoLimits,
        name: str,
        allocate: Allocate | None,
    ):
        self.count, self.max_side, self.limits, self.name = count, max_side, limits, name
        self.allocate = allocate or empty_frames
        self.sample_aspect_ratio = sample_aspect_ratio
        self.reformatter = VideoReformatter()
        self.frames: np.ndarray | None = None
        self.height = self.width = 0
        self.filled = np.zeros(count, dtype=bool)
        self.corrupt = self.resized = 0

    def _prepare(self, frame, rotation: int) -> None:
        """Fixes the size of all frames from the first one that arrives."""
        self.turns = round(rotation / 90) % 4
        self.coded = (frame.width, frame.height)
        width, height = max(1, round(frame.width * self.sample_aspect_ratio)), frame.height
        scale = min(1.0, self.max_side / max(width, height)) if self.max_side else 1.0
        self.scaled = (max(1, round(width * scale)), max(1, round(height * scale)))
        upright = (lambda w, h: (h, w)) if self.turns % 2 else (lambda w, h: (w, h))
        self.width, self.height = upright(width, height)
        out_width, out_height = upright(*self.scaled)
        size = self.count * out_width * out_height * 3
        if size > self.limits.max_output_bytes:
            raise VideoError(
                f"{self.count} frames of {out_width} x {out_height} pixels from {self.name!r} need {size} bytes, more "
                f"than the limit of {self.limits.max_output_bytes}; lower max_candidates or set max_side."
            )
        self.frames = self.allocate((self.count, out_height, out_width, 3))

    def twin(self) -> "_Picker":
        """Another one that fills the same array, for another thread; the size must be fixed by now."""
        twin = copy.copy(self)
        twin.reformatter, twin.corrupt, twin.resized = VideoReformatter(), 0, 0
        return twin

    def put(self, slot: int, frame, rotation: int) -> None:
        check_pixels(frame.width, frame.height, self.name, self.limits)
        if len(frame.planes) <= max(component.plane for component in frame.format.components):
            # FFmpeg's AV1 decoder gives such out of damaged streams, and its scaler would read what is not there
            return
        if self.frames is None:
            self._prepare(frame, rotation)
        self.corrupt += bool(frame.is_corrupt)
        self.resized += (frame.width, frame.height) != self.coded
        width, height = self.scaled
        picture = self.reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation="BILINEAR", **SCALER_THREADS
        ).to_ndarray()
        self.frames[slot] = np.rot90(picture, k=self.turns)
        self.filled[slot] = True


def _between(numbers: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`values` (K,) at the picture numbers `known` (K,), carried on in equal steps to all `numbers` (M,)."""
    filled = np.interp(numbers, known, values)
    step = (values[-1] - values[0]) / (known[-1] - known[0])
    filled[: known[0]] = values[0] - step * (known[0] - numbers[: known[0]])
    filled[known[-1] + 1 :] = values[-1] + step * (numbers[known[-1] + 1 :] - known[-1])
    return filled


def usable_threads() -> int:
    """Decoding threads that are of use: the cores of this process; one in a worker process, which has siblings."""
    if multiprocessing.parent_process() is not None:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_THREADS)


class VideoFile(VideoReader):
    """
    One opened video file: its index, and exact pictures by number. A context manager.

    Args:
        source: path, `os.PathLike`, bytes, seekable binary file object, an http(s) address where `limits` allow it
            (downloaded until [`close`]), or a [`VideoClip`] of one of these.
        limits (`VideoLimits`, *optional*): what the file may cost.
        backend (`str`, defaults to `"pyav"`): what decodes, `"pyav"` or `"torchcodec"`. PyAV opens, checks and indexes
            the file in any case; see `video_torchcodec_ntlbg` for what torchcodec serves, and how near it comes.
        threads (`int`, *optional*): that PyAV decodes with at most, where the pictures asked for are enough to share
            out; [`usable_threads`] by default. The pictures are the same (what is damaged may be concealed otherwise).

    Attributes: see [`VideoReader`].

    Raises:
        VideoError: the file cannot be used.
    """

    def __init__(self, source, limits: VideoLimits | None = None, backend: str = "pyav", threads: int | None = None):
        if backend not in ("pyav", "torchcodec"):
            raise VideoError(f"`backend` must be 'pyav' or 'torchcodec', but got {backend!r}.")
        self.backend = backend
        self.source, clip = unclipped(source)
        self.limits = limits or VideoLimits()
        self._walk = self._download = None
        self._threads = usable_threads() if threads is None else threads
        if is_address(self.source):
            self.source = self._download = download_video(self.source, self.limits)
        self.name = source_name(self.source)
        deadline = time.monotonic() + self.limits.decode_timeout
        try:
            self._walk = VideoWalk(self.source, self.name, self.limits, deadline)
            self.index = self._walk.index()
            if backend == "torchcodec":
                check_torchcodec(self._walk.container, self.index, self.name)
            self.warnings = list(self.index.warnings)
            self.times = self.index.times
            if self.index.sequential:
                self.times = self._counted_times()
            self.fps, self.duration = self._rate_and_duration()
            self._check_header()
            self.cut_to(clip)
        except BaseException:
            self.close()
            raise

    @property
    def keyframes(self) -> np.ndarray | None:
        """See [`VideoReader.keyframes`]; None where everything must be decoded and counted."""
        if self.index.sequential:
            return None
        return self.first + np.flatnonzero(self.index.key[self.index.pictures[self.first : self.stop]])

    def close(self) -> None:
        if self._walk is not None:
            self._walk.close()
        if self._download is not None:
            self._download.close()

    # -- time ----------------------------------------------------------------------------------------------------

    def _counted_times(self) -> np.ndarray:
        """Seconds of each picture where the index is of no use: decode everything and look."""
        stamps = [frame.pts for frame in self._walk.everything()]
        if not stamps:
            raise VideoError(f"No picture of {self.name!r} can be decoded; the file is damaged.")
        known = np.array([number for number, stamp in enumerate(stamps) if stamp is not None], dtype=np.int64)
        if len(known) < 2:
            rate = self._walk.stream.average_rate or self._walk.stream.guessed_rate
            if not rate:
                raise VideoError(f"{self.name!r} tells neither times nor a frame rate; convert it to MP4.")
            self.warnings.append(f"{self.index.sequential}: times were counted at {float(rate):g} pictures per second")
            return np.arange(len(stamps)) / float(rate)
        # Pictures leave the decoder in the order in which they are shown, whatever their stamps say.
        ticks = np.sort(np.array([stamps[number] for number in known], dtype=np.float64))
        if len(known) < len(stamps):
            ticks = _between(np.arange(len(stamps)), known, ticks)
        self.warnings.append(f"{self.index.sequential}: times were put in the order of the pictures")
        start = ticks[0]
        # AVI counts packets: its first picture is the first, however much later it leaves the decoder
        if self._walk.stream.start_time is not None and "avi" not in self._walk.container.format.name.split(","):
            start = min(start, self._walk.stream.start_time)
        return (ticks - start) * float(self._walk.stream.time_base)

    def _rate_and_duration(self) -> tuple[float, float]:
        count, span = len(self.times), float(self.times[-1] - self.times[0])
        header_rate = float(self._walk.stream.average_rate or self._walk.stream.guessed_rate or 0)
        fps = (count - 1) / span if span > 0 else header_rate
        # times in a container are rounded to its clock: the header's rate is the exact one where both agree
        if header_rate and abs(fps / header_rate - 1) < 1e-3:
            fps = header_rate
        last = self.index.last_duration or (1 / fps if fps else 0.0)
        if not fps:
            fps = 1 / last if last else 1.0
        duration = span + last
        if duration > self.limits.max_duration:
            raise VideoError(
                f"{self.name!r} lasts {duration:.0f} s, more than the limit of {self.limits.max_duration:.0f} s; "
                "cut it or raise VideoLimits.max_duration."
            )
        return fps, duration

    def _check_header(self) -> None:
        """Says what the header promised and the file does not hold (a recording that was cut off)."""
        header = 0.0
        if self._walk.stream.duration is not None:
            header = float(self._walk.stream.duration * self._walk.stream.time_base)
        elif self._walk.container.duration is not None:
            header = self._walk.container.duration / 1e6
        end = float(self.times[0]) + self.duration
        if header - end > max(1.0, 0.05 * header):
            frames = self._walk.stream.frames
            promised = f" and {frames} pictures" if frames > len(self.times) else ""
            self.warnings.append(
                f"the header promises {header:.2f} s{promised}, but the {len(self.times)} pictures end at "
                f"{end:.2f} s: the file seems cut off"
            )

    # -- pictures ------------------------------------------------------------------------------------------------

    def read(
        self,
        pictures: np.ndarray,
        max_side: int | None = None,
        drop_missing: bool = False,
        allocate: Allocate | None = None,
        draft: bool = False,
    ) -> CandidateFrames:
        """Exactly the pictures with these numbers; see [`VideoReader.read`]."""
        pictures = self.checked(pictures, max_side)
        self._walk.draft, self._walk.damaged = draft, 0
        self._walk.deadline = time.monotonic() + self.limits.decode_timeout
        wanted, slots = np.unique(pictures, return_inverse=True)
        warnings = list(self.warnings)
        aspect = self._sample_aspect_ratio(warnings)
        picker = _Picker(len(wanted), max_side, aspect, self.limits, self.name, allocate)
        self._pick(wanted, picker)
        missing = int((~picker.filled).sum())
        if missing == len(wanted) or (missing and not drop_missing):
            raise VideoError(
                f"{missing} of {len(wanted)} wanted pictures of {self.name!r} cannot be decoded: the file is damaged."
            )
        for number, what in (
            (missing, "wanted pictures cannot be decoded and were left out"),
            (self._walk.damaged, "packets could not be decoded"),
            (picker.corrupt, "wanted pictures are marked as damaged"),
            (picker.resized, "wanted pictures had another size and were scaled to that of the first"),
        ):
            if number:
                warnings.append(f"{number} {what}")
        size = (picker.width, picker.height)
        return self.candidates(wanted, slots, picker.filled, picker.frames, size, warnings)

    def _sample_aspect_ratio(self, warnings: list[str]) -> float:
        ratio = float(self._walk.stream.sample_aspect_ratio or 1)
        if ratio <= 0:
            return 1.0
        if not 1 / MAX_SAMPLE_ASPECT_RATIO <= ratio <= MAX_SAMPLE_ASPECT_RATIO:
            warnings.append(
                f"the pixel shape {ratio:g} : 1 in the header is not plausible: square pixels were assumed"
            )
            return 1.0
        return ratio

    def cost(self, pictures: np.ndarray) -> tuple[int, int, int]:
        """See [`VideoReader.cost`]; of most codecs, packets that nothing refers to are passed over besides."""
        if self.index.sequential:
            return len(self.index.pts), len(self.index.pts), 1
        visits = plan_visits(self.index, np.unique(pictures))
        return sum(packets[-1] - start + 1 for start, packets in visits), len(self.index.pts), len(visits)

    def _pick(self, wanted: np.ndarray, picker: _Picker) -> None:
        """Gives the wanted picture numbers (N,), distinct and ascending, to `picker`."""
        walk = self._walk
        if self.backend == "torchcodec":
            for slot, frame, rotation in torchcodec_pictures(self.source, walk.stream, self.index, wanted, self.name):
                check_time(walk.deadline, self.name, self.limits)
                picker.put(slot, frame, rotation)
        elif self.index.sequential:
            for slot, frame in walk.counted(wanted):
                picker.put(slot, frame, frame.rotation)
        else:
            self._pick_in_shares(wanted, picker)

    def _pick_in_shares(self, wanted: np.ndarray, picker: _Picker) -> None:
        """Shares of `wanted` are decoded by a thread each, from an opening of the file of its own."""
        # an object that is read at one place cannot be read at another at the same time
        threads = self._threads if isinstance(self.source, str | os.PathLike | bytes) else 1
        least = PIXELS_PER_THREAD / max(self._walk.stream.width * self._walk.stream.height, 1)
        first, *others = share_out(self.index, wanted, threads, least)
        if not others:
            self._pick_share(self._walk, wanted, first, picker)
            return
        helpers: list[VideoWalk] = []
        jobs: list[Future] = []

        def begin() -> None:
            for share in others:
                walk = VideoWalk(self.source, self.name, self.limits, self._walk.deadline, self._walk.draft)
                helpers.append(walk)
                jobs.append(pool.submit(self._pick_share, walk, wanted, share, picker.twin()))

        try:
            with ThreadPoolExecutor(len(others), thread_name_prefix="ntlbg-decode") as pool:
                try:
                    # the first picture sets the size of all: the others begin when it is there
                    self._pick_share(self._walk, wanted, first, picker, begin)
                    for job in jobs:
                        job.result()
                except BaseException:
                    for walk in helpers:
                        walk.deadline = -np.inf  # where one fails, the others need not go on
                    raise
        finally:
            for walk in helpers:
                walk.close()
        for share in others if not jobs else ():
            self._pick_share(self._walk, wanted, share, picker)
        picker.corrupt += sum(job.result().corrupt for job in jobs)
        picker.resized += sum(job.result().resized for job in jobs)
        self._walk.damaged += sum(walk.damaged for walk in helpers)

    def _pick_share(
        self, walk: VideoWalk, wanted: np.ndarray, share: slice, picker: _Picker, begin: Callable | None = None
    ) -> _Picker:
        """Gives the pictures of one share to `picker`; `begin` is called once, after the first of them."""
        for slot, frame in walk.pictures(self.index, wanted[share]):
            picker.put(share.start + slot, frame, frame.rotation)
            if begin is not None:
                begin()
                begin = None
        return picker


def open_video(source, limits: VideoLimits | None = None, backend: str = "pyav") -> VideoReader:
    """
    Opens whatever is not in memory: what decoding, probing and scanning read from.

    Args:
        source: as for [`decode_candidates`], except frames in memory.
        limits (`VideoLimits`, *optional*): what it may cost.
        backend (`str`, defaults to `"pyav"`): files only: see [`VideoFile`].

    Raises:
        VideoError: it cannot be used.
    """
    return ImageReader(source, limits) if is_image_files(unclipped(source)[0]) else VideoFile(source, limits, backend)


def decode_candidates(
    source,
    *,
    candidate_fps: float = 2.0,
    max_candidates: int = 768,
    max_side: int | None = None,
    source_fps: float | None = None,
    limits: VideoLimits | None = None,
    allocate: Allocate | None = None,
    scan: str = "grid",
    backend: str = "pyav",
) -> CandidateFrames:
    """
    The frames a selector may choose from: a grid uniform in time, snapped to real pictures, distinct and in order.

    Or a scan (see `video_scan_ntlbg`), which costs a long file much less. Its candidates stand at unequal steps and
    are drafts: to be looked at, and to be read again with [`decode_frames`] where they are chosen.

    Args:
        source: path, `os.PathLike`, bytes, seekable binary file object, array or tensor (N, H, W, 3) or (N, 3, H, W),
            a list of frames (PIL images or arrays), [`ImageFiles`], an http(s) address where `limits` allow it (each
            call downloads it: see [`download_video`] for once), or a [`VideoClip`] of one of these.
        candidate_fps (`float`, defaults to 2.0): grid points per second.
        max_candidates (`int`, defaults to 768): cap; a longer video gets a coarser grid.
        max_side (`int`, *optional*): files only: the longer side is scaled down to this many pixels while decoding.
        source_fps (`float`, *optional*): rate of frames in memory. Unknown: they are taken to be candidates already
            (never thinned, except for `max_candidates`), timed at 24 per second as transformers does, and a warning
            says so.
        limits (`VideoLimits`, *optional*): what a file may cost.
        allocate (`Callable`, *optional*): files and image files only: see [`VideoReader.read`].
        scan (`str`, defaults to `"grid"`): files only: `"keyframes"` for a scan instead of the grid, `"auto"` for one
            where the video is long: see [`VideoReader.scanned_pictures`].
        backend (`str`, defaults to `"pyav"`): files only: see [`VideoFile`].

    Raises:
        VideoError: the source cannot be used, in one sentence.
    """
    if not is_video_source(source):
        raise not_a_video(source)
    if not is_encoded_source(source):
        video = frames_in_memory(source, fps=source_fps)
        return thin_candidates(video, candidate_fps if source_fps else None, max_candidates)
    with open_video(source, limits, backend) as video:
        scanned = video.scanned_pictures(candidate_fps, max_candidates, scan)
        if scanned is not None:
            return video.read(scanned, max_side, True, allocate, draft=True)
        return video.read(video.candidate_pictures(candidate_fps, max_candidates), max_side, True, allocate)


def decode_frames(
    source,
    indices,
    *,
    max_side: int | None = None,
    source_fps: float | None = None,
    limits: VideoLimits | None = None,
    backend: str = "pyav",
) -> CandidateFrames:
    """
    Exactly the pictures with these presentation-order numbers, in the order given, repeated where repeated.

    Args:
        source: as for [`decode_candidates`].
        indices: integers (N,).
        max_side, source_fps, limits, backend: as for [`decode_candidates`].

    Raises:
        VideoError: the source cannot be used, a number is out of range, or a picture cannot be decoded.
    """
    indices = np.asarray(indices, dtype=np.int64)
    if is_encoded_source(source):
        with open_video(source, limits, backend) as video:
            return video.read(indices, max_side)
    video = frames_in_memory(source, fps=source_fps)
    return take_frames(video, positions_of(video, indices))


def positions_of(video: CandidateFrames, indices) -> np.ndarray:
    """int64 (N,): where in `video` the pictures with these numbers (N,) are.

    Raises:
        VideoError: one of them is not there.
    """
    indices = np.asarray(indices, dtype=np.int64)
    positions = np.clip(np.searchsorted(video.indices, indices), 0, len(video) - 1)
    if not indices.size or (video.indices[positions] != indices).any():
        raise VideoError(
            f"Frame numbers of {video.name!r} must be a non-empty list within "
            f"{video.indices[0]}..{video.indices[-1]}, but got {indices.ravel()[:8].tolist()}."
        )
    return positions


def take_frames(video: CandidateFrames, positions) -> CandidateFrames:
    """The frames of `video` at these positions (N,) among its own frames, everything else kept."""
    positions = np.asarray(positions, dtype=np.int64)
    if positions.ndim != 1 or not len(positions) or positions.min() < 0 or positions.max() >= len(video):
        raise VideoError(
            f"Frame numbers of {video.name!r} must be a non-empty list within 0..{len(video) - 1}, but got "
            f"{positions.ravel()[:8].tolist()}."
        )
    return replace(
        video,
        frames=video.frames[positions],
        timestamps=video.timestamps[positions],
        indices=video.indices[positions],
    )


def thin_candidates(video: CandidateFrames, candidate_fps: float | None, max_candidates: int) -> CandidateFrames:
    """`video` on a grid uniform in time; `candidate_fps=None` keeps every frame up to `max_candidates`."""
    times = video.timestamps
    period = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1 / video.fps
    keep = uniform_pictures(times, times[-1] - times[0] + period, candidate_fps, max_candidates)
    return video if len(keep) == len(video) else take_frames(video, keep)


__all__ = [
    "CandidateFrames",
    "ImageFiles",
    "VideoClip",
    "VideoError",
    "VideoFile",
    "VideoLimits",
    "decode_candidates",
    "decode_frames",
    "open_video",
]
