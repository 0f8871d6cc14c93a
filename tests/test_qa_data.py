"""Rows: what is refused and how it is told; data sets of every kind; streams that part and resume."""

import itertools
import json
import os
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qa_parts import row, video_bytes, write_rows
from torch.utils.data import DataLoader

from ntlbg.data.qa_dataset import load_qa
from ntlbg.data.qa_records import BadRow, TooManyBadRows, parse_line, parse_row, question_text, target_text
from ntlbg.data.questions import KINDS
from ntlbg.errors import InputError


OPTIONS = ["red", "green", "blue"]
SALIENCY = {"clip_len": 2, "clip_ids": [0, 3], "scores": [1, 2]}


# -- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"question": None}, "'question' is missing"),
        ({"question": " "}, "'question' should be text that is not empty"),
        ({"answer": 3}, "'answer' should be text"),
        ({"id": True}, "'id' should be text"),
        ({"duration": 0}, "'duration' should be the video's seconds"),
        ({"duration": float("nan")}, "'duration' should be"),
        ({"duration": 10**400}, "'duration' should be"),
        ({"metadata": [1]}, "'metadata' should be an object"),
        ({"metadata": "{"}, "'metadata' is text, but not that of a JSON object"),
        ({"clip": [5, 5]}, "0 <= start < end <= 8"),
        ({"clip": [0, 8.1]}, "'clip' should lie within the video"),
        ({"clip": 5}, "'clip' should be [start, end]"),
        ({"spans": [[0, 1], [3, 2]]}, "'spans[1]' should lie within"),
        ({"spans": [[0, True]]}, "'spans[0]' should be [start, end]"),
        ({"spans": {}}, "'spans' should be a list"),
        ({"options": ["red"]}, "'options' should be 2 to 26"),
        ({"options": ["red", ""]}, "'options[1]' should be text"),
        ({"options": ["A. red", "B. blue"], "answer": "A"}, "carry their letters already"),
        ({"options": ["(A) red", "(B) blue"], "answer": "A"}, "carry their letters already"),
        ({"options": OPTIONS, "answer_index": 3}, "'answer_index' should be 0 to 2"),
        ({"options": OPTIONS, "answer_index": -1}, "'answer_index' should be 0 to 2"),
        ({"options": OPTIONS, "answer_index": 1}, "make them agree"),
        ({"options": OPTIONS, "answer": "D"}, "none of the options and no letter from A to C"),
        ({"options": ["red", "red"]}, "more than one of the options"),
        ({"answer_index": 0}, "speaks of options, but there are none"),
        ({"saliency": {**SALIENCY, "scores": [1]}}, "2 clip_ids, but 1 scores"),
        ({"saliency": {**SALIENCY, "clip_ids": [0, 4]}}, "'saliency.clip_ids' should be 0 to 3"),
        ({"saliency": {**SALIENCY, "clip_len": 0}}, "'saliency.clip_len'"),
        ({"saliency": {**SALIENCY, "scores": ["a", 1]}}, "'saliency.scores' should be numbers"),
        ({"saliency": {"clip_len": 2}}, "should hold clip_len, clip_ids and scores"),
        ({"subtitles": 3}, "'subtitles' should be a file's name or a list of cues"),
        ({"subtitles": [{"text": "hi", "start": 2, "end": 1}]}, "'subtitles[0]' should have 0 <= start <= end"),
        ({"video": {}}, "'video' should hold a path or the bytes"),
    ],
)
def test_a_bad_row_is_told_in_one_sentence(changes, told):
    with pytest.raises(BadRow) as caught:
        parse_row(row(**changes))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("id", {"id": "\ud800"}),
        ("video_id", {"video_id": "v\udfff"}),
        ("question", {"question": "what \ud83d?"}),
        ("answer", {"answer": "\udc00"}),
        ("answer_type", {"answer_type": "\ud800"}),
        ("video_path", {"video_path": "\udcff.mp4"}),
        ("options", {"options": ["red", "gr\ud800en"]}),
        ("captions", {"spans": [[0, 1]], "captions": ["\ud800"]}),
        ("subtitles", {"subtitles": [{"text": "\ud800", "start": 0, "end": 1}]}),
        ("subtitles", {"subtitles": "\ud800.srt"}),
        ("metadata", {"metadata": {"of": [{"\ud800": 1}]}}),
        ("metadata", {"metadata": '{"of": "\\ud800"}'}),
        ("metadata", {"level": "\ud800"}),
    ],
)
def test_a_row_with_half_a_character_in_any_text_is_refused_in_a_sentence_that_can_be_written(name, changes):
    with pytest.raises(BadRow) as caught:
        parse_line(json.dumps(row(**changes)))
    assert str(caught.value).encode().startswith(f"'{name}' holds half of a character".encode())
    assert parse_line(json.dumps(row(question="\U0001f600?")))["question"] == "\U0001f600?"


