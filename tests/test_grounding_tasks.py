"""Rows that ask for times: what is asked and answered in each format, what an answer is read as, what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qa_parts import row, tiny_processor, write_rows
from tiny_models import tiny_model

from ntlbg.data.frozen_features import FrozenFeatures
from ntlbg.data.qa_dataset import load_qa
from ntlbg.data.qa_records import BadRow, parse_row
from ntlbg.errors import InputError
from ntlbg.evaluation.grounded_answers import score_grounded
from ntlbg.grounding.names import TASKS, TIME_FORMATS
from ntlbg.grounding.tasks import Grounding, clip_saliency, parse_grounded, read_grounded
from ntlbg.grounding.time_formats import TimeParseError
from ntlbg.grounding.time_tokens import add_time_tokens
from ntlbg.training.collator import NTLBGDataCollator
from ntlbg.training.stages import apply_stage


SECONDS = np.arange(16) / 2
SALIENCY = {"clip_len": 2.0, "clip_ids": [0, 1, 3], "scores": [[0, 1, 1], [4, 4, 3], [2, 2, 2]]}
FULL = row(
    1,
    spans=[[1.0, 3.0], [5.0, 6.5]],
    captions=["a square\nmoves", "it stops"],
    saliency=SALIENCY,
)


def formats(time_format: str, **kwargs):
    grounding = Grounding(time_format, **kwargs)
    return grounding, grounding.times(8.0, SECONDS, 2)


@pytest.mark.parametrize("time_format", TIME_FORMATS)
@pytest.mark.parametrize("task", TASKS)
def test_what_a_row_teaches_is_read_back_within_the_formats_error(task, time_format):
    grounding, times = formats(time_format)
    said = parse_grounded(task, grounding.target(task, FULL, times), times)
    error = {"numbers": 0.5, "tokens": 8 / 300, "text": 0.05}[time_format]
    if task == "highlights":
        assert [score for _, score in said.highlights] == [4.7, 3.0]
        assert np.abs(np.subtract([second for second, _ in said.highlights], [3.0, 7.0])).max() <= error
        # the floor rule must not carry the middle of a clip into the clip before it
        assert clip_saliency(said.highlights, 8.0, 2.0) == [0, 4.7, 0, 3.0]
        return
    assert np.abs(np.subtract(said.spans, FULL["spans"])).max() <= error
    if task == "dense_captions":
        assert said.captions == ["a square moves", "it stops"]
    assert said.answer == (FULL["answer"] if task == "grounded_answer" else None)


def test_the_answers_are_these_words():
    grounding, times = formats("numbers")
    assert grounding.target("moment", FULL, times) == "From Frame 2 to Frame 6, From Frame 10 to Frame 12"
    assert grounding.target("dense_captions", FULL, times).splitlines() == [
        "From Frame 2 to Frame 6: a square moves",
        "From Frame 10 to Frame 12: it stops",
    ]
    options = row(2, options=["blue", "red"], answer="red", answer_index=1, spans=[[0, 8]])
    tokens, times = formats("tokens")
    assert tokens.target("grounded_answer", options, times) == "B. Evidence: <0><300>"
    assert tokens.target("grounded_answer", {**options, "spans": []}, times) == "B. Evidence: nowhere"
    text, times = formats("text")
    said = "Highlights: 3.00, 7.00 seconds; scores 4.7, 3.0."
    assert text.target("highlights", FULL, times) == said


@pytest.mark.parametrize("time_format", TIME_FORMATS)
def test_what_is_not_in_the_video_is_nowhere_and_an_unannotated_row_is_refused(time_format):
    grounding, times = formats(time_format)
    assert grounding.target("moment", {**FULL, "spans": []}, times) == "nowhere"
    for text in ("nowhere", " Nowhere. "):
        said, why = read_grounded("moment", text, times)
        assert (said.spans, why) == ([], None)
    # Where it does happen, that answer is wrong, and no failure to read it.
    scores = score_grounded("moment", said, FULL)[0].metrics()
    assert (scores["miou"], scores["r1@0.3"], scores["parse_failures"]) == (0, 0, 0)
    with pytest.raises(BadRow, match="has no 'spans'"):
        grounding.target("moment", {name: value for name, value in FULL.items() if name != "spans"}, times)


@pytest.mark.parametrize("time_format", TIME_FORMATS)
def test_a_prompt_holds_the_question_and_shows_the_form_but_no_time(time_format):
    grounding, times = formats(time_format)
    asked = {**FULL, "question": "When does the square move?", "options": ["blue", "red"]}
    for task in TASKS:
        prompt = grounding.prompt(task, asked)
        assert "the square move" in prompt
        assert ("B. red" in prompt) == (task == "grounded_answer")
        assert ("<timestamp_grounding>" in prompt) == (time_format == "tokens")
        with pytest.raises(TimeParseError):
            parse_grounded(task, prompt, times)


def test_rows_say_what_they_ask_unless_one_task_is_given_for_all():
    grounding = Grounding("text")
    assert [grounding.task_of({"answer_type": kind}) for kind in ("moment", "open")] == ["moment", None]
    assert Grounding("text", "highlights").task_of({"answer_type": "moment"}) == "highlights"
    with pytest.raises(InputError, match=r"`time_format` should be one of numbers, tokens, text, got 'seconds'"):
        Grounding("seconds")
    with pytest.raises(InputError, match="`grounding_task` should be one of moment"):
        Grounding("text", "when")


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("dense_captions", ""),
        ("dense_captions", "1.0 - 2.0 seconds a square moves"),
        ("dense_captions", "1.0 - 2.0 seconds: a square moves\nand then: it stops"),
        ("dense_captions", "1.0 - 2.0 seconds, 3.0 - 4.0 seconds: both"),
        ("dense_captions", "1.0 - 9.5 seconds: beyond the end"),
        ("grounded_answer", "red"),
        ("grounded_answer", "Evidence: 1.0 - 2.0 seconds"),
        ("grounded_answer", "red. Evidence: somewhere"),
        ("grounded_answer", "red. Evidence: " + "e" * 100_000),
        ("grounded_answer", ". " * 100_000),
        ("highlights", "Highlights: 1.0, 1.0 seconds; scores 3, 3."),
        ("highlights", "Highlights: 1.0, 99 seconds; scores 3, 3."),
    ],
)
def test_an_answer_of_another_form_is_refused_in_one_line(task, text):
    _, times = formats("text")
    with pytest.raises(TimeParseError) as refused:
        parse_grounded(task, text, times)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 250


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="from to frame 0123456789.-<>s:\nEvidence: scores", max_size=60))
@pytest.mark.parametrize("time_format", TIME_FORMATS)
@pytest.mark.parametrize("task", TASKS)
def test_whatever_is_said_the_times_lie_in_the_video_or_it_is_refused(task, time_format, text):
    _, times = formats(time_format)
    said, why = read_grounded(task, text, times)
    assert (said is None) != (why is None)
    if said is not None:
        assert all(0 <= start <= end <= 8 for start, end in said.spans)
        assert all(0 <= second <= 8 and 1 <= score <= 5 for second, score in said.highlights)


def test_an_unread_answer_scores_nothing_and_is_counted_never_the_whole_video():
    _, times = formats("text")
    for task in TASKS:
        said, _ = read_grounded(task, "It is all over the video.", times)
        scores, words = score_grounded(task, said, {**FULL, "spans": [[0.0, 8.0]]})
        metrics = scores.metrics()
        assert (metrics["grounded"], metrics["parse_failures"]) == (1, 1)
        assert not any(value for name, value in metrics.items() if name not in ("grounded", "parse_failures"))
        assert words.exact == 0


def test_scores_of_rows_add_up_to_their_means():
    _, times = formats("text")
    total = None
    for task, text in (
        ("moment", "1.0 - 3.0 seconds"),
        ("moment", "no idea"),
        ("grounded_answer", "A pale blue. Evidence: 0.0 - 4.0 seconds"),
        ("highlights", "Highlights: 3.0 seconds; scores 5.0."),
    ):
        scores, words = score_grounded(task, read_grounded(task, text, times)[0], FULL)
        total = scores if total is None else total + scores
        assert words.exact == (task == "grounded_answer")
    metrics = type(total).of_sums(total.sums()).metrics()
    assert (metrics["grounded"], metrics["parse_failures"]) == (4, 1)
    assert metrics["miou"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert metrics["r1@0.5"] == pytest.approx(2 / 3)
    assert metrics["r1@0.7"] == pytest.approx(1 / 3)
    assert metrics["hit1_very_good"] == 1


@pytest.mark.parametrize(
    ("task", "changes", "why"),
    [
        ("moment", {"spans": None}, "has no 'spans'"),
        ("grounded_answer", {"spans": None}, "has no 'spans'"),
        ("dense_captions", {"captions": None}, "has no 'captions'"),
        ("highlights", {"saliency": None}, "has no 'saliency'"),
        ("highlights", {"saliency": {**SALIENCY, "scores": [7, 7, 7]}}, "0 to 4"),
        ("highlights", {"saliency": {**SALIENCY, "scores": [0, 0, 0]}}, "no clip of it is a highlight"),
    ],
)
def test_a_row_that_lacks_what_its_task_is_taught_by_is_refused(task, changes, why):
    grounding, times = formats("text")
    changed = {name: value for name, value in {**FULL, **changes}.items() if value is not None}
    with pytest.raises(BadRow, match=why):
        grounding.target(task, changed, times)


def test_captions_of_a_row_are_one_a_span():
    assert parse_row(FULL)["captions"] == ["a square\nmoves", "it stops"]
    with pytest.raises(BadRow, match="there are 1 'captions' for 2 'spans'"):
        parse_row({**FULL, "captions": ["a square"]})
    with pytest.raises(BadRow, match=r"'captions\[1\]' should be text"):
        parse_row({**FULL, "captions": ["a square", 7]})


def test_the_code_of_the_page_runs():
    page = (Path(__file__).parents[1] / "docs" / "grounding.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    known: dict = {}
    exec(compile(block, "grounding.md", "exec"), known)
    said = known["grounding"].target("moment", known["row"], known["times"])
    assert parse_grounded("moment", said, known["times"]).spans == [(4.0, 8.0)]


# -- batches ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path):
    made = [row(0), row(1, spans=[[1.0, 3.0]], answer_type="moment"), row(2, spans=[[2.0, 3.0]], clip=[2, 6])]
    data = load_qa(write_rows(tmp_path, made))
    return [data[index] for index in range(len(data))]


def labelled(processor, batch) -> list[str]:
    """The text that each row's labels say."""
    return [processor.tokenizer.decode(labels[labels != -100]) for labels in batch["labels"]]


