"""Published annotations become rows and lose nothing; what cannot is counted with its reason."""

import json

import pytest
from datasets import Dataset
from qa_parts import video_bytes

from ntlbg.data.convert_annotations import CONVERTERS, convert_annotations
from ntlbg.data.qa_records import parse_line
from ntlbg.data.video_folder import VideoFolder
from ntlbg.errors import InputError
from ntlbg.grounding.tasks import Grounding


LVB = {
    "id": "v_0",
    "video_id": "v",
    "video_path": "v.mp4",
    "subtitle_path": "v_en.json",
    "duration": 12.5,
    "duration_group": 15,
    "question": "What does she hold?",
    "candidates": ["a cup", "a book", "a hat"],
    "correct_choice": 1,
    "position": [10, 20],
    "question_category": "O2E",
    "level": "L1-Perception",
    "starting_timestamp_for_subtitles": 30,
}
QVH = {
    "qid": 7,
    "query": "A man walks inside",
    "duration": 150,
    "vid": "abc_360.0_510.0",
    "relevant_windows": [[26, 36], [40, 42]],
    "relevant_clip_ids": [13, 14],
    "saliency_scores": [[4, 4, 2], [3, 4, 2]],
}
VMME = {
    "video_id": "001",
    "duration": "short",
    "domain": "Knowledge",
    "sub_category": "Humanity & History",
    "url": "https://www.youtube.com/watch?v=fFjv93ACGo8",
    "videoID": "fFjv93ACGo8",
    "question_id": "001-1",
    "task_type": "Counting Problem",
    "question": "How many apples are there?",
    "options": ["A. Two.", "B. Three.", "C. Four.", "D. B. Five."],
    "answer": "C",
}
MLVU = {
    "video": "movie101_66.mp4",
    "duration": 480.5,
    "question": "What does the hand do?",
    "candidates": ["It waves", "It points", "It holds", "Nothing"],
    "answer": "It points",
    "question_type": "plotQA",
}
MLVU_HUB = {
    "video_name": "1_plotQA/movie101_66.mp4",
    "duration": 480.5,
    "question": "What does the hand do?\n(A) It waves\n(B) It points\n(C) It holds\n(D) Nothing",
    "answer": "B",
    "task_type": "plotQA",
}
CHARADES = "AO8RW 0.0 6.9##a person is putting a book on a shelf.\n\nY6R7T 20.8 99.0##person begins to play.\n"
NEXTQA = {
    "video": "4010069381",
    "frame_count": "369",
    "width": "640",
    "height": "480",
    "question": "how do the two men play the instrument",
    "answer": "1",
    "qid": "6",
    "type": "CH",
    "a0": "roll the handle",
    "a1": "tap their feet",
    "a2": "strum the string",
    "a3": "hit with sticks",
    "a4": "pat with hand",
}
ANET = {"v_x": {"duration": 60.0, "timestamps": [[0.5, 10.0], [8.0, 61.5]], "sentences": ["He sits.", " He runs."]}}


def converted(name, content, folder):
    path = folder / "annotations"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return convert_annotations(name, path)


def longvideobench_of(row):
    item = {**row["metadata"], **{key: row[key] for key in ("id", "video_id", "video_path", "duration", "question")}}
    return {**item, "candidates": row["options"], "correct_choice": row["answer_index"]}


def qvhighlights_of(row):
    return {
        "qid": int(row["id"]),
        "query": row["question"],
        "duration": row["duration"],
        "vid": row["video_id"],
        "relevant_windows": row["spans"],
        "relevant_clip_ids": row["saliency"]["clip_ids"],
        "saliency_scores": row["saliency"]["scores"],
    }


def test_longvideobench_comes_back_from_its_row(tmp_path):
    (row,) = converted("longvideobench", [LVB], tmp_path).rows
    assert longvideobench_of(parse_line(json.dumps(row))) == LVB
    assert row["answer"] == "a book"


