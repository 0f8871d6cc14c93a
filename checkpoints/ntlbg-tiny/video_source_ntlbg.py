"""What goes into and comes out of decoding: sources, limits, the frames with their times, and the one error.

Shapes: N candidate frames, H x W pixels, 3 channels RGB.
"""

import math
import os
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image


# transformers assumes this rate wherever the rate of in-memory frames is unknown; so do we, or prompts would differ.
ASSUMED_FPS = 24.0


class VideoError(ValueError):
    """A video that cannot be used. The message is one sentence: what is wrong, what came, how to fix it."""


@dataclass(frozen=True)
class VideoLimits:
    """
    What a video may cost before it is refused with a [`VideoError`]; every number may be raised or lowered.

    Args:
        max_bytes (`int`, defaults to 32 GiB): size of the file.
        max_pixels (`int`, defaults to 8192 * 4320): pixels of one picture (8K DCI); guards probing and decoding.
        max_duration (`float`, defaults to 86400): seconds that the pictures span.
        max_frames (`int`, defaults to 5,184,000): pictures in the file (one day at 60 per second).
        max_output_bytes (`int`, defaults to 8 GiB): decoded frames held at once.
        timeout (`float`, defaults to 30): seconds for opening and for each read.
        decode_timeout (`float`, defaults to 3600): seconds of wall clock for indexing a file, and for each reading of
            pictures from it.
        allow_http (`bool`, defaults to `False`): whether http and https addresses are downloaded at all.
        allow_private_hosts (`bool`, defaults to `False`): whether they may lead to loopback, private, link-local and
            other hosts that are not on the public internet.
        max_download_bytes (`int`, defaults to 4 GiB): size of a download.
        download_timeout (`float`, defaults to 600): seconds for a whole download.
    """

    max_bytes: int = 32 * 2**30
    max_pixels: int = 8192 * 4320
    max_duration: float = 86_400.0
    max_frames: int = 60 * 86_400
    max_output_bytes: int = 8 * 2**30
    timeout: float = 30.0
    decode_timeout: float = 3600.0
    allow_http: bool = False
    allow_private_hosts: bool = False
    max_download_bytes: int = 4 * 2**30
    download_timeout: float = 600.0

    def __post_init__(self):
        for name, value in vars(self).items():
            if not isinstance(value, bool) and not value > 0:
                raise VideoError(f"VideoLimits.{name} must be a positive number, but got {value!r}.")


@dataclass(frozen=True, eq=False)
class VideoClip:
    """
    A stretch of a video: candidates and pictures come only from it, with their numbers and times in the whole video.

    Args:
        source: any video, see [`decode_candidates`].
        start (`float`, *optional*): seconds from the start of the video; its beginning by default.
        end (`float`, *optional*): likewise; the video's end by default. A picture shown at `end` belongs to the clip.

    Raises:
        VideoError: the two are not seconds with 0 <= start <= end.
    """

    source: Any
    start: float | None = None
    end: float | None = None

    def __post_init__(self):
        if is_clip(self.source):
            raise VideoError("A clip of a clip is not taken; pass the video itself with the narrower start and end.")
        first, last = (0.0 if self.start is None else self.start), (math.inf if self.end is None else self.end)
        if not (0 <= first < math.inf and first <= last):
            raise VideoError(
                f"A clip needs seconds with 0 <= start <= end, but got start={self.start} and end={self.end}."
            )


