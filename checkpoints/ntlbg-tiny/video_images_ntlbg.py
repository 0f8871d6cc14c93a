"""Pictures in files of their own, each with its time, read as one video.

Shapes: N wanted pictures, M files, H x W pixels, RGB.
"""

import os
import struct
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .video_index_ntlbg import check_pixels, check_time, checked_path, source_name
from .video_reader_ntlbg import Allocate, VideoReader, empty_frames
from .video_source_ntlbg import CandidateFrames, VideoError, VideoLimits, unclipped


# Pictures that decode by themselves: no documents, no scripts, no references.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")

# EXIF 2.32, 4.6.4: how a picture is to be turned or mirrored to stand upright.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow raises on damaged files of these formats.
_DAMAGE = (
    EOFError,
    IndexError,
    KeyError,
    OSError,
    OverflowError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """
    A video whose pictures are image files (BMP, GIF, JPEG, PNG or WebP; of an animation the first picture).

    Each is turned upright as its EXIF data ask. The size is that of the first picture read; others are scaled to fit
    into it, with black borders, and counted in the warnings.

    Args:
        paths (`Sequence[str | os.PathLike]`): (M,) files in the order of time.
        seconds (`Sequence[float]`, *optional*): (M,) strictly ascending times, the first one >= 0.
        fps (`float`, *optional*): instead of `seconds`: pictures per second, the first at 0.

    Raises:
        VideoError: no paths, or times that do not fit them.
    """

    paths: Sequence[str | os.PathLike]
    seconds: Sequence[float] | None = None
    fps: float | None = None

    def __post_init__(self):
        if isinstance(self.paths, str | os.PathLike | bytes) or not len(self.paths):
            raise VideoError("ImageFiles needs a list of at least one path; pass the files in the order of time.")
        for path in self.paths:
            if not isinstance(path, str | os.PathLike):
                raise VideoError(f"ImageFiles needs paths, but got {type(path).__name__}; save it to a file first.")
        if (self.seconds is None) == (self.fps is None):
            raise VideoError("ImageFiles needs either `seconds`, one per file, or `fps`; pass exactly one of them.")
        if self.fps is not None:
            if not (np.isfinite(self.fps) and self.fps > 0):
                raise VideoError(f"`fps` of ImageFiles must be a positive number, but got {self.fps!r}.")
            return
        times = np.asarray(self.seconds, dtype=np.float64)
        fit = times.shape == (len(self.paths),) and np.isfinite(times).all()
        if not fit or times[0] < 0 or (np.diff(times) <= 0).any():
            raise VideoError(
                f"`seconds` of ImageFiles must be {len(self.paths)} strictly ascending times, one per file, the first "
                f"not below 0, but got {times.ravel()[:8].tolist()}."
            )

    @property
    def times(self) -> np.ndarray:
        """float64 (M,) seconds."""
        if self.fps is not None:
            return np.arange(len(self.paths)) / self.fps
        return np.asarray(self.seconds, dtype=np.float64)


class _BoundedFile:
    """A file of which no more is read than there is: Pillow asks for as many bytes as a damaged length field says."""

    def __init__(self, file):
        self._file, self._size = file, os.fstat(file.fileno()).st_size

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._file.tell())
        return self._file.read(left if size < 0 else min(size, left))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


