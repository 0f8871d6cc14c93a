"""What a video is, what is wrong with it, and what would be decoded of it; only its first picture is decoded."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from typing import Any

import av
import numpy as np

from ntlbg.plain_text import one_line
from ntlbg.processors.video_decoding_ntlbg import VideoFile, VideoLimits, open_video
from ntlbg.processors.video_images_ntlbg import ImageReader
from ntlbg.processors.video_index_ntlbg import check_time, open_container, packets_of, picture_stream
from ntlbg.processors.video_reader_ntlbg import VideoReader
from ntlbg.processors.video_source_ntlbg import VideoError, unclipped
from ntlbg.tables import clock


# Steps between pictures that differ by no more than this many ticks of the container's clock are equal steps, rounded.
_ROUNDING_TICKS = 1.5

# Packets within which a picture must come out that tells how it is turned.
_FIRST_PACKETS = 64


@dataclass(frozen=True)
class Gaps:
    """Steps in seconds: the shortest, the middle and the longest."""

    shortest: float
    median: float
    longest: float

    @classmethod
    def of(cls, times: np.ndarray) -> Gaps | None:
        """Of ascending `times` (M,); None where there is only one."""
        if len(times) < 2:
            return None
        steps = np.diff(times)
        # to the microsecond: what lies below is noise of the arithmetic
        return cls(*(round(float(step), 6) for step in (steps.min(), np.median(steps), steps.max())))


@dataclass(frozen=True)
class Plan:
    """
    What choosing k frames would decode.

    Args:
        mode: "grid" (equal steps in time) or "scan" (keyframes), of either only the packets that are needed;
            "sequential" (everything, twice) or "files" (one image file each).
        reason: why this mode.
        candidates: pictures that would be looked at.
        step: seconds between them on average.
        packets: packets that would be decoded for them, out of `all_packets`.
        stretches: separate places in the file where they lie.
        k: frames that would be decoded again at full size.
    """

    mode: str
    reason: str
    candidates: int
    step: float
    packets: int
    all_packets: int
    stretches: int
    k: int


@dataclass(frozen=True)
class VideoProbe:
    """
    What there is to know of a video without decoding it.

    Args:
        name: of the file, or what kind of object came.
        bytes: size, None if unknown.
        container, codec, profile, pixel_format: as FFmpeg calls them; None for image files.
        coded_width, coded_height: pixels as they are coded.
        width, height: upright and with square pixels, as frames come; None where no picture can be decoded.
        rotation: degrees to turn the coded picture clockwise.
        pixel_shape: width of a pixel over its height.
        duration: seconds from the first picture to the end of the last one.
        start: seconds on the file's own clock at which the pictures begin.
        pictures: how many.
        fps: pictures per second on average.
        constant_rate: whether they come in equal steps.
        gaps: steps between pictures.
        keyframes: how many pictures decoding may start at.
        key_gaps: steps between these.
        other_streams: what else the file holds.
        clip: the seconds that would be looked at; None for all.
        problems: what was found wrong, one sentence each.
        thorough: whether every picture was decoded to find it.
        plan: what would be decoded.
    """

    name: str
    bytes: int | None
    container: str | None
    codec: str | None
    profile: str | None
    pixel_format: str | None
    coded_width: int | None
    coded_height: int | None
    width: int | None
    height: int | None
    rotation: int
    pixel_shape: float
    duration: float
    start: float | None
    pictures: int
    fps: float
    constant_rate: bool
    gaps: Gaps | None
    keyframes: int
    key_gaps: Gaps | None
    other_streams: list[str]
    clip: tuple[float, float] | None
    problems: list[str] = field(default_factory=list)
    thorough: bool = False
    plan: Plan | None = None

    def to_dict(self) -> dict:
        """Everything, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """A few lines for people."""
        rate = "constant"
        if not self.constant_rate:
            rate = f"variable ({_gap(self.gaps.shortest)} to {_gap(self.gaps.longest)})"
        times = f"{clock(self.duration, tenths=True)} long, {self.pictures} pictures, {self.fps:.5g} a second, {rate}"
        if self.start:
            times += f"; the file's clock starts at {self.start:.3f} s"
        keys = f"{self.keyframes} of {self.pictures} pictures"
        if self.key_gaps is not None:
            keys += f", {_gap(self.key_gaps.median)} apart, at most {_gap(self.key_gaps.longest)}"
        none = "none found in any picture" if self.thorough else "none found; --thorough decodes every picture"
        problems = self.problems or [none]
        lines = [
            ("pictures", self._picture_line()),
            ("time", times),
            ("keyframes", keys if self.container is not None else ""),
            ("also holds", ", ".join(self.other_streams)),
            *(("" if number else "problems", problem) for number, problem in enumerate(problems)),
            *(("" if number else "decoding", line) for number, line in enumerate(self._plan_lines())),
        ]
        head = self.name + ("" if self.bytes is None else f", {_size(self.bytes)}")
        return "\n".join([one_line(head), *(f"  {label:<11}{one_line(text)}" for label, text in lines if text)])

    def _picture_line(self) -> str:
        coded = f"{self.coded_width}x{self.coded_height}"
        profile = f" ({self.profile})" if self.profile else ""
        shown = "none can be decoded" if self.width is None else f"{self.width}x{self.height}"
        if self.container is None:
            return f"image files, {shown}"
        parts = [f"{self.codec}{profile} in {self.container}", self.pixel_format or "unknown pixels", coded]
        if self.rotation:
            parts.append(f"turned {self.rotation}°")
        if self.pixel_shape != 1:
            parts.append(f"pixels {self.pixel_shape:.4g} : 1")
        if shown != coded:
            parts.append(f"shown as {shown}" if self.width else shown)
        return ", ".join(parts)

    def _plan_lines(self) -> list[str]:
        plan = self.plan
        where = "" if self.clip is None else " from {} to {}".format(*(clock(s, tenths=True) for s in self.clip))
        share = f"{plan.packets} of {plan.all_packets} packets ({plan.packets / max(plan.all_packets, 1):.0%})"
        how = {
            "grid": f"{share} in {_count(plan.stretches, 'stretch', 'es')}",
            "scan": f"{share} in {_count(plan.stretches, 'stretch', 'es')}",
            "sequential": f"all {plan.all_packets} packets, once for the times and once for the pictures",
            "files": f"{plan.packets} of {plan.all_packets} files",
        }[plan.mode]
        return [
            f"{plan.mode}, because {plan.reason}",
            f"{_count(plan.candidates, 'candidate')}{where}, {_gap(plan.step)} apart on average: {how}",
            f"then the {plan.k} chosen again at full size",
        ]


