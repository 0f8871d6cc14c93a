"""`ntlbg data prepare`: rows that load, a card that counts, subtitles as a set of its own, and the builders."""

import json
import os

import pytest
import yaml
from hub_parts import run_alone
from loopback_hub import LoopbackHub
from qa_parts import video_bytes

from ntlbg.cli import main
from ntlbg.data.benchmark_builder import Benchmark
from ntlbg.data.benchmark_subtitles import benchmark_subtitles
from ntlbg.data.prepare import prepare
from ntlbg.data.qa_dataset import load_qa
from ntlbg.errors import InputError
from ntlbg.selection.subtitles import Cue, SubtitleError, Subtitles


LINES = "v0 1.0 3.5##the square moves\nv1 2.0 30.0##it turns\ngone 0.0 1.0##nothing\n"
LVB = [
    {
        "id": f"q{number}",
        "video_id": f"v{number}",
        "video_path": f"v{number}.mp4",
        "subtitle_path": f"v{number}_en.json",
        "duration": 8.0,
        "question": "What is said?",
        "candidates": ["one", "two"],
        "correct_choice": number,
        "starting_timestamp_for_subtitles": 100,
    }
    for number in range(2)
]
CUES = [
    {"timestamp": [101.0, 102.5], "text": "one"},
    {"start": "00:01:44.000", "end": "00:01:45.500", "line": "two"},
    {"timestamp": [106.0, None], "text": "three"},
    {"timestamp": [1.0, 2.0], "text": "before the clip"},
    {"timestamp": ["?", 2.0], "text": "broken"},
]


@pytest.fixture
def place(tmp_path):
    """Videos v0 and v1 in a folder below, and annotations of Charades-STA and LongVideoBench."""
    folder = tmp_path / "videos" / "part"
    folder.mkdir(parents=True)
    for number in range(2):
        (folder / f"v{number}.mp4").write_bytes(video_bytes(number))
    (tmp_path / "test.txt").write_text(LINES)
    (tmp_path / "lvb.json").write_text(json.dumps(LVB))
    (tmp_path / "subtitles").mkdir()
    (tmp_path / "subtitles" / "v0_en.json").write_text(json.dumps(CUES))
    return tmp_path


def run(place, *more, name="charades_sta", annotations="test.txt"):
    given = ["--annotations", str(place / annotations), "--videos", str(place / "videos")]
    return main(["data", "prepare", name, *given, "--out", str(place / "out"), *more])


def loaded(place, **options):
    rows = load_qa(str(place / "out"), split="test", video_root=place / "videos", **options)
    return [{name: value for name, value in row.items() if name != "place"} for row in rows]


def front_matter(path):
    return yaml.safe_load(path.read_text().split("---")[1])


def test_rows_are_written_ready_to_load_and_what_is_left_out_is_counted(place, capsys):
    assert run(place) == 1
    told = capsys.readouterr()
    assert "2 rows about 2 videos" in told.out
    assert "1 left out, 1 spans cut to their video, 2 durations read" in told.out
    assert "left out: 1: its video is not in the folder" in told.err
    rows = loaded(place)
    assert [(row["spans"], row["duration"]) for row in rows] == [([[1.0, 3.5]], 8.0), ([[2.0, 8.0]], 8.0)]
    card = (place / "out" / "README.md").read_text()
    assert "| default | test | 2 | 2 | 1 | 1 |" in card
    assert "- 1: its video is not in the folder" in card


def test_parquet_holds_the_same_rows_as_jsonl(place):
    run(place)
    as_lines = loaded(place)
    for file in (place / "out").iterdir():
        file.unlink()
    assert run(place, "--parquet") == 1
    assert not (place / "out" / "test.jsonl").exists()
    assert loaded(place) == as_lines


def test_what_was_prepared_anew_is_what_is_loaded(place):
    """`datasets` keeps what a folder held when it was first loaded."""
    run(place, "--parquet")
    before = loaded(place)
    (place / "test.txt").write_text(LINES.replace("the square", "the circle"))
    run(place, "--parquet")
    after = loaded(place)
    assert before[0]["question"] == "the square moves"
    assert after[0]["question"] == "the circle moves"


def test_splits_share_a_folder_and_its_card(place):
    run(place)
    run(place, "--split", "train")
    (config,) = front_matter(place / "out" / "README.md")["configs"]
    files = [{"split": split, "path": f"{split}.jsonl"} for split in ("test", "train")]
    assert config == {"config_name": "default", "data_files": files}


def test_another_benchmark_does_not_get_into_the_folder(place, capsys):
    run(place)
    before = (place / "out" / "test.jsonl").read_text()
    assert run(place, name="longvideobench", annotations="lvb.json") == 2
    assert "holds charades_sta; give longvideobench a folder of its own" in capsys.readouterr().err
    assert (place / "out" / "test.jsonl").read_text() == before


def test_subtitles_are_a_set_of_their_own(place, capsys):
    assert run(place, name="longvideobench", annotations="lvb.json") == 0
    subtitles = ("--subtitles", str(place / "subtitles"))
    assert run(place, *subtitles, name="longvideobench", annotations="lvb.json") == 0
    assert "1 of 2 rows have subtitles" in capsys.readouterr().out
    assert not any("subtitles" in row for row in loaded(place))
    first, second = loaded(place, config="subtitles")
    assert [cue["text"] for cue in first["subtitles"]] == ["one", "two", "three"]
    assert "subtitles" not in second
    # as they are told: at the chosen moments, seconds of the video
    told, _ = Subtitles.of(first["subtitles"]).told_at([1.5, 5.0], 8.0, within=0)
    assert told == [[Cue(1.0, 2.5, "one")], [Cue(4.0, 5.5, "two")]]
    names = [config["config_name"] for config in front_matter(place / "out" / "README.md")["configs"]]
    assert names == ["default", "subtitles"]