@dataclass(eq=False)
class CandidateFrames:
    """
    Decoded frames of one video with their true times.

    Args:
        frames (`np.ndarray` of shape `(N, H, W, 3)`): uint8 RGB, upright, square pixels.
        timestamps (`np.ndarray` of shape `(N,)`): float64 seconds, presentation time relative to the stream's start.
        indices (`np.ndarray` of shape `(N,)`): int64 picture numbers in presentation order, counted from 0.
        fps (`float`): average pictures per second of the source.
        total_num_frames (`int`): pictures in the source.
        duration (`float`): seconds from the first picture to the end of the last one.
        height (`int`): of the source in pixels, after rotation and with square pixels.
        width (`int`): likewise.
        name (`str`): file name, or what kind of object came.
        warnings (`list[str]`): what was damaged, dropped or assumed, with counts.
        clip (`tuple[float, float]`, *optional*): the seconds (start, end) that were looked at; None for all.
    """

    frames: np.ndarray
    timestamps: np.ndarray
    indices: np.ndarray
    fps: float
    total_num_frames: int
    duration: float
    height: int
    width: int
    name: str
    warnings: list[str] = field(default_factory=list)
    clip: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.indices)


def is_encoded_source(source) -> bool:
    """Whether `source` is to be opened: path, address, bytes, binary file object, image files, or a clip of these."""
    if is_clip(source):
        return is_encoded_source(source.source)
    if isinstance(source, str | os.PathLike | bytes | bytearray | memoryview) or is_image_files(source):
        return True
    # The two methods are the protocol that av.open asks of a file object; there is no common base class.
    return callable(getattr(source, "read", None)) and callable(getattr(source, "seek", None))


def is_clip(value) -> bool:
    """Whether `value` is a [`VideoClip`]."""
    # by name, as in `is_decoded`
    return type(value).__name__ == "VideoClip"


def is_image_files(value) -> bool:
    """Whether `value` is [`ImageFiles`]."""
    # by name, as in `is_decoded`
    return type(value).__name__ == "ImageFiles"


def unclipped(source) -> tuple[Any, VideoClip | None]:
    """The video itself, and the [`VideoClip`] around it if there is one."""
    return (source.source, source) if is_clip(source) else (source, None)


def is_decoded(value) -> bool:
    """Whether `value` is a [`CandidateFrames`]."""
    # By name: as remote code of a checkpoint this module may be executed twice, which makes two classes of one.
    return type(value).__name__ == "CandidateFrames"


def _is_tensor(value) -> bool:
    # Importing torch takes a second, which a file that is refused should not cost; without it there are no tensors.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_array(value) -> bool:
    return isinstance(value, np.ndarray) or _is_tensor(value)


def is_frame(value) -> bool:
    """Whether `value` is one picture: a PIL image or an array of three axes."""
    return isinstance(value, Image.Image) or (_is_array(value) and value.ndim == 3)


def is_video_source(value) -> bool:
    """Whether `value` is ONE video: a file, an array (N, H, W, 3) or (N, 3, H, W), a list of frames, or a clip."""
    if is_clip(value):
        return is_video_source(value.source)
    if is_encoded_source(value) or is_decoded(value):
        return True
    if _is_array(value):
        return value.ndim == 4
    return isinstance(value, list | tuple) and len(value) > 0 and all(is_frame(frame) for frame in value)


def flatten_videos(videos) -> list:
    """The videos of a batch in order: `videos` may be one video, a list, or lists nested by row.

    Raises:
        VideoError: an element is not a video.
    """
    if is_video_source(videos):
        return [videos]
    if _is_array(videos) and videos.ndim == 5:
        return list(videos)
    if isinstance(videos, list | tuple):
        return [source for element in videos for source in flatten_videos(element)]
    raise not_a_video(videos)


def not_a_video(value) -> VideoError:
    """The error for `value`, which is no video of any kind."""
    shape = f" of shape {tuple(value.shape)}" if _is_array(value) else ""
    empty = " without elements" if isinstance(value, list | tuple) and len(value) == 0 else ""
    return VideoError(
        "A video must be a path, bytes, a binary file object, an array (N, H, W, 3), a list of frames, ImageFiles or "
        f"a VideoClip of one of these, but got {type(value).__name__}{shape}{empty}; convert it."
    )