def probe(
    source: Any,
    *,
    k: int = 16,
    candidate_fps: float = 2.0,
    max_candidates: int = 768,
    scan: str = "auto",
    limits: VideoLimits | None = None,
    thorough: bool = False,
) -> VideoProbe:
    """
    Look at a video without looking at its pictures.

    Args:
        source: path, bytes, binary file object, `ImageFiles`, or a `VideoClip` of these.
        k, candidate_fps, max_candidates, scan: what would be asked for, see `FrameSelector`.
        limits: what the video may cost.
        thorough: decode every picture and count the damage.

    Raises:
        VideoError: it cannot be read as a video.
    """
    limits = limits or VideoLimits()
    with open_video(source, limits) as video:
        facts = _image_facts(video) if isinstance(video, ImageReader) else _file_facts(video, limits)
        problems = list(video.warnings)
        size = None
        try:
            first = video.read(video.pictures[:1])
            size = (first.width, first.height)
            problems += [warning for warning in first.warnings if warning not in problems]
        except VideoError as error:
            problems.append(f"the first picture cannot be had: {_unpointed(error)}")
        if thorough:
            problems += [sentence for sentence in _damage(video, limits) if sentence not in problems]
        gaps = Gaps.of(video.times)
        tick = facts.pop("tick")
        return VideoProbe(
            name=video.name,
            bytes=_bytes(source),
            width=None if size is None else size[0],
            height=None if size is None else size[1],
            duration=video.duration,
            pictures=len(video.times),
            fps=video.fps,
            constant_rate=gaps is None or gaps.longest - gaps.shortest <= 2 * _ROUNDING_TICKS * tick + 1e-9,
            gaps=gaps,
            clip=video.clip,
            problems=problems,
            thorough=thorough,
            plan=_plan(video, k, candidate_fps, max_candidates, scan),
            **facts,
        )


def _file_facts(video: VideoFile, limits: VideoLimits) -> dict:
    index = video.index
    keys = video.times[np.flatnonzero(index.key[index.pictures])] if len(index.pictures) else np.zeros(0)
    with open_container(video.source, limits) as container:
        stream = picture_stream(container, video.name, limits)
        context, tick = stream.codec_context, float(stream.time_base)
        return {
            "container": container.format.long_name,
            "codec": context.codec.canonical_name,
            "profile": context.profile,
            "pixel_format": context.pix_fmt,
            "coded_width": context.width,
            "coded_height": context.height,
            "rotation": _rotation(container, stream),
            "pixel_shape": float(stream.sample_aspect_ratio or 1),
            "start": None if stream.start_time is None else stream.start_time * tick,
            # where the index cannot be trusted, it is known which packets are keys and not when they are shown
            "keyframes": len(keys) or int(index.key.sum()),
            "key_gaps": Gaps.of(keys),
            "other_streams": [_described(other) for other in container.streams if other.index != stream.index],
            "tick": tick,
        }


