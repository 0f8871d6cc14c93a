"""Sources behind one interface: a clip and a list of image files are videos like any other, at their true times."""

import io
import json
import re
import zlib
from dataclasses import replace

import numpy as np
import pytest
from odd_videos import full_decode, numbered_frames, write_video
from PIL import Image
from tiny_parts import tiny_base_processor

from ntlbg.cli import main
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.processors.video_decoding_ntlbg import (
    ImageFiles,
    VideoClip,
    VideoError,
    VideoLimits,
    decode_candidates,
    decode_frames,
    open_video,
)
from ntlbg.report import VideoFacts
from ntlbg.selection.api import FrameSelector, select_frames
from ntlbg.selection.features import CandidateFeatures, FrameSelection


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sources")


@pytest.fixture(scope="module")
def video(folder):
    """8 s at 25 pictures a second with a keyframe every second."""
    return write_video(folder / "plain.mp4", numbered_frames(200), options={"g": "25", "bf": "2"})


@pytest.fixture(scope="module")
def photos(folder):
    """Twelve PNG files; picture n was taken at n * n / 2 seconds."""
    paths = [folder / f"photo{number}.png" for number in range(12)]
    for path, frame in zip(paths, numbered_frames(12), strict=True):
        Image.fromarray(frame).save(path)
    return ImageFiles(paths, seconds=[number * number / 2 for number in range(12)])


def one_sentence(error) -> str:
    text = str(error.value)
    assert "\n" not in text, text
    assert text.endswith("."), text
    assert ". " not in text, text
    return text


# -- a clip --------------------------------------------------------------------------------------------------------


def test_a_clip_gives_the_pictures_of_its_seconds_with_the_numbers_and_times_of_the_whole(video):
    reference, _ = full_decode(video)
    clip = decode_candidates(VideoClip(video, 2.0, 4.0), candidate_fps=2.5)
    assert clip.indices.tolist() == [50, 60, 70, 80, 90]
    np.testing.assert_allclose(clip.timestamps, clip.indices / 25)
    assert (clip.frames == reference[clip.indices]).all()
    assert (clip.clip, clip.total_num_frames, clip.duration) == ((2.0, 4.0), 200, 8.0)
    everything = decode_candidates(VideoClip(video, 2.0, 4.0), candidate_fps=100)
    # both ends belong to it
    assert everything.indices.tolist() == list(range(50, 101))
    assert (everything.frames == reference[50:101]).all()


def test_exact_pictures_outside_the_clip_are_refused(video):
    clip = VideoClip(video, 2.0, 4.0)
    assert decode_frames(clip, [50, 100]).indices.tolist() == [50, 100]
    for number in (49, 101):
        with pytest.raises(VideoError, match=r"within 50\.\.100 \(the clip from 2 s to 4 s\)") as error:
            decode_frames(clip, [number])
        one_sentence(error)


@pytest.mark.parametrize(
    ("start", "end", "first", "last"), [(None, 1.0, 0, 25), (7.5, None, 188, 199), (3, 3, 75, 75)]
)
def test_a_clip_may_be_open_or_a_single_moment(video, start, end, first, last):
    with open_video(VideoClip(video, start, end)) as opened:
        assert opened.pictures[[0, -1]].tolist() == [first, last]
        assert set(opened.candidate_pictures(2.0, 100)) <= set(opened.pictures)
        assert opened.candidate_pictures(None, 1000).tolist() == opened.pictures.tolist()


def test_every_decimal_end_finds_its_picture(video):
    # 0.29 * 100 is 28.999999999999996: a picture shown at a clip's end must not be lost to floating point
    with open_video(video) as opened:
        times = opened.times.copy()
    for number in range(0, 200, 7):
        second = round(number * 0.04, 2)
        with open_video(VideoClip(video, second, second)) as opened:
            assert opened.pictures.tolist() == [number], times[number]


def test_a_clip_beyond_the_video_is_told(video):
    with pytest.raises(VideoError, match=r"from 9 s to its end: the one before is at 7.960 s, none follows") as error:
        decode_candidates(VideoClip(video, 9))
    one_sentence(error)
    with pytest.raises(VideoError, match=r"from 0.01 s to 0.02 s: the one before is at 0.000 s, the next at 0.040 s"):
        decode_candidates(VideoClip(video, 0.01, 0.02))
    late = decode_candidates(VideoClip(video, 7, 60))
    assert late.warnings == ["the clip was to end at 60 s, but the video ends at 8.00 s"]
    assert late.clip == (7.0, 8.0)


