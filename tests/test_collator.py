"""Batches: what is labelled, what is asked, what counts as evidence, and what becomes of an unreadable video."""

import math

import pytest
import torch
from qa_parts import row, tiny_processor, write_rows
from tiny_models import tiny_model
from tiny_parts import CHAT_TEMPLATE, FAMILIES
from torch.utils.data import DataLoader

from ntlbg.data.qa_dataset import load_qa
from ntlbg.data.qa_records import TooManyBadRows
from ntlbg.errors import InputError
from ntlbg.training.collator import NTLBGDataCollator, group_evidence


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    return request.param


@pytest.fixture
def rows(tmp_path):
    data = load_qa(write_rows(tmp_path, [row(0), row(1, spans=[[0, 3]]), row(2, clip=[2, 6], spans=[])]))
    return [data[index] for index in range(len(data))]


def broken(tmp_path, number=9) -> dict:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    return row(number, video_path=str(tmp_path / "broken.mp4"), place=f"rows.jsonl:{number}")


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_labels_are_the_answer_and_its_end_of_turn_and_nothing_else(family, padding_side, rows):
    processor = tiny_processor(family)
    batch = NTLBGDataCollator(processor, padding_side=padding_side)(rows)
    for ids, labels, one in zip(batch["input_ids"], batch["labels"], rows, strict=True):
        kept = labels != -100
        assert processor.tokenizer.decode(labels[kept]) == one["answer"] + "<|im_end|>"
        assert torch.equal(ids[kept], labels[kept])
        # one run, at the end of what is no padding
        assert kept.nonzero().flatten().diff().eq(1).all()
        last = (ids != processor.tokenizer.pad_token_id).nonzero().max()
        assert kept.nonzero().max() == last
    padded = batch["attention_mask"][0] == 0
    assert padded.any()
    assert padded[0 if padding_side == "left" else -1]


def test_training_sees_the_prompt_of_generation_token_by_token(family, rows):
    processor = tiny_processor(family)
    collator = NTLBGDataCollator(processor)
    for one in rows[:2]:
        train, ask = collator([one]), collator.for_generation()([one])
        content = [{"type": "video", "video": one["video_path"]}, {"type": "text", "text": one["question"]}]
        direct = processor([{"role": "user", "content": content}])
        length = int((train["labels"] == -100).sum())
        assert torch.equal(ask["input_ids"], direct["input_ids"])
        assert torch.equal(train["input_ids"][:, :length], direct["input_ids"])
        assert {"labels", "group_evidence"}.isdisjoint(ask)
        for name in set(direct) - {"input_ids", "attention_mask", "mm_token_type_ids"}:
            assert torch.equal(torch.as_tensor(direct[name]), train[name]), name
        assert set(direct) <= set(train)


def test_prompts_for_generation_are_padded_on_the_left_and_come_with_their_rows(family, rows):
    processor = tiny_processor(family)
    batch = NTLBGDataCollator(processor).for_generation()([rows[0], {**rows[1], "question": "red?"}])
    assert batch.pop("rows")[1]["question"] == "red?"
    assert batch["attention_mask"][:, -1].all()
    assert not batch["attention_mask"].all()
    model = tiny_model(family, processor.tokenizer)
    texts = model.generate(**batch, num_representatives=2, max_new_tokens=4, do_sample=False)
    alone = NTLBGDataCollator(processor).for_generation()([{**rows[1], "question": "red?"}])
    alone.pop("rows")
    one = model.generate(**alone, num_representatives=2, max_new_tokens=4, do_sample=False)
    assert torch.equal(texts[1, -4:], one[0, -4:])


def test_either_padding_gives_the_loss_of_the_rows_alone(family, rows):
    processor = tiny_processor(family)
    model = tiny_model(family, processor.tokenizer)

    def loss(side, some):
        batch = NTLBGDataCollator(processor, padding_side=side)(some)
        batch.pop("group_evidence")
        tokens = int((batch["labels"] != -100).sum())
        with torch.no_grad():
            return float(model(**batch, num_representatives=2).task_loss) * tokens

    alone = sum(loss("right", [one]) for one in rows)
    assert loss("right", rows) == pytest.approx(alone, rel=1e-5)
    assert loss("left", rows) == pytest.approx(alone, rel=1e-5)


def test_options_are_lines_after_the_question_and_the_query_is_the_bare_question(rows):
    processor = tiny_processor()
    one = load_qa([{**rows[0], "options": ["blue", "red"]}])[0]
    batch = NTLBGDataCollator(processor)([one])
    prompt = processor.tokenizer.decode(batch["input_ids"][0])
    assert "<|vision_end|>what colour is the square?\nA. blue\nB. red<|im_end|>" in prompt
    assert prompt.endswith("assistant\nB<|im_end|>")
    assert processor.tokenizer.decode(batch["query_input_ids"][0]) == "what colour is the square?"


def test_a_clip_is_all_that_is_seen_of_a_video(rows):
    batch = NTLBGDataCollator(tiny_processor())([rows[0], rows[2]])
    whole, clip = batch["group_timestamps"].split(batch["video_grid_thw"][:, 0].tolist())
    assert (whole.min(), whole.max()) == (0, 7)
    assert (clip.min(), clip.max()) == (2, 5)


