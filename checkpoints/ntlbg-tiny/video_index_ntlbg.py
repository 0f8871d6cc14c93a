"""From a file to the list of its pictures without decoding: safe opening, one demux pass, true times.

Shapes: P packets in decode order, M pictures in presentation order.

Opening is where a hostile file acts, so two whitelists (formats and protocols), a pixel limit and time limits are set
before the first byte is parsed: a playlist renamed to .mp4 could otherwise open other local files or the network.
"""

import errno
import io
import os
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import av
import numpy as np

from .mov_tables_ntlbg import check_tables
from .video_source_ntlbg import VideoError, VideoLimits


# Containers that hold their own pictures. No playlists, no concatenation scripts, no image sequences, no raw streams.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,gif"

# Containers by how they begin: (offset, bytes) -> FFmpeg's name.
_MAGIC = (
    *(
        (4, box, "mov")
        for box in b"ftyp moov mdat free skip wide styp moof pnot udta uuid sidx junk pict ediw prfl hoov".split()
    ),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (8, b"AVI ", "avi"),
    (0, b"\x30\x26\xb2\x75", "asf"),
    (0, b"GIF8", "gif"),
    (0, b"FLV\x01", "flv"),
    (0, b"OggS", "ogg"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
)

# Transport streams by the places of the first byte of three packets (ISO/IEC 13818-1; with times or parity, too).
_SYNC, _SYNC_PLACES = b"\x47", ((0, 188, 376), (4, 196, 388), (0, 204, 408))

# Formats whose streams may appear after the header.
_LATE_STREAMS = (None, "mpegts", "mpeg", "flv", "ogg", "avi")

# What else a file may be. Not MP4, whose tables are looked at first: none begins in another way.
_OTHER_FORMATS = "matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,gif"

# Codecs whose decoders give the same wanted pictures when unwanted non-reference pictures are left out.
SKIPPABLE_CODECS = ("h264", "hevc")


class _NamelessFile:
    """A binary file object reduced to reading and seeking: FFmpeg must not guess a format from its name.

    Args:
        file: the object.
        owned (`bool`): whether it is closed with this one; one that was given stays open.
    """

    def __init__(self, file, owned: bool = False):
        self._file, self._owned = file, owned

    def __del__(self):
        if self._owned:
            self._file.close()

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _pixel_option(limits: VideoLimits) -> str:
    """FFmpeg's `max_pixels`: it counts padded buffers, so it gets some slack; pictures are held to the exact limit."""
    return str(limits.max_pixels + limits.max_pixels // 16 + 65_536)


def _reason(error: av.error.FFmpegError) -> str:
    if error.errno == errno.EINVAL:
        # what FFmpeg says of a format outside the whitelist
        return "another format, or a damaged header"
    return (error.strerror or type(error).__name__).lower()


def source_name(source) -> str:
    """A name for messages and reports: the file's base name, or what kind of object came."""
    if isinstance(source, str | os.PathLike):
        return os.path.basename(os.fspath(source))
    return "bytes in memory" if isinstance(source, bytes | bytearray | memoryview) else "a file object"


def checked_path(source, limits: VideoLimits, what: str = "a video") -> str:
    """
    The path of a regular, readable file within the size limit; names are names, whatever protocol they look like.

    Raises:
        VideoError: it is none.
    """
    path = os.fsdecode(os.fspath(source))
    if not os.path.isfile(path):
        if os.path.isdir(path):
            kind = "it is a folder; pass one of the files in it"
        elif "://" in path:
            kind = "only http and https addresses can be opened; download it and pass the path"
        elif os.path.exists(path):
            kind = "it is not a regular file; copy it to one"
        else:
            kind = "there is no such file; check the path"
        raise VideoError(f"{path!r} cannot be read as {what}: {kind}.")
    _check_size(os.path.getsize(path), source_name(source), limits)
    return path


def _check_size(size: int, name: str, limits: VideoLimits) -> None:
    if size == 0:
        raise VideoError(f"{name!r} is empty (0 bytes); check how it was written.")
    if size > limits.max_bytes:
        raise VideoError(
            f"{name!r} has {size} bytes, more than the limit of {limits.max_bytes}; cut it or raise "
            "VideoLimits.max_bytes."
        )


def _checked_input(source, limits: VideoLimits):
    """What `av.open` is given (`file:` with an absolute path, or a nameless file object), and the format or None."""
    name = source_name(source)
    if isinstance(source, str | os.PathLike):
        path = checked_path(source, limits)
        try:
            with open(path, "rb") as file:
                format = _checked_head(file, os.path.getsize(path), name, limits)
            # Where FFmpeg has to find the format itself, it must not see the name: of "%03d.png" it makes a pattern.
            opened = f"file:{os.path.abspath(path)}" if format else _NamelessFile(open(path, "rb"), owned=True)  # noqa: SIM115
            return opened, format
        except OSError as error:
            raise VideoError(f"{path!r} cannot be read ({error.strerror}); check its permissions.") from error
    file = io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source
    try:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if not isinstance(file.read(0), bytes):
            raise ValueError("it was opened as text")
    except (OSError, ValueError) as error:
        raise VideoError(
            f"A video file object must be open and seekable, but got {error}; read it into bytes and pass these."
        ) from error
    _check_size(size, name, limits)
    format = _checked_head(file, size, name, limits)
    file.seek(0)
    return _NamelessFile(file), format


def _checked_head(file, size: int, name: str, limits: VideoLimits) -> str | None:
    """FFmpeg's name of the format that the file (at its start) begins as, or None; claims of MP4 are checked."""
    head = file.read(512)
    format = next((name for at, magic, name in _MAGIC if head[at : at + len(magic)] == magic), None)
    if format is None and any(all(head[at : at + 1] == _SYNC for at in places) for places in _SYNC_PLACES):
        format = "mpegts"
    if format == "mov":
        check_tables(file, size, name, limits)
    return format


PYAV_VERSION = tuple(int(number) for number in av.__version__.split(".")[:2])


def open_container(source, limits: VideoLimits) -> av.container.InputContainer:
    """
    Opens `source` (path, bytes or seekable binary file object) for reading, guarded as described above.

    Raises:
        VideoError: not a regular file, empty, too large, or not one of `FORMATS`.
    """
    opened, format = _checked_input(source, limits)
    # `options` reach the decoders of the probe, which would otherwise decode a picture of any size. PyAV before 17.1
    # corrupts memory when they are given and streams appear after the header, as in transport and program streams, FLV
    # and Ogg, and in AVI with interleaved DV; there these are probed without them.
    all_listed = format not in _LATE_STREAMS
    options = {"max_pixels": _pixel_option(limits)} if all_listed or PYAV_VERSION >= (17, 1) else {}
    try:
        return av.open(
            opened,
            mode="r",
            format=format,
            options=options,
            container_options={"protocol_whitelist": "file", "format_whitelist": format or _OTHER_FORMATS},
            metadata_errors="replace",
            timeout=limits.timeout,
        )
    except av.error.FFmpegError as error:
        raise VideoError(
            f"{source_name(source)!r} cannot be opened as a video ({_reason(error)}); "
            f"pass an intact file in one of these formats: {FORMATS.replace(',', ', ')}."
        ) from error


def check_pixels(width: int, height: int, name: str, limits: VideoLimits) -> None:
    """Refuses pictures above `limits.max_pixels` with a [`VideoError`]."""
    if width * height > limits.max_pixels:
        raise VideoError(
            f"{name!r} has pictures of {width} x {height} pixels, more than the limit of {limits.max_pixels}; "
            "scale it down or raise VideoLimits.max_pixels."
        )


def packets_of(container: av.container.InputContainer, stream) -> Iterator[av.Packet]:
    """The packets of `stream` that hold anything, in decode order.

    Raises:
        av.error.FFmpegError: reading ends before the end.
    """
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except IndexError:
        # PyAV ends like this at the end of a file in which streams appeared after its header
        return


def check_time(deadline: float, name: str, limits: VideoLimits) -> None:
    """Refuses to go on after `deadline`, a reading of `time.monotonic`, with a [`VideoError`]."""
    if time.monotonic() > deadline:
        raise VideoError(
            f"Reading {name!r} took longer than {limits.decode_timeout:g} s; ask for fewer pictures or raise "
            "VideoLimits.decode_timeout."
        )


def picture_stream(
    container: av.container.InputContainer, name: str, limits: VideoLimits, draft: bool = False
) -> av.video.stream.VideoStream:
    """
    The moving-picture stream of an opened file, prepared for single-threaded decoding: exact, or without the
    deblocking filter (`draft`).

    Raises:
        VideoError: no video stream, cover art only, no decoder, or pictures above `limits.max_pixels`.
    """
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        kinds = sorted({s.type for s in container.streams})
        what = (
            "only a cover picture"
            if container.streams.video
            else f"no video stream, only {', '.join(kinds) or 'nothing'}"
        )
        raise VideoError(f"{name!r} holds {what}; pass a file with moving pictures.")
    stream = max(streams, key=lambda s: bool(s.disposition & av.stream.Disposition.default))
    context = stream.codec_context
    if context is None:
        raise VideoError(f"{name!r} is coded in a way this FFmpeg cannot decode; convert it to H.264 in MP4.")
    check_pixels(stream.width, stream.height, name, limits)
    # the open options guard the probe; the decoder is opened later and must be told again
    context.options = {"max_pixels": _pixel_option(limits), **({"skip_loop_filter": "all"} if draft else {})}
    context.thread_type = "NONE"
    # dav1d has threads of its own, which wait for each other forever, or end the process, in damaged streams
    context.thread_count = 1
    return stream


@dataclass(eq=False)
class VideoIndex:
    """
    Every picture of a file with its time, found without decoding.

    Args:
        pts (`np.ndarray` of shape `(P,)`): int64 presentation stamps of all packets in decode order.
        key (`np.ndarray` of shape `(P,)`): bool, whether decoding may start at the packet.
        pictures (`np.ndarray` of shape `(M,)`): int64, the packet of the n-th picture in presentation order.
        times (`np.ndarray` of shape `(M,)`): float64 seconds of the n-th picture from the stream's start.
        last_duration (`float`): seconds the last picture is shown.
        sequential (`str`): why pictures must be counted while decoding everything, "" where the index can be trusted.
            `times` and `pictures` are then empty: see `video_decoding_ntlbg`.
        warnings (`list[str]`): what was found damaged.
    """

    pts: np.ndarray
    key: np.ndarray
    pictures: np.ndarray
    times: np.ndarray
    last_duration: float
    sequential: str = ""
    warnings: list[str] = field(default_factory=list)


def _is_hidden_vp8(packet: av.Packet) -> bool:
    # RFC 6386, 9.1: bit 4 of the first byte of a frame is show_frame; hidden frames are references only
    return not memoryview(packet)[0] & 0x10


def _starts_mpeg_sequence(packet: av.Packet) -> bool:
    # ISO/IEC 13818-2, 6.2.2: sequence_header_code. FFmpeg's parser marks P pictures as keyframes too.
    return bytes(memoryview(packet)[:4]) == b"\x00\x00\x01\xb3"


def _h264_units(data: bytes, length_size: int) -> Iterator[int]:
    """Where the units in `data` begin: after a length of `length_size` bytes, or after a start code where it is 0."""
    at = 0
    if not length_size:  # ITU-T H.264, annex B
        while (at := data.find(b"\0\0\1", at)) >= 0:
            at += 3
            yield at
    while length_size and at + length_size < len(data):  # ISO/IEC 14496-15
        yield at + length_size
        at += length_size + int.from_bytes(data[at : at + length_size], "big")


def _exp_golomb(bits: str, at: int) -> tuple[int, int]:
    """The number coded at `at` (ITU-T H.264, 9.1), and where the next one begins."""
    zeros = bits.index("1", at) - at
    end = at + 2 * zeros + 1
    return int(bits[at + zeros : end], 2) - 1, end


def _starts_h264(packet: av.Packet, length_size: int) -> bool:
    """Whether an H.264 picture marked as a keyframe is intra coded.

    Streams of intra refresh mark P pictures as keyframes: from there on the picture only becomes whole bit by bit.
    """
    data = bytes(packet)
    for unit in _h264_units(data, length_size):
        kind = data[unit] & 0x1F if unit < len(data) else 0
        if kind == 5:
            return True
        if kind == 1:
            # slice header (7.3.3): first_mb_in_slice, slice_type; 2 and 4 (or 7 and 9) are I and SI
            bits = "".join(f"{byte:08b}" for byte in data[unit + 1 : unit + 12])
            try:
                return _exp_golomb(bits, _exp_golomb(bits, 0)[1])[0] % 5 in (2, 4)
            except ValueError:  # no such number: damaged, and no worse as a start than any other place
                return True
    return True


def build_index(container, stream, name: str, limits: VideoLimits) -> VideoIndex:
    """
    One demux pass over `stream`: which packet is which picture, and when it is shown.

    Time: pts x time base minus the stream's start. Packets that an edit list discards are no pictures.

    Raises:
        VideoError: no picture, or more pictures or seconds than `limits` allow.
    """
    deadline = time.monotonic() + limits.decode_timeout
    # lists of a long film's numbers would be among the largest things in memory
    pts, durations, key, shown = array("q"), array("q"), bytearray(), bytearray()
    missing_pts = damaged = 0
    warnings = []
    codec, formats = stream.codec_context.name, container.format.name.split(",")
    is_mpeg, is_h264 = codec in ("mpeg1video", "mpeg2video"), codec == "h264"
    header = stream.codec_context.extradata or b""
    # the avcC box of ISO/IEC 14496-15; its absence means start codes
    length_size = (header[4] & 3) + 1 if is_h264 and len(header) > 6 and header[0] == 1 else 0
    # Transport streams and Ogg do not say which packets are keyframes: only these codecs' own marks hold. In a program
    # stream reading resumes in mid-picture after a jump. Without trusted keyframes, decoding starts at the first.
    trusted = "mpeg" not in formats and (is_mpeg or codec in ("h264", "hevc") or not {"mpegts", "ogg"} & set(formats))
    try:
        for packet in packets_of(container, stream):
            check_time(deadline, name, limits)
            if len(pts) >= limits.max_frames:
                raise VideoError(
                    f"{name!r} has more than {limits.max_frames} pictures; cut it or raise VideoLimits.max_frames."
                )
            missing_pts += packet.pts is None
            damaged += packet.is_corrupt
            pts.append(packet.pts or 0)
            key.append(
                packet.is_keyframe
                and (trusted or not key)
                and (not is_mpeg or _starts_mpeg_sequence(packet))
                and (not is_h264 or _starts_h264(packet, length_size))
            )
            shown.append(not (packet.is_discard or (codec == "vp8" and _is_hidden_vp8(packet))))
            durations.append(packet.duration or 0)
    except av.error.FFmpegError as error:
        warnings.append(f"reading stopped after {len(pts)} packets ({_reason(error)})")
    if damaged:
        warnings.append(f"{damaged} of {len(pts)} packets are marked as damaged")
    pts, key, shown = np.array(pts, dtype=np.int64), np.array(key, dtype=bool), np.array(shown, dtype=bool)
    if not shown.any():
        raise VideoError(f"{name!r} holds no picture; check whether it was cut off or recorded empty.")

    sequential = ""
    if missing_pts:
        sequential = f"{missing_pts} of {len(pts)} packets carry no presentation time"
    elif len(np.unique(pts)) < len(pts):
        sequential = f"{len(pts) - len(np.unique(pts))} packets repeat a presentation time"
    elif "avi" in formats and not key.all():
        sequential = "AVI does not store presentation times"
    elif not key.any():
        sequential = "no packet is marked as a place to start from"
    if sequential:
        nothing = np.zeros(0, dtype=np.int64)
        return VideoIndex(pts, key, nothing, nothing.astype(np.float64), 0.0, sequential, warnings)

    # Pictures before the first place to start from cannot be decoded by anyone: the file begins in mid-stream.
    first_key = int(np.argmax(key))
    orphans = int(shown[:first_key].sum())
    if orphans and shown[first_key:].any():
        shown[:first_key] = False
        warnings.append(f"{orphans} pictures before the first keyframe cannot be decoded and were left out")
    packets = np.flatnonzero(shown)
    pictures = packets[np.argsort(pts[packets], kind="stable")]
    start = int(pts[pictures[0]]) if stream.start_time is None else min(stream.start_time, int(pts[pictures[0]]))
    times = (pts[pictures] - start) * float(stream.time_base)
    last_duration = durations[pictures[-1]] * float(stream.time_base)
    return VideoIndex(pts, key, pictures, times, last_duration, "", warnings)
