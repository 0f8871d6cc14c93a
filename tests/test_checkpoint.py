"""The embedded checkpoint: small, real, loadable anywhere, and it answers alike by every way in."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from strangers import in_a_strangers_process

from ntlbg.configuration.remote_code_ntlbg import save_remote_code
from ntlbg.data.questions import KINDS, make_questions
from ntlbg.data.world import build_video, split_seed
from ntlbg.data.world_video import write_video
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.selection.answering import load_answerer


TINY = Path(__file__).parents[1] / "checkpoints" / "ntlbg-tiny"


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """One unseen video as a file, and its questions."""
    spec = build_video(split_seed("test", 5000), 256)
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_video(spec, path)
    return path, make_questions(spec, np.random.default_rng(0), kinds=KINDS)


def test_the_checkpoint_is_small_and_complete():
    files = {path.name: path.stat().st_size for path in TINY.iterdir()}
    assert sum(files.values()) <= 8_000_000
    assert {"model.safetensors", "config.json", "processor_config.json", "tokenizer.json", "README.md"} <= set(files)
    config = json.loads((TINY / "config.json").read_text())
    assert config["base_config"]["model_type"] == "qwen2_vl"
    assert config["selector_trained"] is True


def test_its_code_is_todays_code(tmp_path):
    """What travels with it is what `save_pretrained` would write now."""
    names = {*save_remote_code(NTLBGForConditionalGeneration, tmp_path), *save_remote_code(NTLBGProcessor, tmp_path)}
    stale = [name for name in names if (TINY / name).read_text() != (tmp_path / name).read_text()]
    assert not stale, f"{stale} are not today's; see ntlbg/training/tiny_package.py"
    assert names == {path.name for path in TINY.glob("*.py")}


def test_its_card_has_the_figures_that_were_measured_and_no_others():
    measured = json.loads((TINY.parents[1] / "docs" / "benchmarks" / "frames.json").read_text())
    results = ModelCard.load(TINY / "README.md").data.eval_results
    assert {result.dataset_config: result.metric_value for result in results} == measured["selectors"]["ntlbg"]["8"][
        "accuracy"
    ]
    assert all(result.dataset_args["k"] == 8 for result in results)
    assert f"`{measured['command']}`" in (TINY / "README.md").read_text()


def test_it_answers_most_questions_of_an_unseen_video(filmed):
    path, questions = filmed
    opened = load_answerer(str(TINY), device="cpu", max_new_tokens=8).open(path)
    answers = [opened.ask(question.text, 8) for question in questions]
    right = sum(answer.text == question.answer for answer, question in zip(answers, questions, strict=True))
    assert right >= len(questions) - 1
    found = answers[KINDS.index("retrieve")].selection
    (start, end) = questions[KINDS.index("retrieve")].spans[0]
    assert any(start - 1 <= second < end for second in found.timestamps.tolist())


def test_a_stranger_and_the_command_line_give_the_same_answer(filmed, tmp_path):
    path, questions = filmed
    question = questions[0].text
    seen = in_a_strangers_process(TINY, path, tmp_path, question=question, k=8)
    command = [sys.executable, "-m", "ntlbg", "ask", path, question, "--model", TINY, "-k", "8", "--json", "-"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    answer = json.loads(result.stdout)["answers"][0]
    assert seen["modules"] == ["transformers_modules"]
    assert answer["answer"] == seen["text"]
    assert answer["selection"]["indices"] == seen["indices"]
    torch.testing.assert_close(answer["selection"]["timestamps"], seen["seconds"])