@pytest.mark.parametrize(
    ("start", "end"), [(-1, 2), (3, 2), (float("nan"), 2), (1, float("nan")), (float("inf"), None)]
)
def test_seconds_that_are_no_clip_are_refused(video, start, end):
    with pytest.raises(VideoError, match="0 <= start <= end") as error:
        VideoClip(video, start, end)
    one_sentence(error)


def test_a_clip_of_a_clip_is_refused(video):
    with pytest.raises(VideoError, match="clip of a clip"):
        VideoClip(VideoClip(video, 1, 4), 2, 3)


def test_a_clip_works_around_every_kind_of_source(video):
    reference, _ = full_decode(video)
    for source in (str(video), video.read_bytes(), io.BytesIO(video.read_bytes())):
        assert decode_candidates(VideoClip(source, 2, 4)).indices.tolist()[0] == 50
    memory = decode_candidates(VideoClip(reference, 2, 4), source_fps=25, candidate_fps=25)
    assert memory.indices.tolist() == list(range(50, 101))
    assert (memory.frames == reference[50:101]).all()
    assert decode_frames(VideoClip(reference, 2, 4), [60], source_fps=25).timestamps.tolist() == [2.4]
    with pytest.raises(VideoError, match=r"within 50\.\.100"):
        decode_frames(VideoClip(reference, 2, 4), [49], source_fps=25)


# -- image files ---------------------------------------------------------------------------------------------------


def test_image_files_are_a_video_at_the_given_times(photos):
    frames = numbered_frames(12)
    everything = decode_candidates(photos, candidate_fps=100)
    assert (everything.frames == frames).all()
    np.testing.assert_allclose(everything.timestamps, np.arange(12) ** 2 / 2)
    assert everything.name == "12 image files"
    # a grid in time: pictures 0 to 4 lie within the first 8 of 60.5 seconds
    grid = decode_candidates(photos, candidate_fps=0.1)
    assert (grid.indices >= 4).sum() >= 4
    exact = decode_frames(photos, [7, 2, 7])
    assert exact.indices.tolist() == [7, 2, 7]
    assert (exact.frames == frames[[7, 2, 7]]).all()
    assert decode_frames(ImageFiles(photos.paths, fps=4), [8]).timestamps.tolist() == [2.0]


def test_image_files_can_be_clipped(photos):
    clip = decode_candidates(VideoClip(photos, 2, 12.5), candidate_fps=100)
    assert clip.indices.tolist() == [2, 3, 4, 5]
    assert clip.clip == (2.0, 12.5)


def test_only_the_wanted_image_files_are_opened(photos, tmp_path):
    paths = [*photos.paths[:4], tmp_path / "gone.png"]
    assert decode_frames(ImageFiles(paths, fps=1), [0, 3]).indices.tolist() == [0, 3]
    with pytest.raises(VideoError, match=r"gone.png' cannot be read as an image: there is no such file") as error:
        decode_frames(ImageFiles(paths, fps=1), [4])
    one_sentence(error)


def test_image_files_stand_upright_as_their_exif_data_ask(tmp_path):
    upright = np.zeros((40, 24, 3), dtype=np.uint8)
    upright[:10, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    Image.fromarray(np.rot90(upright)).save(tmp_path / "turned.png", exif=exif)
    decoded = decode_candidates(ImageFiles([tmp_path / "turned.png"], fps=1))
    assert (decoded.frames[0] == upright).all()
    assert (decoded.height, decoded.width) == (40, 24)


def test_other_sizes_are_fitted_into_the_first_without_distortion_and_counted(tmp_path):
    Image.new("RGB", (80, 40), "white").save(tmp_path / "wide.png")
    Image.new("RGB", (30, 60), "white").save(tmp_path / "tall.png")
    Image.new("RGB", (160, 80), "white").save(tmp_path / "large.png")
    decoded = decode_candidates(ImageFiles([tmp_path / f"{n}.png" for n in ("wide", "tall", "large")], fps=1))
    assert decoded.frames.shape == (3, 40, 80, 3)
    assert (decoded.frames[[0, 2]] == 255).all()
    assert (decoded.frames[1, :, 30:50] == 255).all()
    assert (decoded.frames[1, :, :30] == 0).all()
    assert (decoded.frames[1, :, 50:] == 0).all()
    assert decoded.warnings == ["2 image files had another size and were fitted into that of the first"]
    small = decode_candidates(ImageFiles([tmp_path / "wide.png"], fps=1), max_side=20)
    assert small.frames.shape == (1, 10, 20, 3)
    assert (small.height, small.width) == (40, 80)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "I;16"])
