"""Exactness: whatever the file and however many pictures are asked for, they are those of a full sequential decode."""

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from odd_catalog import ODD, intact_twin
from odd_videos import real_videos

from ntlbg.processors.video_decoding_ntlbg import VideoFile


av.logging.set_level(None)

# The real footage is scaled, the odd files mostly not.
MAX_SIDE = 96
# The stated exceptions. A decoder conceals damage with what it decoded before, so a picture that is damaged anyway may
# look different on another way to it; a picture that survives a full decode undamaged survives every other way.
DAMAGED = {name for name in ODD if name.startswith(("cut", "hole", "flipped"))}
# AVI knows only the order of pictures: times count from the first picture on.
TIMED_FROM_THE_FIRST = {name for name in ODD if name.endswith(".avi")}
# Where stamps are missing there is nothing to compare times with.
STAMPS_REPAIRED = {"missing_times.ts"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("odd")


def picture_stream(container):
    return next(s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic)


def sequential(path) -> list[av.VideoFrame]:
    """Every picture by plain decoding from the beginning, in the order of presentation; damage is passed over.

    That is the order of their stamps where these tell it, else the order in which they leave the decoder.
    """
    frames = []
    with av.open(str(path)) as container:
        stream = picture_stream(container)
        stream.thread_type = "NONE"
        for packet in container.demux(stream):
            try:
                frames += stream.codec_context.decode(packet)
            except av.error.EOFError:
                break
            except av.error.FFmpegError:
                continue
    stamps = [frame.pts for frame in frames]
    if None in stamps or len(set(stamps)) < len(stamps) or path.suffix == ".avi":
        return frames
    return [frames[at] for at in np.argsort(stamps)]


def pixels(frame: av.VideoFrame, shape: tuple) -> np.ndarray:
    """uint8 (H, W, 3), upright and of the size that `shape` says."""
    turns = round(frame.rotation / 90) % 4
    height, width = shape[1::-1] if turns % 2 else shape[:2]
    scaled = VideoReformatter().reformat(frame, width, height, "rgb24", interpolation="BILINEAR")
    return np.rot90(scaled.to_ndarray(), turns)


def seconds(path, frames: list[av.VideoFrame], from_the_first: bool) -> np.ndarray:
    with av.open(str(path)) as container:
        stream = picture_stream(container)
        ticks = np.sort([float(frame.pts) for frame in frames])
        first = ticks[0] if from_the_first or stream.start_time is None else min(stream.start_time, ticks[0])
        return (ticks - first) * float(stream.time_base)


def some(count: int, total: int) -> np.ndarray:
    """`count` picture numbers out of `total`, always the same ones."""
    return np.sort(np.random.default_rng(count).choice(total, min(count, total), replace=False))


def check(path, name: str) -> None:
    reference = sequential(path)
    with VideoFile(path) as video:
        total = len(video.times)
        if name not in DAMAGED:
            assert total == len(reference)
        for count in (1, 8, 64, total):
            numbers = some(count, total)
            read = video.read(numbers, MAX_SIDE, drop_missing=name in DAMAGED)
            assert len(read) == len(numbers) or name in DAMAGED
            if total == len(reference):
                for number, frame in zip(read.indices, read.frames, strict=True):
                    same = (frame == pixels(reference[number], frame.shape)).all()
                    assert same or name in DAMAGED, f"picture {number} of {count} differs"
        if None not in [frame.pts for frame in reference] and total == len(reference):
            expected = seconds(path, reference, name in TIMED_FROM_THE_FIRST)
            np.testing.assert_allclose(video.times, expected, atol=1e-6)
        else:
            assert name in DAMAGED | STAMPS_REPAIRED


@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_gives_the_pictures_of_a_full_decode(name, folder):
    check(ODD[name](folder / name), name)


@pytest.mark.parametrize("path", real_videos(), ids=lambda p: p.name)
def test_real_footage_gives_the_pictures_of_a_full_decode(path):
    check(path, path.name)


@pytest.mark.parametrize("name", sorted(DAMAGED))
def test_a_picture_that_damage_spared_is_whole_however_it_is_reached(name, folder):
    path = ODD[name](folder / name)
    whole = {frame.pts: frame for frame in sequential(intact_twin(path))}
    damaged = {frame.pts: frame for frame in sequential(path)}
    spared = 0
    with VideoFile(path) as video:
        stamp_of = sorted(damaged)
        if not video.index.sequential:
            stamp_of = video.index.pts[video.index.pictures].tolist()
        for count in (1, 8, 64, len(video.times)):
            read = video.read(some(count, len(video.times)), MAX_SIDE, drop_missing=True)
            for number, frame in zip(read.indices, read.frames, strict=True):
                stamp = stamp_of[number]
                if stamp in whole and stamp in damaged:
                    expected = pixels(whole[stamp], frame.shape)
                    if (pixels(damaged[stamp], frame.shape) == expected).all():
                        assert (frame == expected).all(), f"picture {number} of {count}"
                        spared += 1
    assert spared > 20, "the file is too damaged to tell anything"