@pytest.mark.parametrize(
    ("spans", "clip", "expected"),
    [
        ([[0, 8]], None, [1, 1, 1, 1]),
        ([], None, [0, 0, 0, 0]),
        ([[1, 2.5]], None, [0.5, 0.25, 0, 0]),
        ([[1, 2.5], [2, 3]], None, [0.5, 0.5, 0, 0]),
        ([[7, 8]], None, [0, 0, 0, 0.5]),
        ([[6, 7]], [0, 7], [0, 0, 0, 1]),
    ],
)
def test_evidence_is_the_share_of_a_groups_time_within_spans(spans, clip, expected):
    one = row(spans=spans, clip=clip)
    assert group_evidence(one, torch.tensor([0.0, 2.0, 4.0, 6.0])).tolist() == expected


def test_evidence_is_unknown_without_spans_and_finite_for_odd_durations(rows):
    times = torch.tensor([0.0, 2.0, 4.0])
    assert group_evidence(row(), times).isnan().all()
    assert group_evidence(row(duration=3.0, spans=[[2, 3]]), times).tolist() == [0, 0.5, 0]
    assert group_evidence(row(duration=1.0, spans=[[0, 1]]), times[:1]).tolist() == [1]
    batch = NTLBGDataCollator(tiny_processor())(rows)
    first, second, third = batch["group_evidence"].split(batch["video_grid_thw"][:, 0].tolist())
    assert first.isnan().all()
    assert second.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert third.tolist() == [0] * len(third)
    assert math.isfinite(float(batch["group_timestamps"].sum()))


# -- what cannot be read ---------------------------------------------------------------------------------------------


def test_a_row_whose_video_cannot_be_read_is_left_out_told_and_counted(rows, tmp_path, caplog):
    collator = NTLBGDataCollator(tiny_processor(), max_bad_share=0.01)
    batch = collator([rows[0], broken(tmp_path), rows[1]])
    assert len(batch["input_ids"]) == len(batch["video_grid_thw"]) == 2
    assert (collator.bad_rows.seen, collator.bad_rows.bad, collator.bad_rows.repeated) == (3, 1, 0)
    assert "rows.jsonl:9: " in caplog.text
    assert "broken.mp4" in caplog.text


def test_a_batch_without_a_good_row_repeats_the_last_good_one_and_counts_it(rows, tmp_path):
    collator = NTLBGDataCollator(tiny_processor(), max_bad_share=0.01)
    collator([rows[1]])
    batch = collator([broken(tmp_path)])
    assert collator.processor.tokenizer.decode(batch["labels"][batch["labels"] != -100]) == "a pale blue<|im_end|>"
    assert (collator.bad_rows.bad, collator.bad_rows.repeated) == (1, 1)


def test_too_many_rows_that_cannot_be_read_end_the_run(rows, tmp_path):
    with pytest.raises(TooManyBadRows, match=r"rows.jsonl:9: "):
        NTLBGDataCollator(tiny_processor())([rows[0], broken(tmp_path)])
    collator = NTLBGDataCollator(tiny_processor(), max_bad_share=0.01)
    collator([rows[0], broken(tmp_path), broken(tmp_path)])
    with pytest.raises(TooManyBadRows, match=r"3 of 5 rows that were asked for"):
        collator([rows[0], broken(tmp_path)])


def test_a_first_batch_without_a_good_row_is_an_error(tmp_path):
    with pytest.raises(InputError, match="none of the 1 rows of the first batch"):
        NTLBGDataCollator(tiny_processor(), max_bad_share=1.0)([broken(tmp_path)])


def test_what_workers_count_is_seen_by_the_run(rows, tmp_path):
    collator = NTLBGDataCollator(tiny_processor(), max_bad_share=0.05)
    some = [rows[0], broken(tmp_path), rows[1], rows[0], rows[1], broken(tmp_path), rows[0], rows[1]]
    sizes = [len(batch["labels"]) for batch in DataLoader(some, batch_size=2, num_workers=2, collate_fn=collator)]
    assert sizes == [1, 2, 1, 2]
    assert (collator.bad_rows.seen, collator.bad_rows.bad) == (8, 2)


def test_a_row_that_speaks_the_models_own_signs_is_a_bad_row(rows):
    with pytest.raises(TooManyBadRows, match=r"<\|video_pad\|>"):
        NTLBGDataCollator(tiny_processor())([{**rows[0], "question": "what is <|video_pad|>?"}])


# -- templates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("'<|im_start|>assistant\n' }}", "'<|im_start|>assistant\n<think>' }}", "writes another prompt"),
        ("{{ '<|im_end|>' }}{% endgeneration %}{{ '\n' }}", "{% endgeneration %}", "writes nothing after an answer"),
    ],
)
def test_a_template_that_cannot_be_trained_with_is_refused_before_the_run(old, new, told):
    processor = tiny_processor()
    assert CHAT_TEMPLATE.count(old) == 1
    processor.chat_template = CHAT_TEMPLATE.replace(old, new)
    with pytest.raises(InputError, match=told):
        NTLBGDataCollator(processor)
