"""A folder of features: made once, taken up again after any end, and every video accounted for."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from odd_videos import numbered_frames, write_video
from tiny_encoders import save_encoder

from ntlbg.cli import main
from ntlbg.data.feature_files import (
    TooManyBadVideos,
    feature_file,
    make_feature_files,
    read_video_list,
)
from ntlbg.errors import InputError
from ntlbg.selection.api import FrameSelector
from ntlbg.selection.features import CandidateFeatures


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(save_encoder("clip", tmp_path_factory.mktemp("encoder")))


@pytest.fixture(scope="module")
def selector(encoder):
    return FrameSelector(encoder, candidate_fps=2)


@pytest.fixture
def videos(tmp_path):
    """Three videos of one content and two files that are none."""
    folder = tmp_path / "videos"
    folder.mkdir()
    first = write_video(folder / "a.mp4", numbered_frames(50), options={"g": "25"})
    for name in ("b.mp4", "c.mp4"):
        shutil.copy(first, folder / name)
    (folder / "text.mp4").write_text("no video")
    return folder


def report_of(folder: Path) -> dict[str, dict]:
    lines = [json.loads(line) for line in (folder / "report.jsonl").read_text(encoding="utf-8").splitlines()]
    return {Path(line["video"]).name: line for line in lines}


def changes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npz")}


def test_every_video_has_its_features_or_its_reason(videos, selector, tmp_path):
    names = [videos / name for name in ("a.mp4", "text.mp4", "b.mp4", "missing.mp4", "c.mp4", "a.mp4")]
    result = make_feature_files(names, tmp_path / "out", selector, workers=2)
    assert (result.made, result.kept, result.bad) == (3, 0, 2)
    report = report_of(tmp_path / "out")
    assert set(report) == {"a.mp4", "b.mp4", "c.mp4", "text.mp4", "missing.mp4"}
    assert "there is no such file" in report["missing.mp4"]["error"]
    assert "cannot be opened as a video" in report["text.mp4"]["error"]
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        path = tmp_path / "out" / report[name]["features"]
        assert path == feature_file(tmp_path / "out", videos / name, selector)
        features = CandidateFeatures.load(path)
        assert (features.descriptors == selector.encode(videos / name).descriptors).all()
        assert report[name]["candidates"] == len(features.candidate_indices) == 4
    assert not list((tmp_path / "out").glob(".*"))


def test_what_is_done_is_kept_and_what_changed_is_done_again(videos, selector, encoder, tmp_path):
    out = tmp_path / "out"
    names = [videos / name for name in ("a.mp4", "b.mp4", "text.mp4")]
    make_feature_files(names, out, selector, workers=1)
    before = changes(out)
    again = make_feature_files(names, out, selector, workers=1)
    assert (again.made, again.kept, again.bad) == (0, 2, 1)
    assert changes(out) == before
    assert report_of(out)["a.mp4"]["features"] in before
    write_video(videos / "b.mp4", numbered_frames(75))
    (videos / "text.mp4").write_bytes((videos / "a.mp4").read_bytes())
    mended = make_feature_files(names, out, selector, workers=1)
    assert (mended.made, mended.kept, mended.bad) == (2, 1, 0)
    assert CandidateFeatures.load(feature_file(out, videos / "b.mp4", selector)).total_num_frames == 75
    other = make_feature_files(names, out, FrameSelector(encoder, candidate_fps=3), workers=1)
    assert (other.made, other.kept) == (3, 0)


def test_a_file_that_is_not_whole_is_made_again(videos, selector, tmp_path):
    make_feature_files([videos / "a.mp4"], tmp_path, selector, workers=1)
    place = feature_file(tmp_path, videos / "a.mp4", selector)
    place.write_bytes(place.read_bytes()[:1000])
    left_by_a_kill = tmp_path / f".{place.name}.0123456789abcdef.part"
    left_by_a_kill.touch()
    assert make_feature_files([videos / "a.mp4"], tmp_path, selector, workers=1).made == 1
    assert len(CandidateFeatures.load(place).descriptors) == 4
    assert not left_by_a_kill.exists()


def test_too_many_bad_videos_stop_the_run_and_what_was_made_stays(videos, selector, tmp_path):
    bad = [videos / f"missing{number}.mp4" for number in range(20)]
    with pytest.raises(TooManyBadVideos, match=r"3 of 22 videos cannot be used, more than the share of 0\.1"):
        make_feature_files([videos / "a.mp4", videos / "b.mp4", *bad], tmp_path, selector, max_bad=0.1, workers=1)
    assert len(changes(tmp_path)) == 2
    assert sum("error" in line for line in report_of(tmp_path).values()) == 3


def test_one_run_at_a_time_writes_to_a_folder(videos, selector, tmp_path):
    import fcntl

    with (tmp_path / "report.jsonl").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another run writes to"):
            make_feature_files([videos / "a.mp4"], tmp_path, selector, workers=1)
    assert make_feature_files([videos / "a.mp4"], tmp_path, selector, workers=1).made == 1


def test_a_name_that_is_no_text_is_no_obstacle(videos, selector, tmp_path):
    odd = os.fsdecode(os.fsencode(videos) + b"/\xff \n\xe4.mp4")
    shutil.copy(videos / "a.mp4", odd)
    assert make_feature_files([odd], tmp_path / "out", selector, workers=1).made == 1
    (line,) = (tmp_path / "out" / "report.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["video"] == odd
    assert (tmp_path / "out" / json.loads(line)["features"]).exists()


def test_a_list_names_each_video_once_relative_to_itself(tmp_path):
    lines = [{"video_path": "v/a.mp4", "question": "what?"}, {"video_path": "v/a.mp4"}, {"video_path": "/there/b.mp4"}]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    assert read_video_list(path) == [str(tmp_path / "v/a.mp4"), "/there/b.mp4"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"video_path": "a.mp4"}\n{"video', "line 2 of .* is not JSON"),
        (b'{"path": "a.mp4"}\n', "line 1 of .* has no 'video_path'"),
        (b'["a.mp4"]\n', "line 1 of .* has no 'video_path'"),
        (b'{"video_path": 5}\n', "line 1 of .* has no 'video_path'"),
        (b"\xff\xfe\n", "is not UTF-8"),
        (b"[" * 100_000, "line 1 of .* is not JSON"),
    ],
)
def test_a_list_that_is_none_is_refused_in_one_sentence(content, told, tmp_path):
    (tmp_path / "list.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=told):
        read_video_list(tmp_path / "list.jsonl")


# -- the command ---------------------------------------------------------------------------------------------------


def run(capsys, *arguments) -> tuple[int, str, str]:
    try:
        code = main(["data", "features", *map(str, arguments)])
    except SystemExit as left:
        code = left.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_exit_code_tells_whether_videos_are_bad(videos, encoder, tmp_path, capsys):
    (tmp_path / "list.jsonl").write_text('{"clip": "videos/a.mp4"}\n{"clip": "videos/b.mp4"}\n')
    options = ("--out", tmp_path / "out", "--encoder", encoder, "--workers", 1, "--quiet")
    code, out, err = run(capsys, tmp_path / "list.jsonl", "--field", "clip", *options)
    assert (code, err) == (0, "")
    assert out == f"2 made, 0 kept from before, 0 bad; see {tmp_path}/out/report.jsonl\n"
    code, out, _ = run(capsys, tmp_path / "list.jsonl", videos / "text.mp4", "--field", "clip", *options)
    assert (code, out.split(";")[0]) == (1, "0 made, 2 kept from before, 1 bad")
    code, out, err = run(capsys, videos / "text.mp4", "--max-bad", 0.5, *options)
    assert (code, out) == (2, "")
    assert err.startswith("ntlbg: error: 1 of 1 videos cannot be used")


@pytest.mark.parametrize(
    "arguments",
    [
        ("a.mp4",),
        ("--out", "out"),
        ("a.mp4", "--out", "out", "--workers", "0"),
        ("a.mp4", "--out", "out", "--max-bad", "2"),
        ("missing.jsonl", "--out", "out"),
        ("a.mp4", "--out", __file__),
        ("a.mp4", "--out", "out", "--encoder", "/no/such/encoder"),
    ],
)
def test_bad_usage_ends_with_one_sentence(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("ntlbg: error: ")
    assert err.count("\n") == 1


def test_a_killed_run_is_taken_up_where_it_ended(videos, tmp_path, capsys):
    """A real run, ended with SIGKILL between two videos, and the same command again."""
    out = tmp_path / "out"
    many = [Path(shutil.copy(videos / "a.mp4", videos / f"{number:02}.mp4")) for number in range(40)]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps({"video_path": str(path)}) + "\n" for path in many))
    arguments = [str(tmp_path / "list.jsonl"), "--out", str(out), "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ntlbg", "data", "features", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    while len(changes(out) if out.exists() else ()) < 2 and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    said, _ = process.communicate(timeout=60)
    done = changes(out)
    assert 2 <= len(done) < 40, said
    for name in done:
        assert len(CandidateFeatures.load(out / name).descriptors) == 4
    code, told, _ = run(capsys, *arguments)
    assert (code, told.split(";")[0]) == (0, f"{40 - len(done)} made, {len(done)} kept from before, 0 bad")
    after = changes(out)
    assert len(after) == 40
    assert {name: after[name] for name in done} == done
    assert not list(out.glob(".*"))