def test_longvideobench_of_the_hub_has_no_padding_among_its_options(tmp_path):
    item = {key: value for key, value in LVB.items() if key != "candidates"}
    item |= {f"option{number}": text for number, text in enumerate([*LVB["candidates"], "N/A", "N/A"])}
    assert converted("longvideobench", [item], tmp_path).rows == converted("longvideobench", [LVB], tmp_path).rows


def test_qvhighlights_comes_back_from_its_row(tmp_path):
    (row,) = converted("qvhighlights", json.dumps(QVH) + "\n", tmp_path).rows
    assert qvhighlights_of(parse_line(json.dumps(row))) == QVH
    assert (row["saliency"]["clip_len"], row["answer"]) == (2.0, "26.0 - 36.0 seconds, 40.0 - 42.0 seconds")


def test_activitynet_captions_come_back_from_the_rows_of_a_video(tmp_path):
    result = converted("activitynet_captions", ANET, tmp_path)
    rows = [parse_line(json.dumps(row)) for row in result.rows]
    assert [row["question"] for row in rows] == ["He sits.", "He runs."]
    assert [row["spans"] for row in rows] == [[[0.5, 10.0]], [[8.0, 60.0]]]
    assert [row["answer"] for row in rows] == ["0.5 - 10.0 seconds", "8.0 - 60.0 seconds"]
    assert [row["metadata"] for row in rows] == [{"event": 0, "events": 2}, {"event": 1, "events": 2}]
    assert {(row["video_id"], row["duration"]) for row in rows} == {("v_x", 60.0)}
    assert result.cut == 1


def test_activitynet_captions_of_a_video_are_one_row_that_teaches_dense_captions(tmp_path):
    result = converted("activitynet_dense", ANET, tmp_path)
    (row,) = [parse_line(json.dumps(row)) for row in result.rows]
    assert (row["answer_type"], row["captions"]) == ("dense_captions", ["He sits.", "He runs."])
    assert row["spans"] == [[0.5, 10.0], [8.0, 60.0]]
    grounding = Grounding("text")
    times = grounding.times(row["duration"], [0.0, 60.0], 1)
    assert grounding.target(grounding.task_of(row), row, times).splitlines() == [
        "0.5 - 10.0 seconds: He sits.",
        "8.0 - 60.0 seconds: He runs.",
    ]
    without = converted("activitynet_dense", {"v": {"duration": 9, "timestamps": [], "sentences": []}}, tmp_path)
    assert list(without.reasons()) == ["there are 0 timestamps for 0 sentences"]


def parsed(row):
    return parse_line(json.dumps(row))


@pytest.fixture
def videos(tmp_path):
    """A folder with a video of 8 s for each benchmark that does not say how long its videos are."""
    folder = tmp_path / "videos" / "part1"
    folder.mkdir(parents=True)
    for name in ("fFjv93ACGo8", "AO8RW", "Y6R7T", "4010069381"):
        (folder / f"{name}.mp4").write_bytes(video_bytes())
    return VideoFolder(folder.parent)


def videomme_of(row):
    letters = [f"{letter}. {option}" for letter, option in zip("ABCD", row["options"], strict=True)]
    item = {**row["metadata"], "question_id": row["id"], "videoID": row["video_id"], "question": row["question"]}
    item |= {"video_id": item.pop("video_number"), "duration": item.pop("duration_class")}
    return {**item, "options": letters, "answer": "ABCD"[row["answer_index"]]}


def nextqa_of(row):
    options = {f"a{number}": option for number, option in enumerate(row["options"])}
    item = {**row["metadata"], "video": row["video_id"], "question": row["question"]}
    return {**item, **options, "answer": str(row["answer_index"])}


@pytest.mark.parametrize("nested", [False, True])
def test_videomme_comes_back_from_its_row(nested, tmp_path, videos):
    inner = ("question_id", "task_type", "question", "options", "answer")
    item = dict(VMME)
    if nested:
        item["questions"] = [{name: item.pop(name) for name in inner}]
    path = tmp_path / "annotations"
    path.write_text(json.dumps([item]))
    (row,) = convert_annotations("videomme", path, videos).rows
    assert videomme_of(parsed(row)) == VMME
    assert (row["answer"], row["duration"], row["video_path"]) == ("Four.", 8.0, "part1/fFjv93ACGo8.mp4")
    assert row["options"][3] == "B. Five."


