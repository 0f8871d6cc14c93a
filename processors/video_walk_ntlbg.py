"""The way through an opened file: where to begin, which packets to decode, which frames are the wanted ones.

Shapes: P packets in decode order, M pictures in presentation order, N wanted pictures.
"""

from collections.abc import Iterator
from itertools import pairwise

import av
import numpy as np

from ntlbg.processors.video_index_ntlbg import (
    SKIPPABLE_CODECS,
    VideoIndex,
    build_index,
    check_time,
    open_container,
    packets_of,
    picture_stream,
)
from ntlbg.processors.video_source_ntlbg import VideoLimits


# A jump costs a seek and a refill of the reader: over shorter stretches, packets are read and dropped.
SEEK_MIN_PACKETS = 64


def _starts(index: VideoIndex, packets: np.ndarray) -> np.ndarray:
    """int64 (N,): for each of `packets` (N,) the keyframe packet to begin at in order to decode it."""
    keys = np.flatnonzero(index.key)
    at = np.searchsorted(keys, packets, side="right") - 1
    # shown before its own keyframe: a leading picture of an open GOP, which refers to the GOP before
    while (leading := (at > 0) & (index.pts[keys[np.maximum(at, 0)]] > index.pts[packets])).any():
        at = at - leading
    return keys[np.maximum(at, 0)]


def plan_visits(index: VideoIndex, wanted: np.ndarray) -> list[tuple[int, list[int]]]:
    """Visits that give the wanted pictures: (keyframe packet to begin at, wanted packets in decode order)."""
    packets = np.sort(index.pictures[wanted])
    visits: list[tuple[int, list[int]]] = []
    for start, packet in zip(_starts(index, packets).tolist(), packets.tolist(), strict=True):
        together = [packet]
        # where a visit would begin before the end of what is decoded anyway, the two become one
        while visits and start <= visits[-1][1][-1] + 1:
            earlier, others = visits.pop()
            start, together = min(start, earlier), others + together
        visits.append((start, together))
    return visits


