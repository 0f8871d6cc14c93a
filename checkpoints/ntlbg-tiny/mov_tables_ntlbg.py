"""What an MP4 or QuickTime file claims to hold, read from its tables before FFmpeg unfolds them.

Some tables say in a few bytes how much is to be allocated: FFmpeg keeps 24 bytes and more per sample before any limit
of ours can be looked at, so that a file of 3 kB took 4.7 GB and half a minute. Claims that no file of this size can
fulfil are refused. The boxes (ISO/IEC 14496-12) are walked as FFmpeg walks them; what is malformed is left to it.

This guards against the known ways to make a small file expensive; it is no sandbox.
"""

import struct
from dataclasses import dataclass, field

from .video_source_ntlbg import VideoError, VideoLimits


# Boxes that hold boxes, and those that tell how many of something there are; wherever they stand.
_HOLDS_BOXES = frozenset(
    b"dinf edts ilst iprp mdia meta minf moof moov mvex schi sinf stbl traf trak tref udta wave".split()
)
_TABLES = frozenset(b"cmov co64 elst hdlr iinf iloc mdhd mvhd stco stsc stsd stss stsz stts stz2 trun".split())

# FFmpeg goes no deeper.
_DEPTH = 10

# A day of fragments of one second has less than a tenth of it.
_BOXES = 2**23

# Bytes of tables per picture; some 20 are usual with sound.
_HEADER_BYTES = 64

# Samples that any file may claim without paying for each with bytes in a table; about 100 MB when unfolded.
_FREE_SAMPLES = 2**20

# How often edits may repeat the samples of their track; a loop of a short clip stays below `_FREE_SAMPLES` anyway.
_REPEATS = 16

# Sample formats of which FFmpeg keeps one entry per 1024 samples.
_PCM = frozenset((b"raw ", b"NONE", b"sowt", b"twos", b"in24", b"in32", b"fl32", b"fl64", b"lpcm", b"ulaw", b"alaw"))
_PCM_SAMPLES = 1024


@dataclass
class _Track:
    """What the tables of one track claim."""

    free: int = 0  # samples of one size, which take no space in the table
    listed: int = 0  # samples whose sizes are listed
    chunks: int = 0
    per_chunk: int = 0
    handler: bytes = b""
    format: bytes = b""
    one_tick: bool = False  # every sample lasts one tick
    ticks: int = 0  # of all samples
    clock: int = 0  # ticks per second
    keys: list[int] | None = None  # samples that are keyframes; None: all are
    edits: int = 0
    endless: int = 0  # edits that last to the end
    edited: int = 0  # ticks of the film's clock that the others last

    @property
    def is_pcm(self) -> bool:
        return self.handler == b"soun" and self.format in _PCM and self.one_tick

    @property
    def claimed(self) -> int:
        """Entries without bytes of their own."""
        return self.chunks * self.per_chunk // _PCM_SAMPLES if self.is_pcm else self.free

    def unfolded(self, film_clock: int) -> int:
        """Entries that the edits make of the samples: those each shows, and those from the keyframe before it."""
        samples = max(self.claimed, self.listed)
        seconds = self.ticks / self.clock if self.clock else 0.0
        films = self.edited / film_clock / seconds + self.endless if film_clock and seconds else self.edits
        lead = 1
        if self.keys is not None:
            ends = [*self.keys, samples + 1]
            lead = max(end - start for start, end in zip([1, *self.keys], ends, strict=True))
        return int(samples * films) + self.edits * lead


@dataclass
class _Claims:
    """What a whole file claims."""

    name: str
    tracks: list[_Track] = field(default_factory=lambda: [_Track()])
    fragments: int = 0  # samples of fragments that take no space
    clock: int = 0  # ticks per second of the film
    boxes: int = 0

    def count_box(self) -> None:
        self.boxes += 1
        if self.boxes > _BOXES:
            raise VideoError(f"{self.name!r} consists of more than {_BOXES} boxes; it is made to waste time.")


def check_tables(file, size: int, name: str, limits: VideoLimits) -> None:
    """
    Refuses a file whose tables claim more than it can hold.

    Args:
        file: seekable, binary; left where it happens to be.
        size (`int`): of the file in bytes.
        name (`str`): for messages.
        limits (`VideoLimits`): `max_frames` bounds the samples.

    Raises:
        VideoError: more samples, edits or items than the file can hold, or a compressed header.
    """
    claims, at = _Claims(name), 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(32)
        kind, start, end = _box(head, at, size)
        if kind is None:
            break
        claims.count_box()
        # FFmpeg takes these for a header where they look like one
        if kind in (b"free", b"hoov") and head[start - at + 4 : start - at + 8] in (b"mvhd", b"cmov"):
            kind = b"moov"
        if kind in _HOLDS_BOXES or kind in _TABLES:
            if end - start > _HEADER_BYTES * limits.max_frames:
                raise VideoError(
                    f"{name!r} has a header of {end - start} bytes, too much for {limits.max_frames} pictures; cut it "
                    "or raise VideoLimits.max_frames."
                )
            file.seek(start)
            _read_box(kind, memoryview(file.read(end - start)), claims, 1)
            _judge(claims, size, limits)
        at = end


def _box(head, at: int, end: int) -> tuple[bytes | None, int, int]:
    """(kind, start, end) of the content of the box whose first bytes are `head` and which begins at `at`."""
    if len(head) < 8:
        return None, at, end
    length, kind = struct.unpack_from(">I4s", head)
    start = at + 8
    if length == 1 and len(head) >= 16:
        (length,) = struct.unpack_from(">Q", head, 8)
        start = at + 16
    elif length == 0:
        length = end - at
    if length < start - at:
        return None, at, end
    return kind, start, min(at + length, end)