def test_videomme_of_the_hub_is_a_parquet_file(tmp_path, videos):
    parquet = tmp_path / "test.parquet"
    Dataset.from_list([VMME]).to_parquet(parquet)
    (row,) = convert_annotations("videomme", parquet, videos).rows
    assert videomme_of(parsed(row)) == VMME


def test_mlvu_comes_back_from_its_row(tmp_path):
    (row,) = converted("mlvu", [MLVU], tmp_path).rows
    back = {**row["metadata"], "video": row["video_path"], "candidates": row["options"]}
    assert back | {name: row[name] for name in ("duration", "question", "answer")} == MLVU


def test_mlvu_of_the_hub_comes_back_from_its_row_and_asks_the_bare_question(tmp_path):
    (row,) = converted("mlvu", [MLVU_HUB], tmp_path).rows
    lines = [f"({letter}) {option}" for letter, option in zip("ABCD", row["options"], strict=True)]
    back = {**row["metadata"], "video_name": row["video_path"], "duration": row["duration"]}
    back |= {"question": "\n".join([row["question"], *lines]), "answer": "ABCD"[row["answer_index"]]}
    assert back == MLVU_HUB
    assert (row["question"], row["options"]) == (MLVU["question"], MLVU["candidates"])


def test_mlvu_is_read_from_a_folder_of_its_tasks_and_open_ones_have_no_options(tmp_path):
    (tmp_path / "1_plotQA.json").write_text(json.dumps([MLVU, MLVU]))
    summary = {name: MLVU[name] for name in ("video", "duration", "question", "answer")}
    (tmp_path / "9_summary.json").write_text(json.dumps([summary]))
    rows = convert_annotations("mlvu", tmp_path).rows
    assert [row["id"] for row in rows] == ["1_plotQA#1", "1_plotQA#2", "9_summary#1"]
    assert [row["answer_type"] for row in rows] == ["multiple_choice", "multiple_choice", "open"]


def test_charades_sta_comes_back_from_its_rows_cut_to_their_videos(tmp_path, videos):
    path = tmp_path / "charades_sta_test.txt"
    path.write_text(CHARADES + "Y6R7T 3.0##no end\nY6R7T x 4.0##no number\n")
    result = convert_annotations("charades_sta", path, videos)
    (row,) = [parsed(row) for row in result.rows]
    ((start, end),) = row["spans"]
    assert f"{row['video_id']} {start} {end}##{row['question']}" == CHARADES.splitlines()[0]
    assert row["duration"] == 8.0
    # 20.8 to 99 of a video of 8 s is no moment of it; then two lines of another form
    assert [place for place, _ in result.dropped] == ["item 2", "item 3", "item 4"]


def test_nextqa_comes_back_from_its_row(tmp_path, videos):
    path = tmp_path / "val.csv"
    path.write_text(",".join(NEXTQA) + "\n" + ",".join(NEXTQA.values()) + "\n")
    (row,) = convert_annotations("nextqa", path, videos).rows
    assert nextqa_of(parsed(row)) == NEXTQA
    assert (row["duration"], row["answer"]) == (8.0, "tap their feet")


def test_an_answer_of_spans_ends_with_its_video_as_they_do(tmp_path, videos):
    path = tmp_path / "charades_sta_test.txt"
    path.write_text(CHARADES.split()[0] + " 3.0 200.0##a person runs.\n")
    result = convert_annotations("charades_sta", path, videos)
    (row,) = result.rows
    assert (row["spans"], row["answer"], result.cut) == ([[3.0, 8.0]], "3.0 - 8.0 seconds", 1)
    item = {**QVH, "relevant_windows": [[0, 2], [140, 999]]}
    (row,) = converted("qvhighlights", json.dumps(item) + "\n", tmp_path).rows
    assert row["answer"] == f"0.0 - 2.0 seconds, 140.0 - {row['duration']:.1f} seconds"