def _frames_array(source) -> np.ndarray:
    """uint8 array (N, H, W, 3) of the frames in `source` (array, tensor or list of frames)."""
    if isinstance(source, list | tuple):
        frames = [np.asarray(f.convert("RGB")) if isinstance(f, Image.Image) else _to_numpy(f) for f in source]
        shapes = {frame.shape for frame in frames}
        if len(shapes) > 1:
            raise VideoError(
                f"The frames of one video must have one size, but got {sorted(shapes)}; resize them to the same size."
            )
        array = np.stack(frames)
    else:
        array = _to_numpy(source)
    if array.ndim == 4 and array.shape[-1] not in (1, 3) and array.shape[1] in (1, 3):
        array = np.moveaxis(array, 1, -1)
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise VideoError(
            f"Frames must have shape (N, H, W, 3) or (N, 3, H, W) with N >= 1, but got {array.shape}; "
            "convert them to RGB and stack them along a first axis."
        )
    if array.shape[-1] == 1:
        array = np.repeat(array, 3, axis=-1)
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    low, high = (float(array.min()), float(array.max()))
    if not (low >= 0 and high <= 255):
        raise VideoError(
            f"Frames must be uint8, or numbers in [0, 1] or [0, 255], but got {array.dtype} from {low} to {high}; "
            "undo the normalisation first."
        )
    scale = 255.0 if np.issubdtype(array.dtype, np.floating) and high <= 1 else 1.0
    return np.rint(np.asarray(array, dtype=np.float32) * scale).astype(np.uint8)


def _to_numpy(value) -> np.ndarray:
    if _is_tensor(value):
        # numpy has no bfloat16
        value = (value.float() if value.is_floating_point() else value).detach().cpu().numpy()
    return value


def frames_in_memory(source, fps: float | None = None, indices=None, total_num_frames: int | None = None):
    """
    [`CandidateFrames`] of frames that are already decoded: all of them (or all of a clip), unchanged.

    Args:
        source: array or tensor (N, H, W, 3) or (N, 3, H, W), or a list of frames (PIL or arrays). uint8, or floats in
            [0, 1] or [0, 255]; grey frames are repeated to three channels. Or a [`VideoClip`] of one of these.
        fps (`float`, *optional*): pictures per second of the video the frames came from. Unknown: 24 is assumed, as
            transformers does, and a warning says so.
        indices (*optional*): picture numbers (N,) in the video they came from; defaults to 0..N-1.
        total_num_frames (`int`, *optional*): pictures in that video; defaults to the last index + 1.

    Raises:
        VideoError: wrong shape, range, sizes or numbers.
    """
    source, clip = unclipped(source)
    if is_decoded(source):
        return clipped(source, clip)
    frames = _frames_array(source)
    count = len(frames)
    warnings = []
    if fps is None:
        fps = ASSUMED_FPS
        warnings.append(f"the rate of the given frames is unknown: {ASSUMED_FPS:g} per second was assumed")
    if not (np.isfinite(fps) and fps > 0):
        raise VideoError(f"The rate of the given frames must be a positive number per second, but got {fps!r}.")
    indices = np.arange(count) if indices is None else np.asarray(_to_numpy(indices))
    if indices.shape != (count,) or (count > 1 and (np.diff(indices) < 0).any()) or indices[0] < 0:
        raise VideoError(
            f"`frames_indices` must hold {count} picture numbers in ascending order, one per frame, but got shape "
            f"{indices.shape}: {indices[:8].tolist()}."
        )
    total_num_frames = int(total_num_frames or indices[-1] + 1)
    video = CandidateFrames(
        frames=frames,
        timestamps=indices.astype(np.float64) / fps,
        indices=indices.astype(np.int64),
        fps=float(fps),
        total_num_frames=total_num_frames,
        duration=total_num_frames / fps,
        height=frames.shape[1],
        width=frames.shape[2],
        name=f"{count} frames in memory",
        warnings=warnings,
    )
    return clipped(video, clip)


# Seconds; times are multiples of a clock's tick in floating point, and a clip's ends are written as decimals.
_CLOCK_SLACK = 1e-6


