"""`ntlbg predict`: every row gets one line, what cannot be read is null and counted, and the scores are the file's."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from qa_parts import row, tiny_processor, write_rows
from test_cli import assert_one_sentence, encoder, models, run  # noqa: F401 (fixtures)
from tiny_models import tiny_model

from ntlbg import cli_predict
from ntlbg.evaluation.grounding_predictions import caption_scores, prediction_of, score_predictions
from ntlbg.evaluation.predictions import read_predictions
from ntlbg.evaluation.span_scores import check_span
from ntlbg.grounding.finding import Found
from ntlbg.grounding.spans import Span
from ntlbg.grounding.tasks import GroundedText
from ntlbg.grounding.time_tokens import add_time_tokens
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.selection import answering


TINY = Path(__file__).parents[1] / "checkpoints" / "ntlbg-tiny"
SALIENCY = {"clip_len": 2.0, "clip_ids": [0, 1, 2, 3], "scores": [0, 4, 2, 0]}
TRUTH = {"spans": [[2.0, 4.0]], "saliency": SALIENCY, "captions": ["it moves"]}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> str:
    """Two rows about each of two videos, and one about a third that is none."""
    folder = tmp_path_factory.mktemp("rows")
    kinds = ("moment", "highlights", "grounded_answer", "dense_captions")
    made = [row(number, answer_type=kind, **TRUTH) for number, kind in enumerate(kinds)]
    (folder / "broken.mp4").write_bytes(b"no video")
    return write_rows(folder, [*made, row(4, answer_type="moment", video_path="broken.mp4", **TRUTH)])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    processor = tiny_processor()
    model = tiny_model("qwen2_vl", processor.tokenizer, num_representatives=3)
    add_time_tokens(model, processor.tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("time_format", ["numbers", "tokens", "text"])
def test_every_row_gets_a_line_and_a_score_in_every_format(capsys, rows, checkpoint, tmp_path, time_format):
    out = tmp_path / "out.jsonl"
    code, said, err = run(
        capsys,
        "predict",
        rows,
        "--model",
        checkpoint,
        "--time-format",
        time_format,
        "--out",
        out,
        "--json",
        "-",
        "--max-new-tokens",
        "4",
    )
    assert code == 1
    assert "1 of 5 rows have a video that cannot be read" in err
    lines = {line["id"]: line for line in map(json.loads, out.read_text().splitlines())}
    assert lines.keys() == {f"q{number}" for number in range(5)}
    assert "cannot be read" in lines["q4"]["unread"]
    scores = json.loads(said)
    assert [own["rows"] for own in scores.values()] == [2, 1, 1, 1]
    assert (scores["moment"]["answered"], scores["grounded_answer"]["answered"]) == (2, 1)
    assert len(read_predictions(out, list(lines), check_span)) == 5
    # a model of random weights writes no span, and that is not the whole video
    for number in ("q0", "q2", "q3"):
        if lines[number]["unread"] is not None:
            assert lines[number]["prediction"] is None
            assert lines[number]["highlights"]["windows"] == []
    assert scores["moment"]["unparsed"] == sum(lines[name]["prediction"] is None for name in ("q0", "q4"))


def test_a_curve_answers_moments_and_highlights_and_refuses_words(capsys, rows, encoder, tmp_path):  # noqa: F811
    options = ("--encoder", encoder, "--out", tmp_path / "out.jsonl", "--json", "-")
    code, said, _ = run(capsys, "predict", rows, "--task", "highlights", *options)
    scores = json.loads(said)["highlights"]
    assert code == 1
    assert (scores["rows"], scores["no_saliency"]) == (5, 1)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [len(line["highlights"]["saliency"]) for line in lines] == [4, 4, 4, 4, 0]
    assert_one_sentence(*run(capsys, "predict", rows, *options))


def test_a_trained_checkpoint_predicts_by_its_relevance(capsys, rows, tmp_path):
    code, said, _ = run(
        capsys, "predict", rows, "--task", "moment", "--model", TINY, "--out", tmp_path / "out.jsonl", "--json", "-"
    )
    assert code == 1
    assert json.loads(said)["moment"]["answered"] == 5


def test_a_checkpoint_that_draws_numbers_does_so_unless_a_format_or_the_flag_says_otherwise(checkpoint, monkeypatch):
    real, loaded = answering.load_answerer, []

    def load(*args, **kwargs):
        loaded.append(real(*args, **kwargs))
        loaded[-1].processor.video_processor.number_frames = True
        return loaded[-1]

    monkeypatch.setattr(answering, "load_answerer", load)
    commands = argparse.ArgumentParser().add_subparsers()
    cli_predict.add_command(commands)
    told = {(): True, ("--time-format", "text"): False, ("--time-format", "numbers"): True}
    for flags, drawn in {**told, ("--no-number-frames",): False}.items():
        cli_predict._finder(
            commands.choices["predict"].parse_args(["r.jsonl", "--model", checkpoint, "--out", "o", *flags])
        )
        assert loaded[-1].processor.video_processor.number_frames is drawn


def test_pictures_with_numbers_are_read_by_any_model(capsys, rows, models, encoder, tmp_path):  # noqa: F811
    options = ("--model", models["llava"], "--encoder", encoder, "--out", tmp_path / "out.jsonl", "-k", 3)
    code, said, _ = run(capsys, "predict", rows, "--task", "moment", *options, "--max-new-tokens", 4)
    assert code == 1
    assert "unparsed" in said
    assert_one_sentence(*run(capsys, "predict", rows, "--task", "moment", *options, "--time-format", "tokens"))


def found(said: GroundedText | None, spans=()) -> Found:
    spans = [Span(start, end, 0.5, start, score) for start, end, score in spans]
    return Found("?", spans, None, None, None, [], answer="...", said=said, unread=None if said else "it has no form")


def test_the_scores_are_those_of_what_was_read_and_an_unread_answer_scores_nothing(tmp_path):
    rows = [row(number, **TRUTH) for number in range(6)]
    tasks = ["moment", "moment", "highlights", "highlights", "dense_captions", "grounded_answer"]
    right = GroundedText(spans=[(2.0, 4.0)], captions=["it moves"], answer="A pale blue")
    read = [
        found(right, [(2.0, 4.0, 0.5), (6.0, 8.0, 0.5)]),
        found(None),
        found(GroundedText(highlights=[(3.0, 5.0)]), [(3.0, 3.0, 5.0)]),
        found(None),
        found(right, [(2.0, 3.0, 0.5)]),
        found(right, [(2.0, 4.0, 0.5)]),
    ]
    lines = [prediction_of(*one) for one in zip(rows, tasks, read, strict=True)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
    scores = score_predictions(tmp_path / "p.jsonl", rows, tasks)
    assert scores["moment"]["miou"] == scores["moment"]["r1@0.7"] == scores["moment"]["map"] == 0.5
    assert scores["moment"]["unparsed"] == scores["moment"]["no_windows"] == 1
    assert (scores["highlights"]["hit1_very_good"], scores["highlights"]["no_saliency"]) == (0.5, 1)
    # IoU 1/2 reaches .3 and .5 of the four thresholds
    assert scores["dense_captions"]["event_precision"] == scores["dense_captions"]["event_recall"] == 0.5
    assert (scores["grounded_answer"]["miou"], scores["grounded_answer"]["exact_match"]) == (1, 1)


def test_a_clips_saliency_is_that_of_the_group_on_screen_at_its_middle():
    # The next group's start is nearer to the middle than the own one's, but it is not yet on screen.
    seconds, values = np.arange(20) * 1.999, [number / 20 for number in range(20)]
    selection = Selection.from_indices(torch.tensor([3]), torch.from_numpy(seconds))
    curve = Found("?", [], selection, None, seconds, values)
    assert prediction_of(row(1, duration=40.0), "highlights", curve)["highlights"]["saliency"] == values


def test_events_of_captions_are_scored_both_ways():
    windows = [[0, 10, 1], [50, 60, 1]]
    scores = caption_scores([windows, []], [{"spans": [[0, 10], [20, 30], [40, 45]]}, {"spans": [[0, 1]]}])
    assert scores == pytest.approx({"event_precision": 0.25, "event_recall": 1 / 6, "unparsed": 1})


def test_bad_input_is_one_sentence(capsys, rows, checkpoint, tmp_path):
    out = ("--out", tmp_path / "out.jsonl")
    for arguments in (
        (rows, "--task", "moment", "--out", rows),
        (rows, "--task", "moment", "--out", tmp_path / "no" / "out.jsonl"),
        (rows, "--time-format", "text", *out),
        ("no-such-rows.jsonl", "--model", checkpoint, *out),
        (rows, "--task", "dense_captions", "--model", TINY, *out),
        (rows, "--task", "moment", "--model", TINY, "--time-format", "tokens", *out),
    ):
        assert_one_sentence(*run(capsys, "predict", *arguments))


def test_rows_that_ask_for_no_times_are_refused(capsys, checkpoint, tmp_path):
    path = write_rows(tmp_path, [row(0)])
    code, _, err = run(capsys, "predict", path, "--model", checkpoint, "--out", tmp_path / "out.jsonl")
    assert code == 2
    assert "1 of 1 rows ask for no times (answer_type 'open' of 'q0')" in err
