"""train.py teaches times in each format, evaluates them by generation, and saves a model that knows what it learnt."""

import json

import pytest
import torch
from qa_parts import row, tiny_processor, write_rows
from tiny_models import tiny_model
from train_parts import losses, run_here
from transformers import AutoModelForImageTextToText, AutoProcessor

from ntlbg.grounding.time_tokens import time_tokens


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """Four moments, one ordinary question."""
    folder = tmp_path_factory.mktemp("rows")
    rows = [row(i, spans=[[i, i + 2.0]], answer_type="moment") for i in range(4)]
    return write_rows(folder, [*rows, row(4)])


def saved(folder, **kwargs) -> str:
    processor = tiny_processor()
    model = tiny_model("qwen2_vl", processor.tokenizer, num_representatives=3, **kwargs)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("time_format", ["numbers", "text"])
def test_moments_and_questions_are_trained_together_and_scored_by_generation(time_format, data, tmp_path):
    code = run_here(
        model_name_or_path=saved(tmp_path / "model"),
        dataset=data,
        eval_dataset=data,
        output_dir=tmp_path / "run",
        time_format=time_format,
        number_frames=time_format == "numbers",
        stage="joint",
        max_steps=1,
        predict_with_generate=True,
    )
    assert code == 0
    scores = json.loads((tmp_path / "run" / "summary.json").read_text())["scores"]
    assert (scores["answered"], scores["grounded"], scores["unanswered"]) == (5, 4, 0)
    assert 0 <= scores["parse_failures"] <= 4
    assert {"miou", "r1@0.3", "r1@0.5", "r1@0.7", "exact_match"} <= scores.keys()
    assert AutoProcessor.from_pretrained(tmp_path / "run").video_processor.number_frames == (time_format == "numbers")


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_with_adapters_time_tokens_learn_and_are_saved_with_the_model(tied, data, tmp_path):
    begun = saved(tmp_path / "model", tie_word_embeddings=tied)
    settings = {
        "model_name_or_path": begun,
        "dataset": data,
        "time_format": "tokens",
        "stage": "joint",
        "lora_r": 2,
        "lr_scheduler_type": "constant",
        "loss_schedule": "constant",
        "save_steps": 1,
    }
    assert run_here(output_dir=tmp_path / "run", max_steps=2, **settings) == 0
    before = AutoModelForImageTextToText.from_pretrained(begun)
    after = AutoModelForImageTextToText.from_pretrained(tmp_path / "run")
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "run").tokenizer
    ids, size = tokenizer.convert_tokens_to_ids(time_tokens()), before.get_input_embeddings().weight.shape[0]
    assert ids == list(range(size, size + 302))
    assert (after.get_output_embeddings().weight is after.get_input_embeddings().weight) == tied
    for name in ("get_input_embeddings", "get_output_embeddings"):
        old, new = getattr(before, name)().weight, getattr(after, name)().weight
        assert torch.equal(new[:size], old), name
        # <0> of the first moment was asked for, so its row is no longer the mean that it began with
        assert (new[ids[0]] - old.mean(dim=0)).abs().max() > 1e-4, name
    # a run that is taken up goes on from the rows that had learnt, as one that never stopped
    assert run_here(output_dir=tmp_path / "run", max_steps=3, resume_from_checkpoint="auto", **settings) == 0
    assert run_here(output_dir=tmp_path / "whole", max_steps=3, **settings) == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    assert "| time format | tokens |" in (tmp_path / "whole" / "README.md").read_text()


def test_a_task_without_a_format_is_one_sentence(data, tmp_path, capsys):
    for wrong, said in (
        ({"grounding_task": "moment"}, "nothing says how times are written"),
        ({"time_format": "seconds"}, "`time_format` should be one of numbers, tokens, text"),
    ):
        assert run_here(dataset=data, output_dir=tmp_path, **wrong) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
