"""`ntlbg probe`: what it says of a video is so, in lines for people and in JSON."""

import json

import av
import numpy as np
import pytest
from odd_catalog import ODD, textured_frames
from odd_videos import real_videos, write_audio
from PIL import Image

from ntlbg.cli import main
from ntlbg.probe import probe
from ntlbg.processors.video_decoding_ntlbg import ImageFiles, VideoClip, VideoError, VideoFile
from ntlbg.processors.video_walk_ntlbg import VideoWalk


av.logging.set_level(None)

# What must be found; everything that is not named has this value.
USUAL = {"width": 96, "height": 64, "rotation": 0, "pixel_shape": 1.0, "pictures": 160, "constant_rate": True}
FOUND = {
    "closed_gop.mp4": {"codec": "h264", "profile": "High", "keyframes": 7, "pixel_format": "yuv420p", "start": 0.0},
    "one_keyframe.mp4": {"keyframes": 1, "key_gaps": None},
    "all_intra.mp4": {"keyframes": 160},
    "ten_bit.mp4": {"pixel_format": "yuv420p10le", "profile": "High 10"},
    "alpha.mov": {"codec": "qtrle", "pixel_format": "argb"},
    "picture.gif": {"codec": "gif"},
    "odd_size.mkv": {"width": 97, "height": 63, "coded_width": 97},
    "anamorphic.mp4": {"width": 128, "coded_width": 96, "pixel_shape": pytest.approx(4 / 3)},
    "turned_right.mp4": {"rotation": 90, "width": 64, "height": 96},
    "upside_down.mp4": {"rotation": 180},
    "turned_left.mp4": {"rotation": 270, "width": 64, "height": 96},
    "variable_rate.mkv": {"constant_rate": False},
    "late_start.ts": {"start": 101.0},
    "mid_gop.ts": {"pictures": 140},
    "sound_and_cover.mp4": {"other_streams": ["cover picture mjpeg"]},
    "b_frames.avi": {"codec": "mpeg4"},
    "repeated_times.mkv": {"constant_rate": False},
}
WRONG = {
    "b_frames.avi": "AVI does not store presentation times",
    "repeated_times.mkv": "2 packets repeat a presentation time",
    "mid_gop.ts": "15 pictures before the first keyframe",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("probed")


def made(folder, name):
    path = folder / name
    return path if path.exists() else ODD[name](path)


def run(capsys, *arguments) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["probe", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", FOUND)
def test_what_it_says_of_odd_files_is_so(folder, name):
    found = probe(made(folder, name))
    expected = USUAL | FOUND[name]
    assert {field: getattr(found, field) for field in expected} == expected
    assert (found.name, found.bytes) == (name, (folder / name).stat().st_size)
    text = str(found)
    if name in WRONG:
        assert found.problems[0].startswith(WRONG[name])
        assert found.problems[0] in text
    else:
        assert found.problems == []
        assert "none found; --thorough decodes every picture" in text
    assert (found.plan.mode == "sequential") == (name in ("b_frames.avi", "repeated_times.mkv"))
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["plan"]["reason"] in text


@pytest.mark.parametrize("name", ["closed_gop.mp4", "open_gop.mp4", "variable_rate.mkv"])
@pytest.mark.parametrize("rate", [0.5, 2, 100])
def test_the_packets_it_announces_are_those_that_get_decoded(folder, name, rate, monkeypatch):
    path, fed = made(folder, name), []
    decode = VideoWalk._decode
    monkeypatch.setattr(VideoWalk, "_decode", lambda self, packet: (fed.append(packet), decode(self, packet))[1])
    plan = probe(path, candidate_fps=rate).plan
    fed.clear()
    with VideoFile(path) as video:
        numbers = video.candidate_pictures(rate, 768)
        assert plan.candidates == len(numbers)
        video.read(numbers)
    assert plan.packets == sum(packet is not None for packet in fed)
    assert plan.stretches == sum(packet is None for packet in fed)
    assert plan.all_packets == 160


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("cut.mp4", "the header promises 6.40 s and 160 pictures"),
        ("cut.mkv", "the header promises 6.40 s"),
        ("hole.mp4", "packets cannot be decoded"),
        ("flipped.mp4", "pictures are marked as damaged"),
        ("hole.ts", "packets are marked as damaged"),
    ],
)
def test_damage_is_found_when_every_picture_is_decoded(folder, name, problem):
    found = probe(made(folder, name), thorough=True)
    assert any(problem in sentence for sentence in found.problems), found.problems
    intact = probe(folder / f"intact_{name}", thorough=True)
    assert intact.problems == []
    assert "none found in any picture" in str(intact)


def test_a_change_of_size_is_found_when_every_picture_is_decoded(folder):
    found = probe(made(folder, "size_change.ts"), thorough=True)
    assert found.problems[-1] == "pictures change their size and are scaled to one: 60 of 96x64, 60 of 128x96"


def test_a_format_that_is_not_read_is_told_as_such(tmp_path):
    with pytest.raises(VideoError, match=r"as a video \(another format, or a damaged header\); pass"):
        probe(write_audio(tmp_path / "sound.wav"))