def test_without_a_time_format_and_for_ordinary_rows_a_batch_is_as_before(rows):
    processor = tiny_processor()
    plain = NTLBGDataCollator(processor)(rows[:1])
    grounded = NTLBGDataCollator(processor, grounding=Grounding("text"))(rows[:1])
    assert plain.keys() == grounded.keys()
    for name, value in plain.items():
        torch.testing.assert_close(grounded[name], value, rtol=0, atol=0, equal_nan=True, msg=name)
    assert labelled(processor, NTLBGDataCollator(processor)(rows)) == [f"{r['answer']}<|im_end|>" for r in rows]


def test_numbers_are_those_drawn_on_the_candidates_also_of_a_clip_and_of_cached_features(rows, tmp_path):
    processor = tiny_processor()
    processor.video_processor.number_frames = True
    model = tiny_model("qwen2_vl", processor.tokenizer, num_representatives=3)
    apply_stage(model, "selection")
    features = FrozenFeatures(tmp_path / "features", model, processor)
    features.prepare(rows)
    grounding = Grounding("numbers", "moment")
    for kept in (None, features):
        collator = NTLBGDataCollator(processor, features=kept, grounding=grounding)
        batch = collator(rows[1:])
        # 2 candidates a second from the clip's beginning on; groups of two, of which the first one's number is drawn
        assert labelled(processor, batch) == [
            "From Frame 2 to Frame 6<|im_end|>",
            "From Frame 0 to Frame 2<|im_end|>",
        ]
        asked = collator.for_generation()(rows[1:])
        assert [times.parse_span("From Frame 1 to Frame 3") for times in asked["times"]] == [(0.5, 1.5), (2.5, 3.5)]
        assert [one["id"] for one in asked["rows"]] == ["q1", "q2"]
        length = int((batch["labels"][0] == -100).sum())
        assert batch["input_ids"][0, :length].tolist() == asked["input_ids"][0, -length:].tolist()


