"""The procedural world as multiple choice and with captions; rows without are as they ever were."""

import hashlib
import json

import numpy as np
import pytest

from ntlbg.data.qa_dataset import load_qa
from ntlbg.data.qa_records import parse_row, target_text
from ntlbg.data.questions import SUFFIXES, WORDINGS, to_record
from ntlbg.data.world import BACKGROUNDS, COLORS, HELDOUT_BACKGROUNDS, MAX_EVENTS, SHAPES, SPLITS, WITHHELD_PAIRS
from ntlbg.data.world_captions import WORDINGS as CAPTION_WORDINGS
from ntlbg.data.world_captions import WORDS, caption_questions, caption_track, event_words
from ntlbg.data.world_dataset import records_of, split_questions, write_split
from ntlbg.data.world_options import options_of
from ntlbg.selection.subtitles import Subtitles


BUILDER = "ntlbg.data.world_builder:World"
# Of rows as they were before there were options and captions: caches and committed benches hold them.
ROWS = "01a227871f51f4a2e76e5e210749b703246b4a592e7f7e82a52f8bc04826d328"


@pytest.fixture(scope="module")
def asked():
    """(spec, questions) of 150 videos."""
    return split_questions("validation", 150, per_kind=2, captions=True)


def test_rows_without_options_are_byte_for_byte_what_they_were():
    videos = split_questions("test", 3, per_kind=2)
    videos += split_questions("test-background", 3)
    videos += split_questions("test-pairs", 3, per_kind=2)
    videos += split_questions("train", 3, duration=None, withheld=WITHHELD_PAIRS)
    found = [to_record(question, spec, at) for spec, questions in videos for at, question in enumerate(questions)]
    assert hashlib.sha256(json.dumps(found).encode()).hexdigest() == ROWS


def test_options_are_distinct_and_of_the_answers_type(asked):
    values = {
        "retrieve": {*COLORS, *SHAPES},
        "count": set("01234"),
        "scenes": set("34567"),
        "longest": set(BACKGROUNDS),
        "caption": set(WORDS),
    }
    seen = set()
    for spec, questions in asked:
        for question in questions:
            options, right = options_of(question, spec)
            seen.add(question.kind)
            assert options[right] == question.answer
            if question.kind == "order":
                assert sorted(options) == sorted(question.subject)
                continue
            assert len(set(options)) == 4
            assert set(options) <= values[question.kind]
            assert question.kind != "retrieve" or set(options) <= set(COLORS) or set(options) <= set(SHAPES)
    assert seen == {*values, "order"}


def test_wrong_options_are_shown_in_the_video_where_it_shows_enough(asked):
    for spec, questions in asked:
        for question in questions:
            options, _ = options_of(question, spec)
            if question.kind == "longest":
                shown = {scene.background for scene in spec.scenes}
            elif question.kind == "retrieve":
                part = "color" if question.template.startswith("retrieve-colour") else "shape"
                shown = {getattr(event, part) for event in spec.events}
            else:
                continue
            assert len(shown & set(options)) == min(4, len(shown))


def test_options_are_those_of_the_question_and_not_of_its_wording():
    def options(wording):
        videos = split_questions("test", 20, wording=wording, free=False)
        return {
            (spec.seed, question.kind, question.subject): options_of(question, spec)
            for spec, questions in videos
            for question in questions
        }

    first, other = options("train"), options("first")
    shared = first.keys() & other.keys()
    assert len(shared) > 20
    assert all(first[key] == other[key] for key in shared)


def test_a_row_with_options_asks_for_a_letter_alone():
    videos = split_questions("test", 40)
    plain = [row for spec, questions in videos for row in records_of(spec, questions, "v.mp4")]
    chosen = [row for spec, questions in videos for row in records_of(spec, questions, "v.mp4", options=True)]
    assert any(row["question"].endswith(SUFFIXES) for row in plain)
    assert not any(row["question"].endswith(SUFFIXES) for row in chosen)
    for before, row in zip(plain, chosen, strict=True):
        assert before["question"].startswith(row["question"])
        assert {key: row[key] for key in before if key != "question"} == {
            key: before[key] for key in before if key != "question"
        }
        assert target_text(parse_row(row)) == "ABCD"[row["answer_index"]]