def _described(stream: av.stream.Stream) -> str:
    cover = "cover picture" if stream.disposition & av.stream.Disposition.attached_pic else ""
    codec = "" if stream.codec_context is None else stream.codec_context.codec.canonical_name
    return " ".join(filter(None, (cover or stream.type, codec)))


def _rotation(container, stream) -> int:
    """Degrees to turn the pictures clockwise, as the first one says that can be decoded."""
    try:
        for packet in islice(packets_of(container, stream), _FIRST_PACKETS):
            try:
                frames = stream.codec_context.decode(packet)
            except av.error.FFmpegError:
                # a damaged packet; a later one may be whole
                continue
            if frames:
                return -round(frames[0].rotation / 90) * 90 % 360
    except av.error.FFmpegError:
        # reading ended; the index has told why
        return 0
    return 0


def _image_facts(video: ImageReader) -> dict:
    return {
        "container": None,
        "codec": None,
        "profile": None,
        "pixel_format": None,
        "coded_width": None,
        "coded_height": None,
        "rotation": 0,
        "pixel_shape": 1.0,
        "start": None,
        "keyframes": len(video.times),
        "key_gaps": None,
        "other_streams": [],
        "tick": 0.0,
    }


def _bytes(source: Any) -> int | None:
    source, _ = unclipped(source)
    if isinstance(source, str | os.PathLike):
        return os.path.getsize(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return len(source)
    return source.seek(0, os.SEEK_END) if hasattr(source, "seek") else None


def _plan(video: VideoReader, k: int, candidate_fps: float, max_candidates: int, scan: str) -> Plan:
    numbers = video.scanned_pictures(candidate_fps, max_candidates, scan)
    mode = "grid" if numbers is None else "scan"
    if scan != "auto":
        reason = "it was asked for"
    elif mode == "scan":
        reason = f"{candidate_fps:g} a second would make more than {max_candidates}"
    elif (video.end - float(video.times[video.first])) * candidate_fps <= max_candidates:
        reason = f"{candidate_fps:g} a second make no more than {max_candidates}"
    else:
        reason = "its keyframes do not make a scan cheaper"
    if isinstance(video, ImageReader):
        mode, reason = "files", "each picture is a file of its own"
    elif video.index.sequential:
        mode, reason = "sequential", video.index.sequential
    if numbers is None:
        numbers = video.candidate_pictures(candidate_fps, max_candidates)
    packets, all_packets, stretches = video.cost(numbers)
    times = video.times[numbers]
    return Plan(
        mode=mode,
        reason=reason,
        candidates=len(numbers),
        step=float(times[-1] - times[0]) / max(len(numbers) - 1, 1),
        packets=packets,
        all_packets=all_packets,
        stretches=stretches,
        k=min(k, len(numbers)),
    )


def _damage(video: VideoReader, limits: VideoLimits) -> list[str]:
    """What decoding everything brings to light."""
    if isinstance(video, ImageReader):
        return video.read(video.pictures, max_side=8, drop_missing=True).warnings
    deadline = time.monotonic() + limits.decode_timeout
    packets = refused = pictures = damaged = 0
    sizes: Counter[tuple[int, int]] = Counter()
    stopped = []
    with open_container(video.source, limits) as container:
        stream = picture_stream(container, video.name, limits)
        try:
            for packet in chain(packets_of(container, stream), [None]):
                check_time(deadline, video.name, limits)
                packets += packet is not None
                try:
                    frames = stream.codec_context.decode(packet)
                except av.error.EOFError:
                    break
                except av.error.FFmpegError:
                    refused += 1
                    continue
                pictures += len(frames)
                damaged += sum(bool(frame.is_corrupt) for frame in frames)
                sizes.update((frame.width, frame.height) for frame in frames)
        except av.error.FFmpegError as error:
            stopped = [f"reading stopped after {packets} packets ({(error.strerror or type(error).__name__).lower()})"]
    found = (
        (refused, f"{refused} of {packets} packets cannot be decoded"),
        (damaged, f"{damaged} of {pictures} pictures are marked as damaged"),
        (len(sizes) > 1, "pictures change their size and are scaled to one: " + _sizes(sizes)),
    )
    return stopped + [sentence for number, sentence in found if number]


def _sizes(counts: Counter[tuple[int, int]]) -> str:
    """The most frequent sizes; damage may make any number of them."""
    some = ", ".join(f"{number} of {width}x{height}" for (width, height), number in counts.most_common(3))
    return some + (f" and {len(counts) - 3} more sizes" if len(counts) > 3 else "")


def _unpointed(error: Exception) -> str:
    return str(error).rstrip(".")


def _count(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{'' if number == 1 else plural}"


def _gap(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"


def _size(count: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} GB"