def share_out(index: VideoIndex, wanted: np.ndarray, shares: int, least: float) -> list[slice]:
    """
    `wanted` (N,) in at most `shares` runs that cost about the same to decode and have no group of pictures in common.

    Args:
        least: packets that are worth a share of their own.

    Returns:
        slices of `wanted`, in order, which cover it.
    """
    packets = index.pictures[wanted]
    starts = _starts(index, packets)
    firsts = np.flatnonzero(np.diff(starts, prepend=-1))  # where another group begins
    cost = np.cumsum(np.maximum.reduceat(packets, firsts) - starts[firsts] + 1)
    shares = int(max(1, min(shares, cost[-1] // max(least, 1), len(firsts))))
    # a share ends with the group in which it has cost enough
    ends = np.unique(np.searchsorted(cost, cost[-1] * np.arange(1, shares) / shares, side="left")) + 1
    cuts = [0, *(int(firsts[end]) for end in ends if end < len(firsts)), len(wanted)]
    return [slice(first, stop) for first, stop in pairwise(cuts)]


class VideoWalk:
    """
    An opened container, and how far it has been read. It is used by one thread at a time.

    Args:
        source: path, bytes or seekable binary file object.
        name (`str`): for messages.
        limits (`VideoLimits`): what it may cost.
        deadline (`float`): reading of `time.monotonic` after which decoding stops with a [`VideoError`]; may be moved.
        draft (`bool`): decode without the deblocking filter; may be changed between two reads.

    Attributes:
        damaged (`int`): packets that could not be decoded.
    """

    def __init__(self, source, name: str, limits: VideoLimits, deadline: float, draft: bool = False):
        self.source, self.name, self.limits, self.deadline, self.draft = source, name, limits, deadline, draft
        self.damaged = 0
        self._open()

    def _open(self) -> None:
        self.container = open_container(self.source, self.limits)
        try:
            self.stream = picture_stream(self.container, self.name, self.limits, self.draft)
        except BaseException:
            self.container.close()
            raise
        self._fresh = True  # nothing was read from it
        self._packets = self._demux()
        self._next = 0  # the packet that _packets gives next, in decode order

    def _rewind(self) -> None:
        if not self._fresh:
            self.close()
            self._open()
        self._fresh = False

    def index(self) -> VideoIndex:
        """See [`build_index`]."""
        self._rewind()
        return build_index(self.container, self.stream, self.name, self.limits)

    def close(self) -> None:
        # the generator knows this object and this object the generator: apart, both go at once
        self._packets = self.stream = None
        self.container.close()

    def _decode(self, packet) -> list[av.VideoFrame]:
        """Frames that come out when `packet` goes in (None: all that are still inside); damage is counted."""
        check_time(self.deadline, self.name, self.limits)
        try:
            return self.stream.codec_context.decode(packet)
        except av.error.EOFError:
            return []
        except av.error.FFmpegError:
            self.damaged += 1
            return []

    def _demux(self) -> Iterator[av.Packet]:
        """Packets with content from the current place on; a read error ends the file (the index has told it)."""
        try:
            yield from packets_of(self.container, self.stream)
        except av.error.FFmpegError:
            return

    def everything(self) -> Iterator[av.VideoFrame]:
        """Every shown frame in the order of presentation, from the beginning."""
        self._rewind()
        for packet in self._demux():
            yield from self._decode(packet)
        yield from self._decode(None)

    def counted(self, wanted: np.ndarray) -> Iterator[tuple[int, av.VideoFrame]]:
        """(slot, frame) for the wanted picture numbers by decoding and counting from the beginning."""
        slot = 0
        for number, frame in enumerate(self.everything()):
            if number == wanted[slot]:
                yield slot, frame
                slot += 1
                if slot == len(wanted):
                    return

    def pictures(self, index: VideoIndex, wanted: np.ndarray) -> Iterator[tuple[int, av.VideoFrame]]:
        """(slot, frame) for the wanted picture numbers, visiting each needed group of pictures once."""
        slot_of = {int(index.pts[index.pictures[number]]): slot for slot, number in enumerate(wanted)}
        self._rewind()
        for key, packets in plan_visits(index, wanted):
            self._go_to(key, index)
            context = self.stream.codec_context
            skippable = context.name in SKIPPABLE_CODECS
            needed, skipping = set(packets), None
            while self._next <= packets[-1]:
                packet = next(self._packets, None)
                if packet is None:
                    break
                if (skip := skippable and self._next not in needed) != skipping:
                    context.skip_frame, skipping = "NONREF" if skip else "DEFAULT", skip
                self._next += 1
                for frame in self._decode(packet):
                    if frame.pts in slot_of:
                        yield slot_of[frame.pts], frame
            for frame in self._decode(None):
                if frame.pts in slot_of:
                    yield slot_of[frame.pts], frame
            context.flush_buffers()

    def _go_to(self, key: int, index: VideoIndex) -> None:
        """Makes `self._packets` give the keyframe packet `key` next."""
        if key < self._next or key - self._next > SEEK_MIN_PACKETS:
            keys = np.flatnonzero(index.key)
            # Containers seek by decode time, so a jump may land behind the aim: then aim one keyframe earlier.
            for at in range(int(np.searchsorted(keys, key)), -1, -1):
                landed = self._jump(int(index.pts[keys[at]]), index)
                if landed is not None and landed <= key:
                    break
            else:
                self._rewind()
        while self._next < key and next(self._packets, None) is not None:
            self._next += 1

    def _jump(self, pts: int, index: VideoIndex) -> int | None:
        """Seeks to `pts`; the packet where reading goes on, or None if it is not one of the index."""
        try:
            self.container.seek(pts, stream=self.stream, backward=True)
        except av.error.FFmpegError:
            return None
        packets = self._demux()
        first = next(packets, None)
        # a dictionary of all packets would be faster than this and the largest thing in memory
        here = np.flatnonzero(index.pts == first.pts) if first is not None and first.pts is not None else ()
        if len(here) == 0:
            return None

        def with_first():
            yield first
            yield from packets

        self._packets, self._next = with_first(), int(here[0])
        return self._next