def test_spans_of_texts_are_dropped_and_told(tmp_path):
    item = {**QVH, "relevant_windows": [["0", "999"]]}
    result = converted("qvhighlights", json.dumps(item) + "\n", tmp_path)
    assert not result.rows
    assert "'spans[0]' should be [start, end]" in result.dropped[0][1]


def test_rows_without_a_duration_are_dropped_where_no_videos_are_given(tmp_path):
    result = converted("charades_sta", CHARADES, tmp_path)
    assert not result.rows
    assert result.reasons() == {"'duration' is missing; a row needs id, video_id, question, answer, duration": 2}


def test_a_row_whose_video_is_missing_ambiguous_or_broken_is_dropped(tmp_path, videos):
    folder = videos.folder
    (folder / "AO8RW.mkv").write_bytes(b"x")
    (folder / "part1" / "Y6R7T.mp4").write_bytes(b"x")
    path = tmp_path / "lines"
    path.write_text("AO8RW 0 1##two files\nY6R7T 0 1##broken\nNONE 0 1##none\n")
    reasons = [reason for _, reason in convert_annotations("charades_sta", path, VideoFolder(folder)).dropped]
    assert [reason.split(" (")[0] for reason in reasons] == [
        "more than one file in the folder could be its video",
        "its video cannot be read",
        "its video is not in the folder",
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("longvideobench", [{**LVB, "correct_choice": -1}], "there is no right answer among 3 options"),
        ("longvideobench", [LVB, LVB], "its id was there before"),
        ("longvideobench", [{key: LVB[key] for key in LVB if key != "duration"}], "'duration' is missing"),
        ("qvhighlights", json.dumps({"qid": 1, "query": "x", "vid": "v", "duration": 150}), "no relevant_windows"),
        ("qvhighlights", json.dumps({**QVH, "relevant_clip_ids": [13, 99]}), "clip_ids"),
        (
            "activitynet_captions",
            {"v": {"duration": 9, "timestamps": [[5, 2]], "sentences": ["x"]}},
            "within the video",
        ),
        (
            "activitynet_captions",
            {"v": {"duration": 9, "timestamps": [[1, 2]], "sentences": []}},
            "1 timestamps for 0",
        ),
        ("activitynet_captions", {"v": {"duration": 9}}, "lacks a field"),
        ("videomme", [{**VMME, "options": ["A. x", "C. y"]}], "not A, B, C ... in order"),
        ("videomme", [{**VMME, "answer": ""}], "the answer is no letter"),
        ("mlvu", [{**MLVU, "answer": "It sings"}], "none of the options"),
        ("mlvu", [{**MLVU, "video": ""}], "it names no video"),
        ("nextqa", ",".join(NEXTQA) + "\nv,1,1,1,q,7,1,CH,a,b,c,d,e\n", "no number from 0 to 4"),
        ("nextqa", ",".join(NEXTQA) + "\nv,1,1,1,q,1,1,CH,a,b\n", "an option is missing"),
    ],
)
def test_what_is_dropped_is_counted_with_its_reason(name, content, reason, tmp_path):
    result = converted(name, content, tmp_path)
    ((_, told),) = result.dropped
    assert reason in told
    assert sum(result.reasons().values()) == 1


@pytest.mark.parametrize("name", CONVERTERS)
def test_a_file_of_something_else_is_refused(name, tmp_path):
    with pytest.raises(InputError, match=f"is no annotation file of {name}"):
        converted(name, "{", tmp_path)
    with pytest.raises(InputError, match=f"is no annotation file of {name}"):
        converted(name, "[" * 100_000, tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        convert_annotations(name, tmp_path / "missing")
    with pytest.raises(InputError, match="there is no converter 'x'"):
        convert_annotations("x", tmp_path / "missing")