class ImageReader(VideoReader):
    """
    [`ImageFiles`], or a [`VideoClip`] of them, opened for reading.

    Args:
        source (`ImageFiles` or `VideoClip`): what to read.
        limits (`VideoLimits`, *optional*): what it may cost; `max_bytes` and `max_pixels` hold for each file.

    Raises:
        VideoError: more pictures or seconds than `limits` allow, or an empty clip.
    """

    def __init__(self, source, limits: VideoLimits | None = None):
        self.files, clip = unclipped(source)
        self.limits = limits or VideoLimits()
        self.times, self.warnings = self.files.times, []
        count, span = len(self.times), float(self.times[-1] - self.times[0])
        self.name = f"{count} image files" if count > 1 else source_name(self.files.paths[0])
        self.fps = self.files.fps or ((count - 1) / span if count > 1 else 1.0)
        self.duration = span + (float(np.median(np.diff(self.times))) if count > 1 else 1 / self.fps)
        if count > self.limits.max_frames:
            raise VideoError(
                f"{self.name!r} are more than {self.limits.max_frames} pictures; pass fewer or raise "
                "VideoLimits.max_frames."
            )
        if self.duration > self.limits.max_duration:
            raise VideoError(
                f"{self.name!r} last {self.duration:.0f} s, more than the limit of {self.limits.max_duration:.0f} s; "
                "pass fewer or raise VideoLimits.max_duration."
            )
        self.cut_to(clip)

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
        deadline = time.monotonic() + self.limits.decode_timeout
        wanted, slots = np.unique(pictures, return_inverse=True)
        frames, size, resized, damage = None, (0, 0), 0, []
        filled = np.zeros(len(wanted), dtype=bool)
        for slot, number in enumerate(wanted):
            check_time(deadline, self.name, self.limits)
            try:
                picture = self._picture(self.files.paths[number])
            except _DAMAGE as error:
                if isinstance(error, VideoError):
                    raise
                damage.append(source_name(self.files.paths[number]))
                continue
            if frames is None:
                size = picture.size
                frames = (allocate or empty_frames)(self._shape(len(wanted), size, max_side))
            resized += picture.size != size
            frames[slot], filled[slot] = _fitted(picture, frames.shape[2], frames.shape[1]), True
        if damage and (frames is None or not drop_missing):
            raise VideoError(
                f"{len(damage)} of {len(wanted)} wanted image files cannot be decoded (the first is {damage[0]!r}); "
                f"pass intact files in one of these formats: {', '.join(IMAGE_FORMATS)}."
            )
        warnings = list(self.warnings)
        if damage:
            warnings.append(f"{len(damage)} image files, {damage[0]!r} first, cannot be decoded and were left out")
        if resized:
            warnings.append(f"{resized} image files had another size and were fitted into that of the first")
        return self.candidates(wanted, slots, filled, frames, size, warnings)

    def cost(self, pictures: np.ndarray) -> tuple[int, int, int]:
        """Files to decode, of how many, one by one; see [`VideoReader.cost`]."""
        return len(pictures), len(self.times), len(pictures)

    def _shape(self, count: int, size: tuple[int, int], max_side: int | None) -> tuple[int, int, int, int]:
        """(N, H, W, 3) for `count` pictures of `size` (width, height), scaled down to `max_side`."""
        scale = min(1.0, max_side / max(size)) if max_side else 1.0
        width, height = (max(1, round(length * scale)) for length in size)
        needed = count * width * height * 3
        if needed > self.limits.max_output_bytes:
            raise VideoError(
                f"{count} frames of {width} x {height} pixels from {self.name!r} need {needed} bytes, more than the "
                f"limit of {self.limits.max_output_bytes}; lower max_candidates or set max_side."
            )
        return count, height, width, 3

    def _picture(self, path) -> Image.Image:
        """The picture of one file, upright, RGB.

        Raises:
            VideoError: no regular file, or too large. One of `_DAMAGE`: it cannot be decoded.
        """
        name = source_name(path)
        with open(checked_path(path, self.limits, "an image"), "rb") as file:
            try:
                image = Image.open(_BoundedFile(file), formats=IMAGE_FORMATS)
            except Image.DecompressionBombError as error:
                raise VideoError(
                    f"{name!r} has far more pixels than Pillow decodes; scale it down or raise "
                    "PIL.Image.MAX_IMAGE_PIXELS."
                ) from error
            # before anything is decoded: a file of some kilobytes may hold gigabytes of pixels
            check_pixels(*image.size, name, self.limits)
            turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION))
            if image.mode.startswith("I"):
                # Pillow would clip 16 bits at 255
                image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
            image = image.convert("RGB")
            return image if turn is None else image.transpose(turn)

    def close(self) -> None:
        """Nothing stays open."""


def _fitted(picture: Image.Image, width: int, height: int) -> np.ndarray:
    """`picture` as an array (height, width, 3): scaled as a whole, with black borders where the shape differs."""
    scale = min(width / picture.width, height / picture.height)
    inner = (min(width, max(1, round(picture.width * scale))), min(height, max(1, round(picture.height * scale))))
    if inner != picture.size:
        picture = picture.resize(inner, Image.Resampling.BILINEAR)
    if inner == (width, height):
        return np.asarray(picture)
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    top, left = (height - inner[1]) // 2, (width - inner[0]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = np.asarray(picture)
    return canvas
