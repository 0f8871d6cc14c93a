"""torchcodec as the decoder: the same picture numbers and times, from the same index.

PyAV opens the file first, with every check, and says which pictures there are; torchcodec is handed that list and the
bytes, never a name, and each picture it gives is held against its time in the list. It serves MP4, MOV, Matroska and
WebM whose index can be trusted; everything else is refused with a sentence.

Pictures of 8 bits are PyAV's to the bit at full size (measured with FFmpeg 5.1 and 8.1). Scaled down they are near:
torchcodec turns them into RGB before they are scaled, PyAV's are scaled first, which is 1 to 2.5 of 255 on average and
up to 100 at the edges of strong colours; more than 8 bits differ by .6 on average. A stream that changes to larger
pictures in the middle is refused only after they were decoded: torchcodec has no limit of its own.
"""

import io
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack

import av
import numpy as np

from .video_index_ntlbg import VideoIndex
from .video_source_ntlbg import VideoError


# Containers in which it finds the pictures that the index names; in transport streams, say, its jumps miss them.
_FORMATS = {"mov", "matroska"}

# Full-size pictures that are held at once.
_BYTES_AT_ONCE = 64 * 2**20


def _video_decoder() -> type:
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError) as error:
        raise _not_usable(error) from error
    return VideoDecoder


def _not_usable(error: Exception) -> VideoError:
    reason = str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
    return VideoError(
        f"The torchcodec backend cannot be used ({reason}); install torchcodec and FFmpeg's shared libraries, or use "
        "backend='pyav'."
    )


def check_torchcodec(container, index: VideoIndex, name: str) -> None:
    """
    Refuses what [`torchcodec_pictures`] does not serve.

    Raises:
        VideoError: torchcodec is not installed, or the container or its index is none that it can be trusted with.
    """
    _video_decoder()
    if index.sequential or not _FORMATS & set(container.format.name.split(",")):
        why = index.sequential or f"it is {container.format.name}"
        raise VideoError(f"{name!r} cannot be read with the torchcodec backend ({why}); use backend='pyav'.")


def torchcodec_pictures(
    source, stream, index: VideoIndex, wanted: np.ndarray, name: str
) -> Iterator[tuple[int, av.VideoFrame, int]]:
    """
    The wanted pictures, one after the other.

    Args:
        source: path, bytes or seekable binary file object.
        stream: as PyAV opened it.
        index (`VideoIndex`): of `stream`.
        wanted (`np.ndarray` of shape `(N,)`): distinct picture numbers, ascending.
        name (`str`): for messages.

    Yields:
        slot in `wanted`, the picture as it is coded (RGB), and its rotation in degrees as `av.VideoFrame.rotation`.
        Pictures that cannot be decoded are left out.

    Raises:
        VideoError: torchcodec cannot open the file.
    """
    decoder_class = _video_decoder()
    with ExitStack() as stack:
        if isinstance(source, str | os.PathLike):
            source = stack.enter_context(open(source, "rb"))
        elif not isinstance(source, bytes | bytearray | memoryview):
            source.seek(0)
        else:
            source = bytes(source)
        try:
            decoder = decoder_class(
                source,
                stream_index=stream.index,
                dimension_order="NHWC",
                custom_frame_mappings=io.BytesIO(json.dumps(_mapping(index)).encode()),
            )
        except (RuntimeError, ValueError) as error:
            if "libtorchcodec" in str(error):
                raise _not_usable(error) from error
            # "place in its source, what is wrong"
            reason = str(error).strip().split("\n")[0].rsplit(", ", 1)[-1].rstrip(".")
            raise VideoError(f"{name!r} cannot be read by torchcodec ({reason}); use backend='pyav'.") from error
        yield from _checked(decoder, stream, index, wanted)


def _mapping(index: VideoIndex) -> dict:
    """The index as torchcodec takes it (as ffprobe would write it), so that it need not read the file for its own."""
    pts = index.pts[index.pictures]
    durations = np.diff(pts, append=pts[-1] + 1)
    rows = zip(pts.tolist(), durations.tolist(), index.key[index.pictures].tolist(), strict=True)
    return {"frames": [{"pts": at, "duration": ticks, "key_frame": int(key)} for at, ticks, key in rows]}


def _checked(decoder, stream, index: VideoIndex, wanted: np.ndarray) -> Iterator[tuple[int, av.VideoFrame, int]]:
    rotation = int(decoder.metadata.rotation or 0)
    seconds = index.pts[index.pictures[wanted]] * float(stream.time_base)
    # Half a tick, or half a microsecond of a clock finer than its arithmetic.
    slack = max(float(stream.time_base) / 2, 5e-7)
    at_once = max(1, _BYTES_AT_ONCE // (stream.width * stream.height * 3))
    for start in range(0, len(wanted), at_once):
        slots = range(start, min(start + at_once, len(wanted)))
        for slot, picture, shown in _read(decoder, wanted, slots):
            if abs(shown - seconds[slot]) <= slack:
                # It comes upright, and is turned back for one treatment of all pictures.
                coded = np.ascontiguousarray(np.rot90(picture, k=-round(rotation / 90)))
                yield slot, av.VideoFrame.from_ndarray(coded, format="rgb24"), rotation


def _read(decoder, wanted: np.ndarray, slots: range) -> list[tuple[int, np.ndarray, float]]:
    """(slot, picture, seconds); damage makes torchcodec give up, so that the rest is tried one by one."""
    try:
        batch = decoder.get_frames_at(wanted[slots.start : slots.stop].tolist())
    except RuntimeError:
        if len(slots) == 1:
            return []
        return [read for slot in slots for read in _read(decoder, wanted, range(slot, slot + 1))]
    return list(zip(slots, batch.data.numpy(), batch.pts_seconds.tolist(), strict=True))