def test_every_mode_of_a_picture_becomes_rgb(tmp_path, mode):
    ramp = np.linspace(0, 255, 64).astype(np.uint8)[None].repeat(8, axis=0)
    if mode == "I;16":
        picture = Image.fromarray(ramp.astype(np.uint16) << 8)
    else:
        picture = Image.fromarray(ramp).convert("RGB" if mode == "RGBA" else "L").convert(mode)
    picture.save(tmp_path / "ramp.png")
    frame = decode_candidates(ImageFiles([tmp_path / "ramp.png"], fps=1)).frames[0]
    assert frame.shape == (8, 64, 3)
    tolerance = 255 if mode == "1" else 1
    assert np.abs(frame.astype(int) - ramp[..., None]).max() <= tolerance
    assert frame[:, -1].min() > 250
    assert frame[:, 0].max() < 5


def test_damaged_image_files_are_left_out_and_counted_or_an_error_by_number(photos, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    whole = photos.paths[3].read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    files = ImageFiles([photos.paths[0], tmp_path / "text.png", tmp_path / "cut.png", photos.paths[1]], fps=1)
    decoded = decode_candidates(files, candidate_fps=100)
    assert decoded.indices.tolist() == [0, 3]
    assert decoded.warnings == ["2 image files, 'text.png' first, cannot be decoded and were left out"]
    with pytest.raises(
        VideoError, match=r"1 of 2 wanted image files cannot be decoded \(the first is 'cut.png'\)"
    ) as error:
        decode_frames(files, [0, 2])
    one_sentence(error)


def bomb(path, side: int):
    """A PNG of side * side black pixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes((1, 0, 0, 0, 0))
    pixels = zlib.compress(bytes(side * (1 + (side + 7) // 8)), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(("side", "what"), [(7000, "7000 x 7000 pixels"), (14000, "far more pixels than Pillow")])
def test_decompression_bombs_are_refused_before_they_unfold(tmp_path, side, what):
    path = bomb(tmp_path / "bomb.png", side)
    assert path.stat().st_size < 200_000
    with pytest.raises(VideoError, match=what) as error:
        decode_candidates(ImageFiles([path], fps=1))
    one_sentence(error)


@pytest.mark.parametrize(
    ("limits", "what"),
    [
        (VideoLimits(max_pixels=6143), "96 x 64 pixels"),
        (VideoLimits(max_bytes=10), "bytes, more than the limit of 10"),
        (VideoLimits(max_frames=11), "more than 11 pictures"),
        (VideoLimits(max_duration=60), "more than the limit of 60 s"),
        (VideoLimits(max_output_bytes=96 * 64 * 3 * 11), "12 frames of 96 x 64 pixels"),
        (VideoLimits(decode_timeout=1e-9), "took longer than 1e-09 s"),
    ],
)
def test_every_limit_holds_for_image_files(photos, limits, what):
    with pytest.raises(VideoError, match=what) as error:
        decode_candidates(photos, candidate_fps=100, limits=limits)
    one_sentence(error)


def test_only_picture_formats_are_opened(tmp_path, photos):
    Image.open(photos.paths[0]).save(tmp_path / "picture.tiff")
    (tmp_path / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    for name in ("picture.tiff", "script.png"):
        with pytest.raises(VideoError, match=f"cannot be decoded .the first is '{name}'"):
            decode_candidates(ImageFiles([tmp_path / name], fps=1))


@pytest.mark.parametrize(
    "arguments",
    [
        {"paths": [], "fps": 1},
        {"paths": "a.png", "fps": 1},
        {"paths": [b"a.png"], "fps": 1},
        {"paths": ["a.png"]},
        {"paths": ["a.png"], "fps": 1, "seconds": [0]},
        {"paths": ["a.png"], "fps": 0},
        {"paths": ["a.png", "b.png"], "seconds": [0]},
        {"paths": ["a.png", "b.png"], "seconds": [1, 1]},
        {"paths": ["a.png", "b.png"], "seconds": [-1, 1]},
        {"paths": ["a.png", "b.png"], "seconds": [0, float("nan")]},
    ],
)
def test_lists_that_are_no_video_are_refused(arguments):
    with pytest.raises(VideoError) as error:
        ImageFiles(**arguments)
    one_sentence(error)


# -- limits --------------------------------------------------------------------------------------------------------


def test_reading_ends_at_the_time_limit(video):
    with pytest.raises(VideoError, match="took longer than 1e-09 s") as error:
        decode_candidates(video, limits=VideoLimits(decode_timeout=1e-9))
    one_sentence(error)


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_is_a_positive_number(value):
    with pytest.raises(VideoError, match=r"VideoLimits\.max_pixels must be a positive number"):
        VideoLimits(max_pixels=value)


# -- everything that takes a video takes these ---------------------------------------------------------------------


def test_selecting_frames_from_a_clip_stays_in_it_and_says_so(video, tmp_path):
    selector = FrameSelector(None, candidate_fps=5)
    features = selector.encode(VideoClip(video, 2, 6))
    loaded = CandidateFeatures.load(features.save(tmp_path / "features.npz"), source=video)
    assert loaded.clip == features.clip == (2.0, 6.0)
    selection = selector.select(features, k=5)
    assert (selection.seconds >= 2).all()
    assert (selection.seconds <= 6).all()
    assert (selection.frames == decode_frames(video, selection.indices).frames).all()
    assert FrameSelection.from_dict(json.loads(json.dumps(selection.to_dict()))).clip == (2.0, 6.0)
    assert VideoFacts.of(selection).looked_at == (2.0, 6.0)


def test_the_cache_tells_a_clip_from_the_whole_and_image_files_are_not_kept(video, photos, tmp_path):
    selector = FrameSelector(None, candidate_fps=5, cache_dir=tmp_path / "cache")
    whole, clip, other = (selector.encode(s) for s in (video, VideoClip(video, 2, 6), VideoClip(video, 2, 5)))
    assert len(list((tmp_path / "cache").iterdir())) == 3
    again = selector.encode(VideoClip(video.read_bytes(), 2, 6))
    assert len(list((tmp_path / "cache").iterdir())) == 3
    assert again.clip == clip.clip == (2.0, 6.0)
    assert (again.candidate_indices == clip.candidate_indices).all()
    assert whole.clip is None
    assert len(other.candidate_indices) < len(clip.candidate_indices) < len(whole.candidate_indices)
    assert (selector.select(again, k=3).seconds >= 2).all()
    selector.encode(photos)
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_selecting_frames_from_image_files(photos):
    selection = select_frames(photos, k=4, candidate_fps=10)
    assert (selection.frames == numbered_frames(12)[selection.indices]).all()
    np.testing.assert_allclose(selection.seconds, selection.indices**2 / 2)


@pytest.mark.parametrize("kind", ["clip", "images", "memory"])
def test_the_processor_takes_them_in_both_looks(video, photos, kind):
    source = {
        "clip": VideoClip(video, 2, 6),
        "images": photos,
        "memory": VideoClip(full_decode(video)[0], 2, 6),
    }[kind]
    metadata = [{"fps": 25.0}] if kind == "memory" else None
    processor = NTLBGProcessor.from_base(tiny_base_processor("qwen2_vl"), candidate_fps=1.0)
    look = processor.first_look(source, "what is it?", video_metadata=metadata)
    lower, upper = (0, 61) if kind == "images" else (2, 6)
    assert look["group_timestamps"].min() >= lower
    assert look["group_timestamps"].max() <= upper
    groups = len(look["group_timestamps"])
    selection = Selection.from_indices([0, groups - 1], look["group_timestamps"])
    selection = replace(selection, frames_indices=look["frames_indices"])
    frames, everything = processor.video_processor.fetch_selected(source, [selection], metadata)[0]
    assert len(everything.frame_timestamps) == len(look["frames_indices"])
    expected = photos if kind == "images" else video
    assert (frames.frames == decode_frames(expected, frames.indices).frames).all()
    every = processor.video_processor.fetch(source, metadata, do_sample_frames=False)[0]
    assert len(every) == (12 if kind == "images" else 101)


def test_a_batch_may_mix_them(video, photos):
    processor = NTLBGProcessor.from_base(tiny_base_processor("qwen2_vl")).video_processor
    assert len(processor.fetch([[VideoClip(video, 1, 2), photos], [str(video)]], num_frames=3)) == 3


def test_a_checkpoint_neither_saves_nor_sets_what_a_video_may_cost(tmp_path):
    processor = NTLBGProcessor.from_base(tiny_base_processor("qwen2_vl"))
    processor.video_processor.limits = VideoLimits(allow_http=True)
    processor.save_pretrained(tmp_path)
    assert "allow_http" not in "".join(path.read_text() for path in tmp_path.glob("*.json"))
    assert not NTLBGProcessor.from_pretrained(tmp_path).video_processor.limits.allow_http
    config = tmp_path / "processor_config.json"
    described = json.loads(config.read_text())
    described["video_processor"]["limits"] = {"allow_http": True}
    config.write_text(json.dumps(described))
    with pytest.raises(ValueError, match="`limits` must be VideoLimits, but got dict"):
        NTLBGProcessor.from_pretrained(tmp_path)


# -- the command line ----------------------------------------------------------------------------------------------


def run(capsys, *arguments) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as left:
        code = left.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_looks_only_between_start_and_end(capsys, video, tmp_path):
    options = ("--start", "0:02", "--end", "6.0", "--json", tmp_path / "s.json", "--report", tmp_path / "r.html")
    code, out, err = run(capsys, "select", video, "-k", 3, *options)
    assert (code, err) == (0, "")
    assert "plain.mp4 from 00:02.0 to 00:06.0: 3 frames of 8 candidates" in out
    selection = json.loads((tmp_path / "s.json").read_text())
    assert min(selection["seconds"]) >= 2
    stretches = [stretch for found in selection["stands_for"] for stretch in found]
    assert (min(stretches)[0], max(stretches)[1]) == (2.0, 6.0)
    page = (tmp_path / "r.html").read_text()
    assert "only 00:02.0 to 00:06.0 looked at" in page
    question = json.loads((tmp_path / "r.json").read_text())["questions"][0]
    windows = [chosen["window"] for chosen in question["selection"]["representatives"]]
    assert all(2.0 <= first < last <= 6.0 for first, last in windows)


def test_the_command_takes_a_folder_of_pictures_in_natural_order(capsys, photos, tmp_path):
    options = ("--image-fps", 1, "--candidate-fps", 1, "-k", 12, "--out", tmp_path / "out")
    code, _, err = run(capsys, "select", photos.paths[0].parent, *options)
    assert (code, err) == (0, "")
    written = sorted((tmp_path / "out").glob("frame_*"))
    assert len(written) == 12
    # photo10 comes after photo9 and not after photo1
    for path, frame in zip(written, numbered_frames(12), strict=True):
        assert (np.asarray(Image.open(path)) == frame).all()


def test_the_command_takes_a_list_of_pictures_with_their_seconds(capsys, photos, tmp_path):
    listed = photos.paths[0].parent / "list.txt"
    listed.write_text("".join(f"{n * n / 2} {path.name}\n" for n, path in enumerate(photos.paths)) + "\n")
    code, out, err = run(capsys, "select", listed, "--image-list", "-k", 3, "--candidate-fps", 10)
    assert (code, err) == (0, "")
    assert "3 frames of 12 candidates" in out


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["{folder}"], "is a folder; give a video file, or --image-fps"),
        (["{video}", "--image-fps", "1"], "--image-fps needs a folder of pictures"),
        (["{empty}", "--image-fps", "1"], "holds no pictures"),
        (["{video}", "--image-list"], "is no text in UTF-8"),
        (["{words}", "--image-list"], "line 1 of .* must be `SECONDS PATH`, got 'hello there'"),
        (["{video}", "--start", "5", "--end", "2"], "--end 2 lies before --start 5"),
        (["{video}", "--start", "soon"], "seconds or h:mm:ss are expected, got 'soon'"),
        (["{video}", "--start", "60"], "from 60 s to its end"),
        (["{video}", "--limit", "colour=3"], "NAME=NUMBER is expected with one of max_bytes"),
        (["{video}", "--limit", "max_pixels=-3"], "a number above 0 is expected"),
        (
            ["{video}", "--limit", "max_pixels=1e3"],
            "more than the limit of 1000; scale it down or raise --limit max_pixels=",
        ),
    ],
)
def test_options_that_do_not_fit_end_in_one_sentence(capsys, video, tmp_path, arguments, what):
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.txt").write_text("hello there\n")
    names = {"folder": tmp_path, "video": video, "empty": tmp_path / "empty", "words": tmp_path / "words.txt"}
    code, out, err = run(capsys, "select", *(argument.format(**names) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert re.search(what, err), err