def test_rows_whose_subtitles_begin_at_no_time_have_none(place, capsys):
    (place / "subtitles" / "v1_en.json").write_text(json.dumps(CUES))
    (place / "lvb.json").write_text(json.dumps([LVB[0], {**LVB[1], "starting_timestamp_for_subtitles": "soon"}]))
    assert run(place, "--subtitles", str(place / "subtitles"), name="longvideobench", annotations="lvb.json") == 0
    assert "1 of 2 rows have subtitles" in capsys.readouterr().out


def test_longvideobench_subtitles_are_read_in_both_forms_and_broken_cues_counted(place):
    read = benchmark_subtitles(place / "subtitles" / "v0_en.json", offset=100.0, duration=8.0)
    assert read.cues == (Cue(1.0, 2.5, "one"), Cue(4.0, 5.5, "two"), Cue(6.0, 8.0, "three"))
    assert read.warnings == ("1 of the 5 cues of 'v0_en.json' have no readable times or text: left out.",)


@pytest.mark.parametrize("content", ["{", "[]", "[1]", '{"timestamp": 3}', '[{"timestamp": [1, NaN], "text": "x"}]'])
def test_a_file_without_cues_is_refused(content, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(SubtitleError, match=r"x\.json"):
        benchmark_subtitles(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--max-bad", "0.2"), "1 of 3 items of"),
        (("--split", "../x"), "a split is a word"),
        (("--subtitles", "/nowhere"), "is no folder of subtitle files"),
        (("--videos", "/nowhere"), "is no folder of videos"),
        (("--annotations", "/nowhere"), "cannot be read"),
        (("--public",), "--public needs --push-to"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_writes_nothing(more, told, place, capsys):
    assert run(place, *more) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (place / "out").exists()


def test_a_hub_that_cannot_be_reached_is_one_sentence(place, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    assert run(place, "--push-to", "me/rows") == 2
    assert "cannot be pushed to 'me/rows'" in capsys.readouterr().err


PUSH = """
import json
from datasets import load_dataset
from ntlbg.cli import main
from ntlbg.data.qa_dataset import load_qa

words = ["longvideobench", "--annotations", "lvb.json", "--videos", "videos", "--out", "out"]
told = ["--subtitles", "subtitles"]
(place := __import__("pathlib").Path("out")).mkdir()
(place / "notes.txt").write_text("mine")
codes = [main(["data", "prepare", *words]), main(["data", "prepare", *words, *told, "--push-to", "rows"])]
plain = load_dataset("me/rows", split="test")
spoken = [dict(row) for row in load_qa("me/rows", config="subtitles", split="test", video_root="videos")]
streamed = [dict(row) for row in load_qa("me/rows", split="test", video_root="videos", streaming=True)]
print("RESULT " + json.dumps([codes, plain["id"][:], plain.column_names, spoken, streamed]))
"""


def test_rows_are_pushed_without_videos_privately_and_load_and_stream_from_there(place):
    hub = LoopbackHub()
    try:
        (codes, ids, columns, spoken, streamed), _ = run_alone(PUSH, hub, place)
    finally:
        hub.close()
    assert codes == [0, 0]
    assert ids == ["q0", "q1"]
    assert "subtitles" not in columns
    assert [len(row.get("subtitles", ())) for row in spoken] == [3, 0]
    assert [row["options"] for row in streamed] == [["one", "two"]] * 2
    assert hub.repos["dataset", "me/rows"].private
    files = {".gitattributes", "README.md", "prepared.json", "test.jsonl", "subtitles/test.jsonl"}
    assert set(hub.files("me/rows", "dataset")) | {".gitattributes"} == files


def test_the_builder_gives_the_rows_also_as_a_stream(place, tmp_path):
    prepared = prepare("charades_sta", place / "test.txt", place / "videos", place / "out")
    given = {"annotations": str(place / "test.txt"), "videos": str(place / "videos")}
    builder = Benchmark(config_name="charades_sta", cache_dir=str(tmp_path / "cache"), **given)
    builder.download_and_prepare()
    built, streamed = list(builder.as_dataset("test")), list(builder.as_streaming_dataset("test"))
    assert built == streamed
    assert len(built) == prepared.rows
    rows = [dict(row) for row in load_qa(built, video_root=place / "videos")]
    assert [{**row, "place": ""} for row in rows] == [{**row, "place": ""} for row in loaded(place)]


def test_the_builder_makes_its_table_again_when_the_annotations_were_corrected(place, tmp_path):
    given = {"annotations": str(place / "test.txt"), "videos": str(place / "videos")}
    rows = []
    for text in (LINES, LINES.replace("moves", "jumps")):
        (place / "test.txt").write_text(text)
        os.utime(place / "test.txt", ns=(0, len(rows)))
        builder = Benchmark(config_name="charades_sta", cache_dir=str(tmp_path / "cache"), **given)
        builder.download_and_prepare()
        rows.append(builder.as_dataset("test")[0]["question"])
    assert rows == ["the square moves", "the square jumps"]


def test_the_builder_without_paths_says_what_it_needs(tmp_path):
    with pytest.raises(InputError, match="needs annotations= and videos="):
        Benchmark(config_name="videomme", cache_dir=str(tmp_path)).download_and_prepare()