def _read_boxes(content: memoryview, claims: _Claims, depth: int) -> None:
    at = 0
    while at + 8 <= len(content) and depth <= _DEPTH:
        kind, start, end = _box(content[at : at + 16], at, len(content))
        if kind is None:
            return
        claims.count_box()
        _read_box(kind, content[start:end], claims, depth + 1)
        at = end


def _read_box(kind: bytes, content: memoryview, claims: _Claims, depth: int) -> None:
    if kind == b"cmov":
        raise VideoError(
            f"{claims.name!r} has a compressed header, which may unfold to any size; copy it to another container "
            "first (ffmpeg -i FILE -c copy NEW.mp4)."
        )
    if kind == b"trak":
        claims.tracks.append(_Track())
    if kind == b"meta":
        # with or without version and flags before its boxes, the first of which names the handler
        content = content[max(bytes(content[:64]).find(b"hdlr") - 4, 0) :]
    if kind in _HOLDS_BOXES:
        _read_boxes(content, claims, depth)
    elif kind in (b"iinf", b"iloc"):
        _check_items(kind, content, claims.name)
    elif kind in _TABLES and len(content) >= 8:
        _read_table(kind, content, claims)


def _read_table(kind: bytes, content: memoryview, claims: _Claims) -> None:
    """Notes what the table `kind` claims of the last track."""
    track = claims.tracks[-1]

    def number(at: int) -> int:
        return struct.unpack_from(">I", content, at)[0] if len(content) >= at + 4 else 0

    if kind == b"stsz":
        if number(4):
            track.free = max(track.free, number(8))
        else:
            track.listed = max(track.listed, min(number(8), (len(content) - 12) // 4))
    elif kind == b"stz2":
        track.listed = max(track.listed, min(number(8), 2 * len(content)))
    elif kind in (b"stco", b"co64"):
        track.chunks = max(track.chunks, min(number(4), len(content) // 4))
    elif kind == b"stsc":
        counts = [count for _, count, _ in struct.iter_unpack(">III", _entries(content, 12))]
        track.per_chunk = max(track.per_chunk, *counts, 0)
    elif kind == b"stts":
        pairs = list(struct.iter_unpack(">II", _entries(content, 8)))
        track.one_tick = len(pairs) == 1 and pairs[0][1] == 1
        track.ticks = sum(count * ticks for count, ticks in pairs)
    elif kind == b"stss":
        track.keys = [key for (key,) in struct.iter_unpack(">I", _entries(content, 4))]
    elif kind == b"elst":
        layout = ">QqI" if content[0] == 1 else ">IiI"
        edits = list(struct.iter_unpack(layout, _entries(content, struct.calcsize(layout))))
        track.edits += len(edits)
        track.edited += sum(ticks for ticks, _, _ in edits)
        track.endless += sum(not ticks for ticks, _, _ in edits)
    elif kind in (b"mvhd", b"mdhd"):
        clock = number(20 if content[0] == 1 else 12)
        if kind == b"mvhd":
            claims.clock = clock
        else:
            track.clock = clock
    elif kind == b"hdlr" and not track.handler:
        track.handler = bytes(content[8:12])
    elif kind == b"stsd":
        track.format = bytes(content[12:16])
        _read_hidden(bytes(content), claims)
    elif kind == b"trun" and not number(0) & 0xF00:
        # no duration, size, flags or time offset per sample
        claims.fragments += number(4)


def _entries(content: memoryview, size: int) -> memoryview:
    """The entries of `size` bytes in a table that begins with version, flags and their number."""
    count = min(int.from_bytes(content[4:8], "big"), (len(content) - 8) // size)
    return content[8 : 8 + size * count]


def _read_hidden(content: bytes, claims: _Claims) -> None:
    """Tables inside a sample description, whose layout depends on its kind: found by their names."""
    for kind in (b"stsz", b"elst", b"trun"):
        at = content.find(kind)
        while at >= 0:
            _read_table(kind, memoryview(content)[at + 4 :], claims)
            at = content.find(kind, at + 4)


def _check_items(kind: bytes, content: memoryview, name: str) -> None:
    """Lists of still pictures (HEIF): each item takes at least 6 bytes."""
    at, wide = (4, content[:1] != b"\0") if kind == b"iinf" else (6, content[:1] == b"\2")
    count = int.from_bytes(content[at : at + (4 if wide else 2)], "big")
    if count > len(content):
        raise VideoError(
            f"{name!r} claims {count} items in {len(content)} bytes; it is damaged or made to exhaust memory."
        )


def _judge(claims: _Claims, size: int, limits: VideoLimits) -> None:
    free = claims.fragments + sum(track.claimed for track in claims.tracks)
    if free > max(_FREE_SAMPLES, size):
        raise VideoError(
            f"{claims.name!r} claims {free} samples in {size} bytes; it is damaged or made to exhaust memory."
        )
    samples = free + sum(track.listed for track in claims.tracks)
    # as many again for sound
    if samples > 2 * limits.max_frames:
        raise VideoError(
            f"{claims.name!r} has {samples} samples, more than twice the limit of {limits.max_frames} pictures; cut "
            "it or raise VideoLimits.max_frames."
        )
    for track in claims.tracks:
        unfolded = track.unfolded(claims.clock)
        if unfolded > max(_FREE_SAMPLES, _REPEATS * max(track.claimed, track.listed)):
            raise VideoError(
                f"{claims.name!r} has an edit list of {track.edits} entries, which may unfold to {unfolded} pictures; "
                "copy it to a file without one first."
            )