def test_a_word_is_said_during_every_event_and_only_there_by_its_question(asked):
    assert len(set(WORDS)) == len(WORDS) >= MAX_EVENTS
    questions = " ".join(text for train, heldout in WORDINGS.values() for text in (*train, *heldout))
    questions += " ".join(text for texts in CAPTION_WORDINGS.values() for text in texts)
    assert not set(WORDS) & {*COLORS, *SHAPES, *BACKGROUNDS, *HELDOUT_BACKGROUNDS, *questions.lower().split()}
    for spec, questions in asked[:60]:
        said = Subtitles.of(caption_track(spec))
        words = event_words(spec)
        assert len(set(words)) == len(spec.events)
        for event, word in zip(spec.events, words, strict=True):
            for moment in np.arange(event.start, event.end, 0.5):
                told, _ = said.told_at([moment], spec.duration, within=0)
                assert [cue.text for cue in told[0]] == [f"Somebody says: {word}."]
        for question in (question for question in questions if question.kind == "caption"):
            ((start, end),) = question.spans
            (name,) = question.subject
            (event,) = [event for event in spec.events if event.name == name]
            assert (event.start, event.end) == (start, end)
            assert words[spec.events.index(event)] == question.answer
            assert name in question.text


def test_captions_ask_in_the_wording_and_about_the_pairs_that_are_named():
    ((spec, _),) = split_questions("test-pairs", 1, first=2)
    about = caption_questions(spec, per_kind=9, about=WITHHELD_PAIRS)
    assert about
    assert {question.subject[0] for question in about} <= {f"{color} {shape}" for color, shape in WITHHELD_PAIRS}
    held = caption_questions(spec, per_kind=9, wording="heldout")
    assert all(question.template.startswith("caption/heldout-") for question in held)
    assert {question.template for question in caption_questions(spec, per_kind=9, wording="first")} == {"caption/0"}


def test_captions_leave_all_other_questions_as_they_are():
    plain, told = split_questions("test", 5), split_questions("test", 5, captions=True)
    for (_, before), (_, after) in zip(plain, told, strict=True):
        assert after[: len(before)] == before
        assert {question.kind for question in after[len(before) :]} == {"caption"}


def test_a_written_split_may_have_options_and_captions(tmp_path):
    path = write_split("test", 1, tmp_path, fps=1, size=32, duration=128, options=True, captions=True)
    rows = load_qa(path)
    assert {"caption", "order"} <= {rows[at]["answer_type"] for at in range(len(rows))}
    for at in range(len(rows)):
        assert len(rows[at]["options"]) in (2, 4)
        assert rows[at]["subtitles"][0]["start"] == 0


def test_the_builder_gives_options_and_captions_and_only_the_split_that_evaluates(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    plain, chosen, told = (
        load_qa(BUILDER, split="test", config=f"test-smoke{suffix}") for suffix in ("", "-options", "-captions")
    )
    assert [row["id"] for row in plain] == [row["id"] for row in chosen]
    assert not any("options" in row or "subtitles" in row for row in plain)
    assert all("options" in row and "subtitles" not in row for row in chosen)
    assert all(row["options"] and row["subtitles"] for row in told)
    assert {row["answer_type"] for row in told} - {row["answer_type"] for row in plain} == {"caption"}
    assert len(list(tmp_path.glob("**/*.mp4"))) == 2


def test_every_split_of_the_world_has_a_configuration():
    from ntlbg.data.world_builder import World

    configs = {config.name: config for config in World.BUILDER_CONFIGS}
    for suffix in ("", "-options", "-captions"):
        for name in ("test", "test-background", "test-pairs"):
            config = configs[name + suffix]
            assert (config.test_of, config.seconds, config.train, config.validation) == (name, 256, 0, 0)
        assert [configs[f"test-long-{times}x{suffix}"].seconds for times in (2, 4)] == [512, 1024]
    assert {config.test_of for config in configs.values()} == {name for name in SPLITS if name.startswith("test")}
    assert configs["256s"].train == 512
