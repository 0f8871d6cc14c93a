"""torchcodec behind the same interface: the same pictures within a stated tolerance, the same times and checks."""

import builtins
import importlib.util
import io
import shutil
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from odd_videos import numbered_frames, real_videos, turn_clockwise, write_video

from ntlbg.data.batch_decoding import decode_videos
from ntlbg.processors.video_decoding_ntlbg import VideoError, VideoLimits, decode_candidates, decode_frames


av.logging.set_level(None)


def usable() -> bool:
    if importlib.util.find_spec("torchcodec") is None:
        return False
    from torchcodec.decoders import VideoDecoder

    try:
        VideoDecoder(b"no video")
    except RuntimeError as error:
        return "libtorchcodec" not in str(error)


needs_torchcodec = pytest.mark.skipif(not usable(), reason="torchcodec or its FFmpeg is not installed")

# At full size with 8 bits, and scaled down or with more bits: (largest mean difference of a video, of a value) of 255.
FULL_SIZE, CONVERTED = (0.5, 2), (3.0, 128)

KINDS = {
    "b_frames.mp4": {"options": {"x264-params": "keyint=24:bframes=3:log-level=none"}},
    "open_gop.mkv": {"options": {"x264-params": "open-gop=1:bframes=3:keyint=30:scenecut=0:log-level=none"}},
    "fragmented.mp4": {
        "options": {"g": "40"},
        "container_options": {"movflags": "frag_keyframe+empty_moov"},
    },
    "hevc.mkv": {"codec": "libx265", "options": {"x265-params": "keyint=30:log-level=none"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "40", "cpu-used": "8"}},
    "variable.mkv": {"ticks": np.cumsum(np.where(np.arange(160) % 3 == 0, 500, 40)).tolist()},
    "wide_pixels.mp4": {"sample_aspect_ratio": Fraction(4, 3)},
    "ten_bits.mkv": {"pixels": "yuv420p10le", "options": {"x264-params": "keyint=40:log-level=none"}},
    "full_range.mkv": {"pixels": "yuvj420p"},
}
# Pixels that are not square are scaled at any size.
CONVERTED_KINDS = ("wide_pixels.mp4", "ten_bits.mkv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def plain(folder):
    return write_video(folder / "plain.mp4", numbered_frames(75), options={"g": "25"})


def assert_alike(path, numbers, max_side, tolerance):
    ours = decode_frames(path, numbers, max_side=max_side)
    theirs = decode_frames(path, numbers, max_side=max_side, backend="torchcodec")
    assert theirs.frames.shape == ours.frames.shape
    difference = np.abs(theirs.frames.astype(int) - ours.frames)
    assert difference.mean() <= tolerance[0]
    assert difference.max() <= tolerance[1]
    assert (theirs.timestamps == ours.timestamps).all()
    facts = ("fps", "total_num_frames", "duration", "height", "width", "name", "warnings")
    assert [getattr(theirs, fact) for fact in facts] == [getattr(ours, fact) for fact in facts]


@needs_torchcodec
@pytest.mark.parametrize("name", KINDS)
def test_pictures_and_times_are_those_of_pyav(name, folder):
    path = write_video(folder / name, numbered_frames(160), **KINDS[name])
    numbers = np.sort(np.random.default_rng(0).choice(160, 30, replace=False))
    assert_alike(path, numbers, None, CONVERTED if name in CONVERTED_KINDS else FULL_SIZE)
    assert_alike(path, numbers, 48, CONVERTED)
    assert_alike(path, [159, 3, 3], 48, CONVERTED)


@needs_torchcodec
@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
@pytest.mark.parametrize("pixels", ["plain.mp4", "wide_pixels.mp4"])
def test_turned_videos_come_upright(quarter_turns, pixels, plain, folder):
    source = folder / pixels
    if not source.exists():
        write_video(source, numbered_frames(160), **KINDS[pixels])
    turned = turn_clockwise(source, folder / f"{quarter_turns}_{pixels}", quarter_turns)
    assert_alike(turned, [0, 30, 60], None, CONVERTED if pixels in CONVERTED_KINDS else FULL_SIZE)


@needs_torchcodec
@pytest.mark.parametrize("path", real_videos(), ids=lambda path: path.name)
def test_real_footage_is_within_the_tolerance(path):
    numbers = decode_candidates(path, max_candidates=16, max_side=32).indices
    assert_alike(path, numbers, None, FULL_SIZE)
    assert_alike(path, numbers, 64, CONVERTED)


@needs_torchcodec
def test_bytes_and_file_objects_and_batches_are_served_too(plain):
    expected = decode_candidates(plain, backend="torchcodec").frames
    for source in (plain.read_bytes(), io.BytesIO(plain.read_bytes())):
        assert (decode_candidates(source, backend="torchcodec").frames == expected).all()
    (result,) = decode_videos([plain], workers=1, backend="torchcodec")
    assert (result.candidates.frames == expected).all()


@needs_torchcodec
def test_pictures_lost_to_damage_are_counted_and_the_others_are_right(plain, folder):
    content = bytearray(plain.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    holed = folder / "holed.mp4"
    holed.write_bytes(content)
    video = decode_candidates(holed, candidate_fps=25, backend="torchcodec")
    assert 0 < len(video) < 75
    assert f"{75 - len(video)} wanted pictures cannot be decoded and were left out" in video.warnings
    whole = decode_frames(plain, video.indices, backend="torchcodec")
    assert (video.timestamps == whole.timestamps).all()
    before = video.indices < 25
    assert before.any()
    assert (video.frames[before] == whole.frames[before]).all()
    with pytest.raises(VideoError, match="cannot be decoded"):
        decode_frames(holed, np.arange(75), backend="torchcodec")


@needs_torchcodec
@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("stream.ts", {}, "it is mpegts"),
        ("b_frames.avi", {"codec": "mpeg4", "options": {"bf": "2"}}, "AVI does not store presentation times"),
    ],
)
def test_what_it_cannot_be_trusted_with_is_refused_in_one_sentence(name, options, why, folder):
    path = write_video(folder / name, numbered_frames(30), **options)
    with pytest.raises(VideoError, match=f"cannot be read with the torchcodec backend .{why}.*; use backend='pyav'"):
        decode_candidates(path, backend="torchcodec")