@pytest.mark.parametrize("line", ["{", "[]", "3", '"text"', "null", b"\xff\xfe{}", "[" * 100_000, "9" * 5000])
def test_a_line_that_is_no_object_is_a_bad_row(line):
    with pytest.raises(BadRow):
        parse_line(line)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=50, deadline=None)
@given(
    name=st.sampled_from([*row(), "options", "answer_index", "clip", "spans", "saliency", "subtitles"]), value=_JSON
)
def test_whatever_stands_in_a_field_is_taken_or_refused(name, value):
    try:
        parsed = parse_row({**row(), name: value})
    except BadRow:
        return
    assert parse_row(parsed) == parsed


def test_unknown_keys_go_to_metadata_and_absent_columns_are_absent():
    parsed = parse_row({**row(metadata={"source": "x"}), "level": 3, "options": None, "spans": []})
    assert parsed["metadata"] == {"source": "x", "level": 3}
    assert "options" not in parsed
    assert parsed["spans"] == []
    assert parse_row(row(metadata='{"seed": 1}'))["metadata"] == {"seed": 1}
    assert parse_row(row(id=7))["id"] == "7"


def test_options_are_asked_with_letters_and_answered_with_one():
    by_text, by_letter, by_index = (
        parse_row(row(options=OPTIONS, **answer))
        for answer in ({"answer": "green"}, {"answer": "B"}, {"answer": "green", "answer_index": 1})
    )
    for parsed in (by_text, by_letter, by_index):
        assert (parsed["answer_index"], parsed["answer"], target_text(parsed)) == (1, "green", "B")
    assert question_text(by_text) == "what colour is the square?\nA. red\nB. green\nC. blue"
    assert by_text["question"] == "what colour is the square?"
    # An option that is itself a letter means its text, not the letter's place.
    assert target_text(parse_row(row(options=["B", "A"], answer="A"))) == "B"


# -- data sets -------------------------------------------------------------------------------------------------------


def test_bad_rows_are_told_with_file_and_line_counted_and_left_out(tmp_path, caplog):
    path = write_rows(
        tmp_path, [row(0), "", "{oops", row(1), row(2, duration=-1), row(3), row(4, video_path="gone.mp4"), row(5)]
    )
    data = load_qa(path, max_bad_share=0.5)
    assert [data[index]["id"] for index in range(len(data))] == ["q0", "q1", "q3", "q5"]
    assert [data[index]["place"] for index in range(2)] == [f"{path}:1", f"{path}:4"]
    assert [sentence.split(": ")[0] for sentence in data.bad] == [f"{path}:3", f"{path}:5", f"{path}:7"]
    assert "gone.mp4" in data.bad[2]
    assert f"{path}:5: 'duration' should be" in caplog.text
    assert "3 of 7 rows" in caplog.text
    assert data[0]["video_path"] == str(tmp_path / "v0.mp4")


