"""Published annotations become rows and lose nothing; what cannot is counted with its reason."""

import json

import pytest

from ntlbg.data.convert_annotations import CONVERTERS, convert_annotations
from ntlbg.data.qa_records import parse_line
from ntlbg.errors import InputError


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
    assert [row["metadata"] for row in rows] == [{"event": 0, "events": 2}, {"event": 1, "events": 2}]
    assert {(row["video_id"], row["duration"]) for row in rows} == {("v_x", 60.0)}
    assert result.cut == 1


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
    with pytest.raises(InputError, match="cannot be read"):
        convert_annotations(name, tmp_path / "missing")
    with pytest.raises(InputError, match="there is no converter 'x'"):
        convert_annotations("x", tmp_path / "missing")