def test_a_clip_and_what_is_asked_for_change_the_plan(folder):
    path = made(folder, "closed_gop.mp4")
    whole, clip = probe(path, candidate_fps=5), probe(VideoClip(path, 2, 4), candidate_fps=5, k=3)
    assert (whole.plan.candidates, clip.plan.candidates) == (32, 10)
    assert clip.plan.packets < whole.plan.packets
    assert (clip.plan.k, whole.plan.k) == (3, 16)
    assert clip.clip == (2.0, 4.0)
    assert "10 candidates from 00:02.0 to 00:04.0, 0.2 s apart on average" in str(clip)
    assert probe(path, max_candidates=4).plan.candidates == 4
    assert probe(path.read_bytes()).plan == probe(path).plan


def test_it_tells_a_scan_from_a_grid(folder):
    path = made(folder, "closed_gop.mp4")
    short, long = probe(path), probe(path, candidate_fps=12, max_candidates=70)
    assert (short.plan.mode, short.plan.reason) == ("grid", "2 a second make no more than 768")
    assert (long.plan.mode, long.plan.reason) == ("scan", "12 a second would make more than 70")
    with VideoFile(path) as video:
        numbers = video.scanned_pictures(12, 70, "auto")
        assert long.plan.candidates == len(numbers)
        assert long.plan.packets == video.cost(numbers)[0]
    assert probe(path, candidate_fps=12, max_candidates=70, scan="grid").plan.mode == "grid"
    assert probe(path, scan="keyframes").plan.mode == "scan"
    few = probe(path, candidate_fps=12, max_candidates=1).plan
    assert (few.mode, few.reason) == ("grid", "its keyframes do not make a scan cheaper")


def test_image_files_are_probed_too(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path, frame in zip(paths, textured_frames(4), strict=True):
        Image.fromarray(frame).save(path)
    found = probe(ImageFiles(paths, seconds=[0, 1, 2, 10]))
    assert (found.pictures, found.width, found.constant_rate, found.plan.mode) == (4, 96, False, "files")
    assert "image files, 96x64" in str(found)
    paths[2].write_text("no picture")
    assert probe(ImageFiles(paths, fps=1)).problems == []
    assert "'2.png'" in probe(ImageFiles(paths, fps=1), thorough=True).problems[0]
    paths[0].write_text("no picture")
    assert "the first picture cannot be had" in probe(ImageFiles(paths, fps=1)).problems[0]


@pytest.mark.skipif(not real_videos(), reason="the real footage is not present")
@pytest.mark.parametrize("path", real_videos(), ids=lambda p: p.name)
def test_nothing_is_wrong_with_the_real_footage(path):
    found = probe(path)
    assert found.problems == []
    assert found.constant_rate


def test_the_command_prints_lines_or_json(capsys, folder, tmp_path):
    path = made(folder, "turned_right.mp4")
    code, out, err = run(capsys, path, "-k", 5, "--candidate-fps", 5, "--start", 1)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"turned_right.mp4, {path.stat().st_size / 1000:.4g} kB"
    assert "turned 90°, shown as 64x96" in out
    assert "then the 5 chosen again at full size" in out
    code, out, _ = run(capsys, path, "--json")
    assert (code, json.loads(out)) == (0, json.loads(json.dumps(probe(path).to_dict())))
    code, out, _ = run(capsys, path, "--json", tmp_path / "found.json", "--thorough")
    assert (code, out) == (0, "")
    assert json.loads((tmp_path / "found.json").read_text())["thorough"]


def test_the_command_leaves_with_two_and_a_sentence_for_what_is_no_video(capsys, tmp_path):
    (tmp_path / "text.mp4").write_text("no video\n" * 20)
    (tmp_path / "empty.mp4").touch()
    write_audio(tmp_path / "sound.m4a", "aac")
    for name in ("text.mp4", "empty.mp4", "sound.m4a", "nothing.mp4"):
        for options in ([], ["--json"], ["--thorough"]):
            code, out, err = run(capsys, tmp_path / name, *options)
            assert (code, out) == (2, "")
            assert err.startswith("ntlbg: error: ")
            assert err.count("\n") == 1
    code, _, err = run(capsys, tmp_path / "text.mp4", "--json", tmp_path / "text.mp4")
    assert (code, "write over the video" in err) == (2, True)
    with pytest.raises(VideoError):
        probe(np.zeros(3).tobytes())


def test_a_name_cannot_steer_the_terminal(folder, tmp_path, capsys):
    path = tmp_path / "a\x1b[31mred\u202e\n  problems   none found.mp4"
    path.write_bytes(made(folder, "closed_gop.mp4").read_bytes())
    code, out, _ = run(capsys, path)
    assert code == 0
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert out.count("\n  problems") == 1


def test_an_empty_name_is_told_as_such(capsys):
    code, out, err = run(capsys, "")
    assert (code, out) == (2, "")
    assert err.startswith("ntlbg: error: VIDEO is empty; ")