def test_a_share_of_bad_rows_stops_the_run_and_one_less_does_not(tmp_path):
    path = write_rows(tmp_path, [row(0), row(1), "{", row(2)])
    assert len(load_qa(path, max_bad_share=0.25)) == 3
    with pytest.raises(TooManyBadRows, match=r"1 of 4 rows .* the share of 0.2 .*questions.jsonl:3: the line is not"):
        load_qa(path, max_bad_share=0.2)
    with pytest.raises(TooManyBadRows):
        load_qa(path)


def test_max_rows_takes_the_first_good_ones(tmp_path):
    path = write_rows(tmp_path, ["{", row(0), row(1), row(2), "{", "{"])
    data = load_qa(path, max_rows=2, max_bad_share=0.4)
    assert [data[index]["id"] for index in range(len(data))] == ["q0", "q1"]


@pytest.mark.parametrize(
    ("dataset", "arguments", "told"),
    [
        ("none.jsonl", {}, "there is no file"),
        ("empty.jsonl", {}, "has no rows"),
        ("good.jsonl", {"max_rows": 0}, "max_rows is at least 1"),
        ("good.jsonl", {"max_bad_share": 2}, "a share in"),
        ("good.jsonl", {"video_root": "nowhere"}, "is no folder"),
        ("bad.jsonl", {"max_bad_share": 1.0}, "none of the 1 rows"),
        ("no_such_module:Builder", {}, "no module 'no_such_module'"),
        ("json:JSONDecoder", {}, "is no builder"),
        ("folder", {}, "cannot be loaded"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_told_in_one_sentence(dataset, arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.jsonl").write_text(json.dumps(row()) + "\n")
    (tmp_path / "bad.jsonl").write_text("{\n")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=told):
        load_qa(dataset, **arguments)


def test_a_folder_has_a_file_for_each_split_and_videos_may_lie_elsewhere(tmp_path):
    (tmp_path / "videos").mkdir()
    write_rows(tmp_path / "videos", [])
    (tmp_path / "test.jsonl").write_text(json.dumps(row(video_path=None)) + "\n")
    (only,) = load_qa(tmp_path, split="test", video_root=tmp_path / "videos")
    assert only["video_path"] == str(tmp_path / "videos" / "v0.mp4")


BUILDER = """
import datasets

class Toy(datasets.GeneratorBasedBuilder):
    BUILDER_CONFIGS = [datasets.BuilderConfig(name="plain")]

    def _info(self):
        return datasets.DatasetInfo(features=datasets.Features({
            "id": datasets.Value("string"), "video_id": datasets.Value("string"),
            "question": datasets.Value("string"), "answer": datasets.Value("string"),
            "duration": datasets.Value("float64"), "metadata": datasets.Value("string"),
            "spans": datasets.List(datasets.List(datasets.Value("float64"))),
            "video": datasets.Video(decode=True),
        }))

    def _split_generators(self, manager):
        return [datasets.SplitGenerator(name="train", gen_kwargs={"shards": [0, 1, 2]})]

    def _generate_examples(self, shards):
        for number in shards:
            yield number, {
                "id": f"q{number}", "video_id": "v", "question": "what?", "answer": "x" if number != 1 else "",
                "duration": 8.0, "metadata": '{"seed": 3}', "spans": [[], None, [[0.0, 2.0]]][number],
                "video": {"path": None, "bytes": b"not opened here"},
            }
"""


@pytest.mark.parametrize("streaming", [False, True])
def test_an_importable_builder_gives_the_same_rows_indexed_and_streamed(streaming, tmp_path, monkeypatch):
    (tmp_path / "toy_builder.py").write_text(BUILDER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    sys.modules.pop("toy_builder", None)
    data = load_qa("toy_builder:Toy", streaming=streaming, max_bad_share=0.5)
    rows = list(data) if streaming else [data[index] for index in range(len(data))]
    assert [(one["id"], one.get("spans"), one["metadata"]) for one in rows] == [
        ("q0", [], {"seed": 3}),
        ("q2", [[0.0, 2.0]], {"seed": 3}),
    ]
    assert rows[0]["video_bytes"] == b"not opened here"
    assert rows[1]["place"] == "toy_builder:Toy (train), row 2"
    with pytest.raises(InputError, match="'test' of 'toy_builder:Toy' cannot be loaded"):
        load_qa("toy_builder:Toy", split="test", streaming=streaming)


def test_the_procedural_world_is_a_builder_whose_videos_are_rendered_once(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    name = "ntlbg.data.world_builder:World"
    data = load_qa(name, split="validation", config="smoke")
    videos = {data[index]["video_path"] for index in range(len(data))}
    assert len(videos) == 2
    assert data.bad == []
    assert {data[index]["answer_type"] for index in range(len(data))} <= set(KINDS)
    before = {path: os.stat(path).st_mtime_ns for path in videos}
    streamed = list(load_qa(name, split="validation", config="smoke", streaming=True))
    assert [row["id"] for row in streamed] == [data[index]["id"] for index in range(len(data))]
    assert {path: os.stat(path).st_mtime_ns for path in videos} == before
    with pytest.raises(InputError, match="cannot be loaded"):
        load_qa(name, config="nothing")


# -- streams ---------------------------------------------------------------------------------------------------------


def ids(rows) -> list[str]:
    return [one["id"] for one in rows]


def test_a_stream_gives_the_good_rows_and_counts_the_bad(tmp_path):
    path = write_rows(tmp_path, [row(0), "{", row(1), row(2, clip=[9, 3]), row(3)])
    stream = load_qa(path, streaming=True, max_bad_share=0.01)
    assert ids(stream) == ["q0", "q1", "q3"]
    assert (stream.bad.seen, stream.bad.bad) == (5, 2)
    strict = load_qa(path, streaming=True)
    with pytest.raises(TooManyBadRows, match=r"questions.jsonl:2: the line is not JSON"):
        list(strict)


def test_every_row_of_a_stream_goes_to_exactly_one_worker_and_one_process(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    path = write_rows(tmp_path, [row(number) for number in range(12)])
    stream = load_qa(path, streaming=True, shuffle_seed=3)
    workers = ids(DataLoader(stream, num_workers=2, batch_size=None, collate_fn=lambda one: one))
    assert sorted(workers) == sorted(f"q{number}" for number in range(12))
    given = []
    for process in range(2):
        loader = DataLoader(stream, batch_size=2, num_workers=0, collate_fn=ids)
        shard = accelerate.data_loader.prepare_data_loader(
            loader, num_processes=2, process_index=process, put_on_device=False, dispatch_batches=False
        )
        batches = list(shard.base_dataloader)
        assert [len(batch) for batch in batches] == [2, 2, 2]
        given += itertools.chain.from_iterable(batches)
    assert sorted(given) == sorted(workers)


def test_a_stream_takes_up_where_its_state_was_noted(tmp_path):
    path = write_rows(tmp_path, ["{" if number == 4 else row(number) for number in range(20)])
    arguments = {"streaming": True, "shuffle_seed": 1, "max_bad_share": 0.1}
    whole = load_qa(path, **arguments)
    whole.set_epoch(1)
    expected = ids(whole)
    assert expected != ids(load_qa(path, **arguments)), "another epoch, another order"
    stopped = load_qa(path, **arguments)
    stopped.set_epoch(1)
    begun = iter(stopped)
    first = ids(itertools.islice(begun, 7))
    state = json.loads(json.dumps(stopped.state_dict()))
    resumed = load_qa(path, **arguments)
    resumed.load_state_dict(state)
    resumed.set_epoch(1)
    assert first + ids(resumed) == expected
    assert ids(resumed) == expected, "the next iteration starts anew"


def test_a_stream_holds_videos_of_the_data_set_itself(tmp_path):
    stream = load_qa([{**row(), "video": {"bytes": video_bytes()}}], streaming=True)
    (only,) = stream
    assert only["video_bytes"] == video_bytes()
