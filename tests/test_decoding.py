"""Decoding: exact pictures, true times, odd files told in one sentence, hostile files without effect."""

import io
import shutil
import subprocess
import sys
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_videos import full_decode, numbered_frames, real_videos, remux, turn_clockwise, write_audio, write_video
from PIL import Image

from ntlbg.processors.video_decoding_ntlbg import VideoError, VideoFile, VideoLimits, decode_candidates, decode_frames
from ntlbg.processors.video_source_ntlbg import uniform_pictures


av.logging.set_level(None)

needs_footage = pytest.mark.skipif(not real_videos(), reason="the real footage is not present")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def plain(folder):
    """75 pictures at 25 per second, H.264 with B-frames."""
    return write_video(folder / "plain.mp4", numbered_frames(75), options={"g": "25"})


def one_sentence(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text, text
    assert text.endswith("."), text
    assert ". " not in text, text
    return text


# -- exact pictures -----------------------------------------------------------------------------------------------


@needs_footage
@pytest.mark.parametrize("path", real_videos(), ids=lambda p: p.name)
def test_real_footage_has_the_times_of_its_decoded_pictures(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stamps = np.array([frame.pts for frame in container.decode(stream)])
        seconds = (stamps - (stream.start_time or 0)) * float(stream.time_base)
    with VideoFile(path) as video:
        np.testing.assert_allclose(video.times, seconds, atol=1e-9)
        assert video.warnings == []


def test_pictures_are_written_to_the_array_that_is_given(plain):
    given = []

    def allocate(shape):
        given.append(np.zeros(shape, np.uint8))
        return given[-1]

    video = decode_candidates(plain, candidate_fps=5, max_side=48, allocate=allocate)
    assert video.frames is given[0]
    assert len(given) == 1
    assert (video.frames == decode_candidates(plain, candidate_fps=5, max_side=48).frames).all()


def test_frames_come_in_the_order_asked_for_and_repeat_where_repeated(plain):
    reference, _ = full_decode(plain)
    video = decode_frames(plain, [70, 5, 5, 31])
    assert (video.frames == reference[[70, 5, 5, 31]]).all()
    assert video.indices.tolist() == [70, 5, 5, 31]
    np.testing.assert_allclose(video.timestamps, np.array([70, 5, 5, 31]) / 25)


@pytest.mark.parametrize("numbers", [[75], [-1], [], [[1, 2]]])
def test_picture_numbers_out_of_range_are_refused(plain, numbers):
    with pytest.raises(VideoError, match=r"Picture numbers of 'plain.mp4' must be"):
        decode_frames(plain, numbers)


def test_path_bytes_and_file_object_give_the_same_frames(plain):
    expected = decode_candidates(plain, candidate_fps=4)
    with open(plain, "rb") as file:
        file.seek(100)
        for source in (str(plain), plain.read_bytes(), io.BytesIO(plain.read_bytes()), file):
            video = decode_candidates(source, candidate_fps=4)
            assert (video.frames == expected.frames).all()
            assert (video.timestamps == expected.timestamps).all()


def test_frames_are_scaled_while_decoding_and_full_size_frames_are_not_collected(folder):
    path = write_video(folder / "large.mp4", numbered_frames(120, 720, 1280), options={"preset": "ultrafast"})
    tracemalloc.start()
    video = decode_candidates(path, candidate_fps=25, max_side=64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert video.frames.shape == (120, 36, 64, 3)
    assert (video.height, video.width) == (720, 1280)
    full_size_frame = 720 * 1280 * 3
    assert peak < 2 * full_size_frame, f"{peak / full_size_frame:.1f} full-size frames at once"


# -- the candidate grid -------------------------------------------------------------------------------------------


def test_candidates_lie_on_a_grid_uniform_in_time(plain):
    video = decode_candidates(plain, candidate_fps=2)
    assert len(video) == 6
    np.testing.assert_allclose(video.timestamps, np.arange(6) * 0.5, atol=0.5 / 25)
    assert (video.fps, video.total_num_frames, video.duration) == (25, 75, 3.0)


def test_max_candidates_makes_the_grid_coarser_and_not_the_video_shorter(plain):
    video = decode_candidates(plain, candidate_fps=25, max_candidates=5)
    np.testing.assert_allclose(video.timestamps, np.arange(5) * 0.6, atol=0.5 / 25)


@settings(max_examples=200, deadline=None)
@given(
    gaps=st.lists(st.floats(0.001, 20.0), min_size=0, max_size=60),
    rate=st.floats(0.01, 120.0),
    cap=st.integers(1, 100),
)
def test_the_grid_is_distinct_ordered_capped_and_never_empty(gaps, rate, cap):
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    duration = times[-1] + 0.04
    numbers = uniform_pictures(times, duration, rate, cap)
    assert 1 <= len(numbers) <= min(cap, len(times))
    assert (np.diff(numbers) > 0).all()
    assert numbers[0] >= 0
    assert numbers[-1] < len(times)
    # every grid point's nearest picture was taken
    count = max(1, min(round(duration * rate), cap))
    if count < len(times):
        for target in np.arange(count) * duration / count:
            assert np.abs(times[numbers] - target).min() <= np.abs(times - target).min() + 1e-9


# -- true times ---------------------------------------------------------------------------------------------------


def test_timestamps_of_a_variable_frame_rate_are_the_presentation_times(folder):
    ticks = np.concatenate([[0], np.cumsum(np.random.default_rng(1).integers(11, 700, 59))]).tolist()
    path = write_video(folder / "variable.mkv", numbered_frames(60), ticks=ticks)
    video = decode_frames(path, np.arange(60))
    np.testing.assert_allclose(video.timestamps, np.array(ticks) / 1000, atol=0.0011)
    # a grid in time, not in picture numbers
    grid = decode_candidates(path, candidate_fps=0.5).timestamps
    assert np.abs(np.diff(grid) - 2.0).max() < 0.75


def test_times_start_at_zero_where_the_stream_starts_late(folder, plain):
    def later(number, packet):
        packet.pts, packet.dts = packet.pts + 101 * 12800, packet.dts + 101 * 12800
        return packet

    path = remux(plain, folder / "late.ts", later)
    with av.open(str(path)) as container:
        assert container.streams.video[0].start_time / 90_000 > 100
    video = decode_candidates(path, candidate_fps=25)
    np.testing.assert_allclose(video.timestamps, np.arange(75) / 25, atol=1e-6)


def test_pictures_an_edit_list_hides_are_not_counted(folder, plain):
    def earlier(number, packet):
        packet.pts, packet.dts = packet.pts - 10 * 512, packet.dts - 10 * 512
        return packet

    path = remux(plain, folder / "edited.mp4", earlier, {"avoid_negative_ts": "disabled"})
    with av.open(str(path)) as container:
        hidden = sum(packet.is_discard for packet in container.demux(video=0))
    assert hidden >= 9, "the file was not written as intended"
    reference, _ = full_decode(path)
    video = decode_frames(path, np.arange(len(reference)))
    assert len(reference) == video.total_num_frames == 75 - hidden
    assert (video.frames == reference).all()
    assert video.timestamps[0] == 0
    np.testing.assert_allclose(np.diff(video.timestamps), 0.04, atol=1e-6)


# -- upright, square pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_a_recording_to_be_turned_comes_upright(folder, plain, quarter_turns):
    path = turn_clockwise(plain, folder / f"turned{quarter_turns}.mp4", quarter_turns)
    stored, _ = full_decode(plain)
    video = decode_candidates(path, candidate_fps=25)
    assert (video.frames == np.rot90(stored, k=-quarter_turns, axes=(1, 2))).all()
    assert (video.height, video.width) == ((96, 64) if quarter_turns % 2 else (64, 96))


def test_pixels_that_are_not_square_are_made_square(folder):
    path = write_video(folder / "wide.mp4", numbered_frames(4), sample_aspect_ratio=Fraction(4, 3))
    video = decode_candidates(path)
    assert (video.height, video.width) == (64, 128)
    assert video.frames.shape[1:] == (64, 128, 3)


# -- damaged files say so -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def streamed(folder):
    return write_video(
        folder / "streamed.mp4",
        numbered_frames(250),
        options={"g": "25"},
        container_options={"movflags": "faststart"},
    )


def test_a_file_cut_off_tells_what_the_header_promised(folder, streamed):
    path = folder / "cut.mp4"
    path.write_bytes(streamed.read_bytes()[: int(streamed.stat().st_size * 0.6)])
    video = decode_candidates(path, candidate_fps=2)
    assert video.total_num_frames < 250
    assert any("the header promises 10.00 s and 250 pictures" in warning for warning in video.warnings)
    assert video.timestamps[-1] < video.duration < 10


def test_a_hole_in_the_file_is_counted_and_the_rest_is_read(folder, streamed):
    content = bytearray(streamed.read_bytes())
    start = int(len(content) * 0.5)
    content[start : start + len(content) // 10] = bytes(len(content) // 10)
    (folder / "hole.mp4").write_bytes(content)
    video = decode_candidates(folder / "hole.mp4", candidate_fps=25)
    assert 125 <= len(video) < 250
    counted = [int(warning.split()[0]) for warning in video.warnings if "packets could not be decoded" in warning]
    assert counted
    assert counted[0] > 0
    assert any(f"{250 - len(video)} wanted pictures cannot be decoded" in warning for warning in video.warnings)


def test_an_undecodable_picture_asked_for_by_number_is_an_error(folder, streamed):
    content = bytearray(streamed.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    (folder / "half.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=r"1 of 1 wanted pictures of 'half.mp4' cannot be decoded"):
        decode_frames(folder / "half.mp4", [245])


def test_flipped_bits_are_reported(folder, streamed):
    content = bytearray(streamed.read_bytes())
    rng = np.random.default_rng(3)
    for at in rng.integers(len(content) // 4, len(content), 60):
        content[at] ^= 1 << int(rng.integers(8))
    (folder / "flipped.mp4").write_bytes(content)
    video = decode_candidates(folder / "flipped.mp4", candidate_fps=25)
    assert any("damaged" in w or "could not be decoded" in w for w in video.warnings), video.warnings


def test_a_stream_that_begins_in_mid_gop_leaves_out_what_nobody_can_decode(folder):
    source = write_video(
        folder / "whole.ts",
        numbered_frames(60),
        options={"x264-params": "keyint=20:scenecut=0:bframes=0:log-level=none"},
    )
    path = remux(source, folder / "mid_gop.ts", lambda number, packet: packet if number >= 5 else None)
    video = decode_candidates(path, candidate_fps=25)
    assert video.total_num_frames == 40
    assert any("15 pictures before the first keyframe" in warning for warning in video.warnings)
    # the stream starts with what cannot be seen: the first picture stands where a player shows it
    assert video.timestamps[0] == pytest.approx(15 / 25)


def test_avi_times_are_counted_and_said_to_be(folder):
    path = write_video(folder / "old.avi", numbered_frames(30), codec="mpeg4", options={"bf": "2"})
    video = decode_candidates(path, candidate_fps=25)
    np.testing.assert_allclose(video.timestamps, np.arange(30) / 25)
    assert any("AVI" in warning for warning in video.warnings)


def test_one_picture_is_a_video_of_one_candidate(folder):
    video = decode_candidates(write_video(folder / "one.mp4", numbered_frames(1)))
    assert video.frames.shape == (1, 64, 96, 3)
    assert video.timestamps.tolist() == [0.0]
    assert video.duration == pytest.approx(0.04)


# -- refused, in one sentence -------------------------------------------------------------------------------------


def _bad_files(folder, plain):
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("This is not a video.\n" * 50)
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    Image.fromarray(numbered_frames(1)[0]).save(folder / "picture.png")
    shutil.copy(folder / "picture.png", folder / "picture.mp4")
    Image.fromarray(numbered_frames(1)[0]).save(folder / "photo.jpg")
    shutil.copy(folder / "photo.jpg", folder / "photo.mp4")
    write_audio(folder / "sound.m4a", "aac")
    write_audio(folder / "album.mp4", "aac", cover=numbered_frames(1)[0])
    (folder / "headless.mp4").write_bytes(plain.read_bytes()[: plain.stat().st_size // 3])
    return {
        "zero bytes": (folder / "empty.mp4", "is empty"),
        "text renamed": (folder / "text.mp4", "cannot be opened as a video"),
        "noise": (folder / "noise.mp4", "cannot be opened as a video"),
        "png renamed": (folder / "picture.mp4", "cannot be opened as a video"),
        "jpg renamed": (folder / "photo.mp4", "cannot be opened as a video"),
        "header missing": (folder / "headless.mp4", "cannot be opened as a video"),
        "audio only": (folder / "sound.m4a", "no video stream, only audio"),
        "cover art": (folder / "album.mp4", "only a cover picture"),
        "folder": (folder, "it is a folder"),
        "missing": (folder / "nothing.mp4", "there is no such file"),
        "address": ("https://example.com/a.mp4", "addresses are not opened"),
        "empty bytes": (b"", "is empty"),
        "text bytes": (b"hello " * 100, "cannot be opened as a video"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "zero bytes",
        "text renamed",
        "noise",
        "png renamed",
        "jpg renamed",
        "header missing",
        "audio only",
        "cover art",
        "folder",
        "missing",
        "address",
        "empty bytes",
        "text bytes",
    ],
)
def test_what_is_not_a_video_is_refused_in_one_sentence(folder, plain, case):
    source, what = _bad_files(folder, plain)[case]
    for decode in (decode_candidates, lambda s: decode_frames(s, [0])):
        with pytest.raises(VideoError) as error:
            decode(source)
        assert what in one_sentence(error)


def test_a_file_object_that_is_closed_or_cannot_seek_is_refused(plain):
    class Pipe(io.RawIOBase):
        def seek(self, *_):
            raise io.UnsupportedOperation("underlying stream is not seekable")

    closed = open(plain, "rb")  # noqa: SIM115
    closed.close()
    for source in (Pipe(), closed):
        with pytest.raises(VideoError, match="must be open and seekable") as error:
            decode_candidates(source)
        one_sentence(error)


@pytest.mark.parametrize(
    ("limits", "what"),
    [
        (VideoLimits(max_bytes=100), "bytes, more than the limit of 100"),
        (VideoLimits(max_pixels=64 * 96 - 1), "96 x 64 pixels, more than the limit of 6143"),
        (VideoLimits(max_frames=74), "more than 74 pictures"),
        (VideoLimits(max_duration=2.9), "lasts 3 s, more than the limit"),
        (VideoLimits(max_output_bytes=64 * 96 * 3 * 5), "6 frames of 96 x 64 pixels"),
    ],
)
def test_every_limit_refuses_with_one_sentence(plain, limits, what):
    with pytest.raises(VideoError, match=what) as error:
        decode_candidates(plain, limits=limits)
    one_sentence(error)


def test_limits_that_are_just_met_refuse_nothing(plain):
    limits = VideoLimits(plain.stat().st_size, 64 * 96, 3.0, 75, 6 * 64 * 96 * 3)
    assert len(decode_candidates(plain, limits=limits)) == 6


def test_a_picture_that_grows_in_mid_stream_is_stopped_by_the_pixel_limit(folder):
    # The header speaks of small pictures; larger ones follow in the bit stream: only the decoder can notice.
    small = write_video(folder / "small.ts", numbered_frames(30), options={"x264-params": "log-level=none"})
    large = write_video(folder / "larger.ts", numbered_frames(30, 640, 960), options={"x264-params": "log-level=none"})
    (folder / "grows.ts").write_bytes(small.read_bytes() + large.read_bytes())
    video = decode_candidates(folder / "grows.ts", candidate_fps=25, limits=VideoLimits(max_pixels=64 * 96))
    assert video.frames.shape[1:] == (64, 96, 3)
    assert any("could not be decoded" in w or "cannot be decoded" in w for w in video.warnings)


# -- frames in memory ---------------------------------------------------------------------------------------------


def test_arrays_tensors_and_lists_are_taken_as_they_are():
    frames = numbered_frames(6)
    sources = [
        frames,
        np.moveaxis(frames, -1, 1),
        torch.from_numpy(frames),
        torch.from_numpy(frames).permute(0, 3, 1, 2),
        frames.astype(np.float32) / 255,
        torch.from_numpy(frames).float(),
        list(frames),
        [Image.fromarray(frame) for frame in frames],
    ]
    for source in sources:
        video = decode_candidates(source)
        assert (video.frames == frames).all()
        assert video.indices.tolist() == list(range(6))


def test_frames_of_unknown_rate_are_not_thinned_and_the_assumption_is_said():
    video = decode_candidates(numbered_frames(60), candidate_fps=2)
    assert len(video) == 60
    assert video.fps == 24
    np.testing.assert_allclose(video.timestamps, np.arange(60) / 24)
    assert video.warnings == ["the rate of the given frames is unknown: 24 per second was assumed"]


def test_frames_of_known_rate_are_thinned_to_the_grid():
    video = decode_candidates(numbered_frames(60), candidate_fps=2, source_fps=20)
    assert video.indices.tolist() == [0, 10, 20, 30, 40, 50]
    assert video.warnings == []
    assert len(decode_candidates(numbered_frames(60), max_candidates=7)) == 7


def test_frames_in_memory_are_picked_by_number():
    frames = numbered_frames(10)
    video = decode_frames(frames, [9, 2, 2])
    assert (video.frames == frames[[9, 2, 2]]).all()
    with pytest.raises(VideoError, match=r"within 0..9"):
        decode_frames(frames, [10])


@pytest.mark.parametrize(
    "source",
    [
        np.zeros((4, 8, 8, 2), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.full((2, 8, 8, 3), -1.0),
        np.full((2, 8, 8, 3), np.nan),
        np.full((2, 8, 8, 3), 4000, np.int32),
        [np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)],
    ],
)
def test_arrays_that_are_no_frames_are_refused_in_one_sentence(source):
    with pytest.raises(VideoError) as error:
        decode_candidates(source)
    one_sentence(error)


@pytest.mark.skipif(
    tuple(map(int, av.__version__.split(".")[:2])) < (17, 1), reason="PyAV before 17.1 cannot limit this probe"
)
def test_a_transport_stream_of_huge_pictures_is_refused_without_decoding_them(tmp_path):
    """Three streams of 8000 x 8000 pixels are about 290 MB of pictures in a file of half a megabyte."""
    path = tmp_path / "bomb.ts"
    with av.open(str(path), "w", format="mpegts") as container:
        streams = [container.add_stream("libx264", rate=1, options={"preset": "ultrafast"}) for _ in range(3)]
        picture = av.VideoFrame(8000, 8000, "yuv420p")
        picture.pts, picture.time_base = 0, Fraction(1, 1)
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt, stream.thread_count = 8000, 8000, "yuv420p", 1
        for stream in streams:
            container.mux([*stream.encode(picture), *stream.encode(None)])
    code = (
        "import resource, sys\n"
        "from ntlbg.processors.video_decoding_ntlbg import decode_candidates\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    decode_candidates(sys.argv[1])\n"
        "except ValueError as error:\n    print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    sentence, growth = result.stdout.splitlines()
    assert "8000 x 8000" in sentence
    assert float(growth) < 150, f"opening took {growth} MiB"


@pytest.mark.parametrize("source", [None, 5, [], io.StringIO("text"), np.zeros((4, 4)), {"path": "a.mp4"}])
def test_what_is_no_video_at_all_is_refused_in_one_sentence(source):
    with pytest.raises(VideoError) as caught:
        decode_candidates(source)
    assert "\n" not in str(caught.value)