def test_numbers_that_nobody_draws_are_warned_of(caplog):
    processor = tiny_processor()
    NTLBGDataCollator(processor, grounding=Grounding("numbers"))
    assert "set `number_frames`" in caplog.text
    caplog.clear()
    processor.video_processor.number_frames = True
    NTLBGDataCollator(processor, grounding=Grounding("numbers"))
    NTLBGDataCollator(tiny_processor(), grounding=Grounding("text"))
    assert not caplog.text


def test_time_tokens_are_single_labels_and_have_to_be_in_the_tokenizer(rows):
    processor = tiny_processor()
    with pytest.raises(InputError, match="the tokenizer has no time token '<0>'"):
        NTLBGDataCollator(processor, grounding=Grounding("tokens"))
    ids = add_time_tokens(tiny_model("qwen2_vl", processor.tokenizer), processor.tokenizer)
    batch = NTLBGDataCollator(processor, grounding=Grounding("tokens"))(rows[1:2])
    labels = batch["labels"][batch["labels"] != -100]
    assert labels.tolist() == [ids[37], ids[112], processor.tokenizer.eos_token_id]
    assert ids[-1] in batch["input_ids"][0].tolist()


def test_a_row_that_cannot_be_asked_leaves_its_batch_told_and_counted(rows):
    collator = NTLBGDataCollator(tiny_processor(), grounding=Grounding("text", "moment"), max_bad_share=1.0)
    batch = collator(rows)
    assert (len(batch["labels"]), collator.bad_rows.bad) == (2, 1)
    # without a truth it can still be asked
    assert len(collator.for_generation()(rows)["rows"]) == 3
