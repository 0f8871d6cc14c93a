"""Decoding shared out to threads gives what one thread gives: pictures, order, warnings."""

import io
import threading

import numpy as np
import pytest
from odd_catalog import ODD

from ntlbg.processors import video_decoding_ntlbg
from ntlbg.processors.video_decoding_ntlbg import VideoError, VideoFile, VideoLimits
from ntlbg.processors.video_index_ntlbg import VideoIndex
from ntlbg.processors.video_walk_ntlbg import plan_visits, share_out


@pytest.fixture(autouse=True)
def every_share_pays(monkeypatch):
    monkeypatch.setattr(video_decoding_ntlbg, "PIXELS_PER_THREAD", 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("threads")


def read(path, threads: int, numbers, **kwargs):
    with VideoFile(path, threads=threads, **kwargs) as video:
        return video.read(numbers % len(video.times), 96, drop_missing=True)


@pytest.mark.parametrize(
    "name",
    [
        *("open_gop.mp4", "open_gop.ts", "tiny_gop.mkv", "all_intra.mp4", "one_keyframe.mp4", "many_references.mkv"),
        *("hevc_open_gop.mkv", "vp8.webm", "mpeg2.ts", "b_frames.avi", "edit_list.mp4", "turned_right.mp4"),
        *("size_change.ts", "mid_gop.ts", "cut.mp4"),
    ],
)
def test_three_threads_give_what_one_gives(name, folder):
    path = ODD[name](folder / name)
    for numbers in (np.arange(160), np.arange(3, 160, 7), np.array([150, 2, 80, 80])):
        one, three = (read(path, threads, numbers) for threads in (1, 3))
        assert (one.frames == three.frames).all()
        assert (one.indices == three.indices).all()
        assert one.warnings == three.warnings


def test_the_work_is_shared_out(folder, monkeypatch):
    path = ODD["closed_gop.mp4"](folder / "shared.mp4")
    used = set()
    put = video_decoding_ntlbg._Picker.put

    def seen(self, slot, frame, rotation):
        used.add(threading.current_thread().name)
        put(self, slot, frame, rotation)

    monkeypatch.setattr(video_decoding_ntlbg._Picker, "put", seen)
    # a file object is at one place at a time
    for source, threads, shared in (
        (path, 3, True),
        (path.read_bytes(), 2, True),
        (path, 1, False),
        (io.BytesIO(path.read_bytes()), 3, False),
    ):
        used.clear()
        read(source, threads, np.arange(160))
        assert (len(used) > 1) == shared


def test_small_reads_are_left_to_one_thread(folder, monkeypatch):
    monkeypatch.undo()
    path = ODD["closed_gop.mp4"](folder / "small.mp4")
    before = threading.active_count()
    started = []
    monkeypatch.setattr(video_decoding_ntlbg, "ThreadPoolExecutor", lambda *_, **__: started.append(1))
    read(path, 8, np.arange(160))
    assert not started
    assert threading.active_count() == before


def test_what_stops_one_thread_stops_all_and_is_one_sentence(folder):
    path = ODD["closed_gop.mp4"](folder / "stopped.mp4")
    with VideoFile(path, VideoLimits(max_output_bytes=1000), threads=3) as video, pytest.raises(VideoError) as error:
        video.read(np.arange(160))
    assert "more than the limit of 1000" in str(error.value)
    grows = ODD["size_change.ts"](folder / "grows.ts")
    with VideoFile(grows, VideoLimits(max_pixels=64 * 96), threads=3) as video, pytest.raises(VideoError) as error:
        video.read(np.arange(120))
    assert "128 x 96 pixels, more than the limit of 6144" in str(error.value)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ntlbg-decode")]


@pytest.mark.parametrize("shares", [1, 2, 3, 7, 50])
def test_shares_cover_all_once_and_have_no_group_in_common(shares):
    key = np.zeros(300, dtype=bool)
    key[[0, 10, 90, 91, 200, 260]] = True
    pts = np.arange(300)
    index = VideoIndex(pts, key, pts, pts / 25, 0.04)
    wanted = np.sort(np.random.default_rng(shares).choice(300, 80, replace=False))
    parts = share_out(index, wanted, shares, 1)
    assert np.concatenate([wanted[part] for part in parts]).tolist() == wanted.tolist()
    assert len(parts) <= shares
    groups = [{start for start, _ in plan_visits(index, np.arange(300)[wanted[part]])} for part in parts]
    starts = [{int(np.flatnonzero(key[: n + 1])[-1]) for n in wanted[part]} for part in parts]
    assert sum(len(group) for group in starts) == len(set().union(*starts))
    assert all(groups)