def clip_range(clip: VideoClip, times: np.ndarray, video_end: float, name: str) -> tuple[int, int, list[str]]:
    """
    Which pictures belong to a clip.

    Args:
        clip (`VideoClip`): the stretch.
        times (`np.ndarray` of shape `(M,)`): ascending seconds of all pictures.
        video_end (`float`): when the last picture ends.
        name (`str`): of the video, for messages.

    Returns:
        the first picture's number, one past the last one's, and what the caller should know.

    Raises:
        VideoError: no picture is shown within the clip.
    """
    start, end = clip.start or 0.0, math.inf if clip.end is None else clip.end
    first = int(np.searchsorted(times, start - _CLOCK_SLACK, side="left"))
    stop = int(np.searchsorted(times, end + _CLOCK_SLACK, side="right"))
    if first >= stop:
        stretch = f"{end:g} s" if math.isfinite(end) else "its end"
        before = f"the one before is at {times[first - 1]:.3f} s" if first else "none comes before"
        after = f"the next at {times[first]:.3f} s" if first < len(times) else "none follows"
        raise VideoError(
            f"No picture of {name!r} lies within the clip from {start:g} s to {stretch}: {before}, {after}; widen it."
        )
    if math.isfinite(end) and end > video_end + 1:
        return first, stop, [f"the clip was to end at {end:g} s, but the video ends at {video_end:.2f} s"]
    return first, stop, []


def clip_seconds(clip: VideoClip, video_end: float) -> tuple[float, float]:
    """(start, end) of `clip` in a video that ends at `video_end`."""
    return float(clip.start or 0.0), video_end if clip.end is None else min(float(clip.end), video_end)


def clipped(video: CandidateFrames, clip: VideoClip | None) -> CandidateFrames:
    """`video` with only the frames of `clip` (None: all)."""
    if clip is None:
        return video
    first, stop, warnings = clip_range(clip, video.timestamps, video.duration, video.name)
    return replace(
        video,
        frames=video.frames[first:stop],
        timestamps=video.timestamps[first:stop],
        indices=video.indices[first:stop],
        warnings=[*video.warnings, *warnings],
        clip=clip_seconds(clip, video.duration),
    )


def uniform_pictures(
    times: np.ndarray, duration: float, candidate_fps: float | None, max_candidates: int
) -> np.ndarray:
    """
    Picture numbers on a grid uniform in time, each grid point snapped to the picture nearest to it.

    Args:
        times (`np.ndarray` of shape `(M,)`): ascending seconds of all pictures.
        duration (`float`): seconds that the M pictures cover.
        candidate_fps (`float`, *optional*): grid points per second, > 0; None for as many as the cap allows.
        max_candidates (`int`): cap on the grid points, >= 1: a longer video gets a coarser grid.

    Returns:
        int64 (N,), ascending and distinct, 1 <= N <= min(M, max_candidates). Where the pictures stand further apart
        than the grid (a variable frame rate) grid points meet in one picture, which then counts once.
    """
    if candidate_fps is not None and not (np.isfinite(candidate_fps) and candidate_fps > 0):
        raise VideoError(f"`candidate_fps` must be a positive number, but got {candidate_fps!r}.")
    if max_candidates < 1:
        raise VideoError(f"`max_candidates` must be at least 1, but got {max_candidates!r}.")
    # rounding first: 2 fps x 10.04 s is 20 points, not 21
    wanted = max_candidates if candidate_fps is None else round(duration * candidate_fps)
    count = max(1, min(wanted, max_candidates))
    if count >= len(times):
        return np.arange(len(times), dtype=np.int64)
    targets = times[0] + np.arange(count) * (duration / count)
    right = np.clip(np.searchsorted(times, targets), 1, len(times) - 1)
    left = right - 1
    # ties go to the earlier picture
    nearest = np.where(targets - times[left] <= times[right] - targets, left, right)
    return np.unique(nearest).astype(np.int64)