@needs_torchcodec
def test_hostile_files_are_refused_before_torchcodec_sees_them(plain, folder, monkeypatch):
    import torchcodec.decoders

    def opened(*_, **__):
        raise AssertionError("torchcodec was asked to open it")

    monkeypatch.setattr(torchcodec.decoders, "VideoDecoder", opened)
    playlist = folder / "list.mp4"
    playlist.write_text(f"ffconcat version 1.0\nfile {plain}\n")
    shutil.copy(plain, folder / "seq%d.mp4")
    refused = [(playlist, None), (f"concat:{plain}", None), (f"file:{plain}", None)]
    refused += [(plain, VideoLimits(max_pixels=100)), (plain, VideoLimits(max_bytes=100))]
    refused += [(plain, VideoLimits(max_frames=10)), (plain, VideoLimits(max_duration=1))]
    for source, limits in refused:
        with pytest.raises(VideoError):
            decode_candidates(source, limits=limits, backend="torchcodec")


@pytest.mark.parametrize(
    "error", [ImportError("No module named 'torchcodec'"), RuntimeError("Could not load libtorchcodec. Likely:\nmany")]
)
def test_where_it_is_absent_one_sentence_says_so(error, plain, monkeypatch):
    real_import = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.startswith("torchcodec"):
            raise error
        return real_import(name, *arguments, **keywords)

    for module in [name for name in sys.modules if name.split(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(VideoError) as caught:
        decode_candidates(plain, backend="torchcodec")
    assert str(caught.value).startswith("The torchcodec backend cannot be used (")
    assert str(caught.value).endswith("install torchcodec and FFmpeg's shared libraries, or use backend='pyav'.")
    assert "\n" not in str(caught.value)


def test_an_unknown_backend_is_refused_in_one_sentence(plain):
    with pytest.raises(VideoError, match="`backend` must be 'pyav' or 'torchcodec', but got 'opencv'"):
        decode_candidates(plain, backend="opencv")
